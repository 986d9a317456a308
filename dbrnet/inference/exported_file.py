"""What an exported file says of itself, checked before any runtime is given it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.inference.export import LOGITS, PRODUCER

INPUTS = {"image": onnx.TensorProto.UINT8}
OUTPUTS = {"mask": onnx.TensorProto.UINT8, "confidence": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that `dbrnet export` wrote: its bytes, and its metadata as text."""

    path: Path
    data: bytes
    metadata: dict[str, str]
    classes: tuple[ClassInfo, ...]

    @property
    def precision(self) -> str:
        """ "fp32" or "int8"."""
        return self.metadata.get("precision", "fp32")

    def with_logits(self) -> Self:
        """The same with the logits as a third output, which the graph computes anyway."""
        model = onnx.ModelProto.FromString(self.data)
        model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
        return replace(self, data=model.SerializeToString())


def read_exported(path: Path) -> ExportedFile:
    """Read `path`; `UserError` where it is missing, broken, belies itself or is not an export of ours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    broken = UserError(f"{path}: not a readable ONNX file; export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError):
        raise broken from None
    if model.producer_name != PRODUCER:
        raise UserError(f"{path}: an ONNX file, but not one that `dbrnet export` wrote; export the model")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        classes = tuple(ClassInfo(str(item["name"]), tuple(item["color"])) for item in json.loads(metadata["classes"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: it does not say which classes it knows; export the model again") from None
    _require_answers(path, model.graph)
    _require_finite(path, model.graph)
    channels = _logit_channels(model)
    if channels is not None and channels != len(classes):
        raise UserError(
            f"{path}: it names {len(classes)} classes and its network tells {channels} apart; export the model again"
        )
    return ExportedFile(path, data, metadata, classes)


def _require_answers(path: Path, graph: onnx.GraphProto) -> None:
    """Its input and its answer are named and typed as `export_onnx` writes them."""
    for values, wanted in ((graph.input, INPUTS), (graph.output, OUTPUTS)):
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        if found != wanted:
            raise UserError(
                f"{path}: its inputs and outputs are not those that `dbrnet export` writes "
                f"({', '.join(found) or 'none'} in place of {', '.join(wanted)}, or of other types); "
                "export the model again"
            )


def _require_finite(path: Path, graph: onnx.GraphProto) -> None:
    """A damaged weight would answer "no defects" with a confidence of nan."""
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:  # nothing of ours, nor to be read unasked
            raise UserError(f"{path}: {tensor.name} lies in another file; export the model again")
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError):
            raise UserError(f"{path}: {tensor.name} is damaged; export the model again") from None
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"{path}: {tensor.name} holds values that are not finite; export the model again")


def _logit_channels(model: onnx.ModelProto) -> int | None:
    """How many classes the logits have, where the graph tells."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in inferred.value_info:
        dimensions = value.type.tensor_type.shape.dim
        if value.name == LOGITS and len(dimensions) == 4 and dimensions[1].HasField("dim_value"):
            return int(dimensions[1].dim_value)
    return None
