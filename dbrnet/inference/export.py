"""From a trained network to one ONNX file: the image in, the answer out.

Normalisation, resizing, the choice of the class and its confidence are in the graph, so that whoever runs
the file needs none of this code. The auxiliary head is gone and batch norms are folded into the
convolutions before them (the exporter's optimiser does it); those in front of a convolution, as everywhere
in the context module after a pool, a sum or a concatenation, have no convolution to go into and stay.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
from itertools import accumulate
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dbrnet
from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.exposure import normalise_exposure_batch
from dbrnet.files import write_atomically
from dbrnet.inference.fuse import fuse, resize_by_products
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

PRODUCER = "dbrnet"
LOGITS = "logits"  # the tensor in the graph from which the answer follows
OPSET = 18  # PyTorch's exporter writes none below, and above 18 GridSample and Resize are less well supported
CONVENTION = f"image: uint8 [N, H, W, 3] RGB, both sides from {MINIMUM_SIDE} up; normalisation is in the graph"
# Tracing takes a size at which every map, pooled ones too, is larger than 1x1: PyTorch writes a side that is
# 1 in the example down as a constant, and it is longer in larger images.
EXAMPLE_SIZE = (1159, 1403)
TRACED_SIDE = 257  # from here on no map is 1 long; the graph holds below it too, and tracing asks but once


class DeployedModel(nn.Module):
    """A trained network with everything around it: images uint8 RGB [N, H, W, 3] to answers.

    Where the network was trained at a fixed size, images are resized to it bilinearly and the logits back
    to the image's own size. The network is copied, without its auxiliary head, in evaluation mode;
    `fused`: in the form that is made for speed (`fusing.fuse`).
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

    def answer(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Class ids uint8 [N, H, W], and the chosen class's softmax probability float32 [N, H, W].

        Written out class by class: whole maps, one after the other, are what runtimes are fast at, and
        reductions over a short axis what they are slow at (a third of OpenVINO's time, before).
        """
        scores = logits.unbind(1)
        *before, best = accumulate(scores, torch.maximum)  # before[k]: the highest of the first k + 1 classes
        # The first class to reach the highest score has as many before it as lie below that score.
        mask = reduce(torch.add, ((best > highest).to(torch.uint8) for highest in before))
        # The highest softmax value: 1 / sum(exp(logit - highest logit)).
        total = reduce(torch.add, ((score - best).exp() for score in scores))
        return mask, total.reciprocal()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The images' class ids and confidence, and the logits that they follow from."""
        logits = self.logits(image)
        return *self.answer(logits), logits


def export_onnx(model: DBRNet, meta: ModelMeta, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the network to `path` as one self-contained ONNX file, atomically.

    The graph takes `image`, uint8 RGB [batch, height, width, 3], and gives `mask`, uint8, and `confidence`,
    float32, both [batch, height, width]; batch and size are free, from 32x32 up. The file's metadata holds
    `classes` (JSON: names and colours), `input`, `normalised`, `mean`, `std`, `image_size`, and what
    `metadata` adds.
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
    del graph.graph.output[2]  # the tensor keeps its name, by which parity asks for it
    graph.producer_name = PRODUCER
    graph.producer_version = dbrnet.__version__
    onnx.helper.set_model_props(graph, _metadata(meta) | dict(metadata))
    onnx.checker.check_model(graph, full_check=True)
    write_atomically(path, graph.SerializeToString(deterministic=True))


def count_batch_norms(path: Path) -> int:
    """How many batch norms are left in an exported file: those with no convolution before them."""
    graph = onnx.load_model(path).graph
    return sum(node.op_type == "BatchNormalization" for node in graph.node)


def _metadata(meta: ModelMeta) -> dict[str, str]:
    return {
        "classes": json.dumps([asdict(info) for info in meta.classes]),
        "input": CONVENTION,
        "normalised": json.dumps(meta.normalised),
        "mean": json.dumps(meta.mean),
        "std": json.dumps(meta.std),
        "image_size": json.dumps(meta.image_size),
    }


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove what tells of the exporting machine (stack traces with its paths) and shapes as traced.

    Without the intermediate shapes a runtime infers its own, which hold where a map shrinks to 1x1 too.
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
    """Silence the exporter's remarks on packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
