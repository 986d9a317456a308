"""The exported ONNX file: images in, class ids and confidence out; written from a trained network, and read back.

Normalisation, resizing, the choice of the class and its confidence are in the graph, so that running the file needs
none of this code. The auxiliary head is left out, and batch norms are folded into the convolutions before them. Those
in front of a convolution, as in the context module after a pool, a sum or a concatenation, stay.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from torch import Tensor, nn

import dbrnet
from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import ClassInfo
from dbrnet.data.loading import normalise_exposure_batch
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.inference.fuse import fuse, resize_by_products
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

PRODUCER = "dbrnet"
INPUTS = {"image": onnx.TensorProto.UINT8}
OUTPUTS = {"mask": onnx.TensorProto.UINT8, "confidence": onnx.TensorProto.FLOAT}
LOGITS = "logits"  # the tensor in the graph that both outputs follow from
OPSET = 18  # PyTorch's exporter writes none below, and runtimes support GridSample and Resize less well above
CONVENTION = f"image: uint8 [N, H, W, 3] RGB, both sides from {MINIMUM_SIDE} up; normalisation is in the graph"
# Tracing needs a size at which every map, pooled ones too, is larger than 1x1: PyTorch takes a side that is 1 in the
# example for a constant, and it is longer in larger images.
EXAMPLE_SIZE = (1159, 1403)
TRACED_SIDE = 257  # no map is 1 long from here on; the graph is right below it too, which tests show


class DeployedModel(nn.Module):
    """A trained network with its pre- and postprocessing: images uint8 RGB [N, H, W, 3] to class ids and confidence.

    Where the network was trained at a fixed size, images are resized to it bilinearly, and the logits back to the
    image's own size. The network is copied without its auxiliary head, in eval mode. `fused`: with fewer operations
    (`fuse.fuse`).
    """

    average: Tensor
    scale: Tensor

    def __init__(self, model: DBRNet, meta: ModelMeta, *, fused: bool = False) -> None:
        super().__init__()
        mean, std = torch.tensor(meta.mean), torch.tensor(meta.std)
        self.register_buffer("average", (255 * mean)[:, None, None])
        self.register_buffer("scale", (1 / (255 * std))[:, None, None])
        if fused:
            self.network = fuse(model, self.scale)
        else:
            self.network = copy.deepcopy(model).cpu().float()
            del self.network.auxiliary_head
        self.fused = fused
        self.image_size = meta.image_size
        self.normalised = meta.normalised
        self.eval()

    def logits(self, image: Tensor) -> Tensor:
        """Logits [N, C, H, W] at the images' own size."""
        size = image.shape[1:3]
        x = image.permute(0, 3, 1, 2).float()
        if self.normalised:
            x = normalise_exposure_batch(x)
        if self.image_size is not None:
            x = F.interpolate(x, size=self.image_size, mode="bilinear", align_corners=False)
        x = x - self.average
        if self.fused:
            sizes = [size] if self.image_size is None else [torch.Size(self.image_size), size]
            return resize_by_products(self.network.logits_at_stride_8(x), *sizes)
        logits = self.network(x * self.scale)
        if self.image_size is not None:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits

    def classify(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Class ids uint8 [N, H, W], and the chosen class's softmax probability float32 [N, H, W].

        Written class by class: runtimes are fast at whole maps, and slow at reductions over a short axis, which took a
        third of OpenVINO's time.
        """
        scores = logits.unbind(1)
        *before, best = accumulate(scores, torch.maximum)  # before[k]: the highest of the first k + 1 classes
        # The first class to reach the highest score has as many before it as lie below that score.
        mask = reduce(torch.add, ((best > highest).to(torch.uint8) for highest in before))
        # The highest softmax value: 1 / sum(exp(logit - highest logit)).
        total = reduce(torch.add, ((score - best).exp() for score in scores))
        return mask, total.reciprocal()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The class ids and confidence of images uint8 [N, H, W, 3], and the logits that they follow from."""
        logits = self.logits(image)
        return *self.classify(logits), logits


def export_onnx(model: DBRNet, meta: ModelMeta, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the network to `path` as one self-contained ONNX file, atomically.

    The graph takes `image`, uint8 RGB [batch, height, width, 3], and gives `mask`, uint8, and `confidence`, float32,
    both [batch, height, width]. Batch and size are free, from 32x32 up. The file's metadata holds `classes` (JSON:
    names and colours), `input`, `normalised`, `mean`, `std`, `image_size`, and the entries of `metadata`.
    """
    dimension = torch.export.Dim
    height, width = (dimension(name, min=TRACED_SIDE) for name in ("height", "width"))
    with _quiet():
        program = torch.onnx.export(
            DeployedModel(model, meta, fused=True),
            (torch.zeros(2, *EXAMPLE_SIZE, 3, dtype=torch.uint8),),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["mask", "confidence", LOGITS],
            dynamic_shapes={"image": {0: dimension("batch"), 1: height, 2: width}},
            verbose=False,
        )
    if program is None:  # only torch's other exporter returns None
        raise TypeError("torch.onnx.export returned no program")
    graph = program.model_proto
    _strip_traces(graph)
    del graph.graph.output[2]  # the tensor keeps its name, by which `with_logits` makes it an output again
    graph.producer_name = PRODUCER
    graph.producer_version = dbrnet.__version__
    own = {
        "classes": json.dumps([asdict(info) for info in meta.classes]),
        "input": CONVENTION,
        "normalised": json.dumps(meta.normalised),
        "mean": json.dumps(meta.mean),
        "std": json.dumps(meta.std),
        "image_size": json.dumps(meta.image_size),
    }
    onnx.helper.set_model_props(graph, own | dict(metadata))
    onnx.checker.check_model(graph, full_check=True)
    write_atomically(path, graph.SerializeToString(deterministic=True))


def count_batch_norms(path: Path) -> int:
    """The number of batch norms left in an exported file: those with no convolution before them."""
    graph = onnx.load_model(path).graph
    return sum(node.op_type == "BatchNormalization" for node in graph.node)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove stack traces, which hold paths of the exporting machine, and shapes as traced.

    Without the intermediate shapes a runtime infers its own, which are also right where a map shrinks to 1x1.
    """
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that `dbrnet export` wrote, checked: its bytes, and its metadata as text."""

    path: Path
    data: bytes
    metadata: dict[str, str]
    classes: tuple[ClassInfo, ...]

    @property
    def precision(self) -> str:
        """ "fp32" or "int8"."""
        return self.metadata.get("precision", "fp32")

    def with_logits(self) -> Self:
        """The same file with the logits, which the graph computes anyway, as a third output."""
        model = onnx.ModelProto.FromString(self.data)
        model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
        return replace(self, data=model.SerializeToString())


def read_exported(path: Path) -> ExportedFile:
    """Read and check `path`, before any runtime is given it.

    Raises `UserError` where it is missing, broken, not written by `export_onnx`, or its metadata contradicts its graph.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError):
        raise UserError(f"{path}: not a readable ONNX file; export the model again") from None
    if model.producer_name != PRODUCER:
        raise UserError(f"{path}: an ONNX file, but not one that `dbrnet export` wrote; export the model")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        classes = tuple(ClassInfo(str(item["name"]), tuple(item["color"])) for item in json.loads(metadata["classes"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: it does not say which classes it knows; export the model again") from None
    _require_interface(path, model.graph)
    _require_finite(path, model.graph)
    channels = _logit_channels(model)
    if channels is not None and channels != len(classes):
        raise UserError(
            f"{path}: it names {len(classes)} classes and its network tells {channels} apart; export the model again"
        )
    return ExportedFile(path, data, metadata, classes)


def _require_interface(path: Path, graph: onnx.GraphProto) -> None:
    """Raise where inputs and outputs do not have the names and types that `export_onnx` writes."""
    for values, wanted in ((graph.input, INPUTS), (graph.output, OUTPUTS)):
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        if types != wanted:
            raise UserError(
                f"{path}: its inputs and outputs are not those that `dbrnet export` writes "
                f"({', '.join(types) or 'none'} in place of {', '.join(wanted)}, or of other types); "
                "export the model again"
            )


def _require_finite(path: Path, graph: onnx.GraphProto) -> None:
    """Raise for a damaged weight: the network would predict no defects, with a confidence of NaN."""
    for tensor in graph.initializer:
        if (
            tensor.data_location == onnx.TensorProto.EXTERNAL
        ):  # export never writes this, and the path may lead anywhere
            raise UserError(f"{path}: {tensor.name} lies in another file; export the model again")
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError):
            raise UserError(f"{path}: {tensor.name} is damaged; export the model again") from None
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"{path}: {tensor.name} holds values that are not finite; export the model again")


def _logit_channels(model: onnx.ModelProto) -> int | None:
    """The number of classes of the logits, where shape inference gives it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in inferred.value_info:
        dimensions = value.type.tensor_type.shape.dim
        if value.name == LOGITS and len(dimensions) == 4 and dimensions[1].HasField("dim_value"):
            return int(dimensions[1].dim_value)
    return None
