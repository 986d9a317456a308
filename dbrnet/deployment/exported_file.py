"""What an exported file says of itself, checked before any runtime is given it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from dbrnet.data.dataset import ClassInfo
from dbrnet.deployment.export import LOGITS, PRODUCER
from dbrnet.errors import UserError


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
    """Read `path`; `UserError` where it is missing, broken or not an export of ours."""
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
        classes = tuple(
            ClassInfo(str(item["name"]), tuple(item["color"])) for item in json.loads(metadata["classes"])
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: it does not say which classes it knows; export the model again") from None
    return ExportedFile(path, data, metadata, classes)
