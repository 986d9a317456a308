"""The exported ONNX file: images in, class ids and confidence out; written from a trained network.

Normalisation, resizing, the choice of the class and its confidence are in the graph, so that running the file needs
none of this code. The auxiliary head is left out, and the network has fewer operations than in training (`fuse`).
"""

import copy
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import cast

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import dbrnet
from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.loading import normalise_exposure_batch, zoomed_size
from dbrnet.files import write_atomically
from dbrnet.inference.runtimes.exported import INPUTS, LOGITS, OUTPUTS, PRODUCER
from dbrnet.models.blocks import LFEM, LFEMDown, shuffle_channels
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

OPSET = 18  # PyTorch's exporter writes none below, and runtimes support GridSample and Resize less well above
CONVENTION = f"image: uint8 [N, H, W, 3] RGB, both sides from {MINIMUM_SIDE} up; normalisation is in the graph"
# Tracing needs a size at which every map, pooled ones too, is larger than 1x1: PyTorch takes a side that is 1 in the
# example for a constant, and it is longer in larger images.
EXAMPLE_SIZE = (1159, 1403)
TRACED_SIDE = 257  # no map is 1 long from here on; the graph is right below it too, which tests show

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about the same packages


class DeployedModel(nn.Module):
    """A trained network with its pre- and postprocessing: images uint8 RGB [N, H, W, 3] to class ids and confidence.

    Images are resized by the factor that the network was trained with, bilinearly, and the logits back to the image's
    own size. The network is copied without its auxiliary head, in eval mode. `fused`: with fewer operations
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
        self.zoom = meta.zoom
        self.normalised = meta.normalised
        self.eval()

    def logits(self, image: Tensor) -> Tensor:
        """Logits [N, C, H, W] at the images' own size."""
        size = image.shape[1:3]
        x = image.permute(0, 3, 1, 2).float()
        if self.normalised:
            x = normalise_exposure_batch(x)
        zoomed = torch.Size(zoomed_size(size[0], size[1], self.zoom))
        if self.zoom != 1:
            x = F.interpolate(x, size=zoomed, mode="bilinear", align_corners=False)
        x = x - self.average
        if self.fused:
            sizes = [size] if self.zoom == 1 else [zoomed, size]
            return self.network.enlarge_logits(self.network.logits_at_stride_8(x), *sizes)
        logits = self.network(x * self.scale)
        if self.zoom != 1:
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


def fuse(model: DBRNet, scale: Tensor) -> DBRNet:
    """A copy of `model` with fewer operations, in eval mode: optimisations that runtimes leave undone.

    It has no auxiliary head, and takes images before they are multiplied by `scale` [3, 1, 1]. Every change is exact
    except for rounding; tests compare the logits with those of the trained network.

    - Batch norms are folded into the convolutions before them. Those in front of a convolution (after a pool, a sum or
      a concatenation) have no convolution to go into, and stay.
    - LFEM's two halves become one: the 3x3 kernels are padded to 5x5, so that one depth-wise convolution filters all
      channels. The channel shuffle becomes the order of the weights before it. Split, shuffle and concatenation would
      make runtimes copy between memory layouts.
    - Normalisation becomes one subtraction: its scale goes into the weights of the first convolution. The shift must
      stay, since the zeros of the padding stand for the average image.
    """
    fused = copy.deepcopy(model).cpu().float().eval()
    del fused.auxiliary_head
    _fold_batch_norms(fused)
    for name, stage in fused.named_children():
        if isinstance(stage, nn.Sequential) and isinstance(stage[-1], LFEM):
            setattr(fused, name, _merge_stage(*stage))
    first = _convolution(fused.stem[0])
    first.weight = nn.Parameter(first.weight * scale)
    return fused.requires_grad_(False)


class MergedLFEM(nn.Module):
    """An LFEM whose halves are filtered together and whose shuffle is in the order of the weights."""

    def __init__(self, expand: nn.Conv2d, filters: nn.Conv2d, join: nn.Conv2d, final: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(expand, nn.ReLU(inplace=True), filters, nn.ReLU(inplace=True), join)
        self.final = final

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W], already shuffled, to the same shape."""
        return self.final(self.body(x) + x)


def _merge_stage(down: LFEMDown, block: LFEM) -> nn.Sequential:
    """The stage with the shuffle moved before the sum, into the weights that both summands come from."""
    expand, join = _convolution(block.expand[0]), _convolution(block.join[-1])
    order = shuffle_channels(torch.arange(join.out_channels).view(1, -1, 1, 1)).flatten()
    for summand in (_convolution(down.body[-1]), _convolution(down.residual[-1]), join):  # type: ignore[index]
        summand.weight = nn.Parameter(summand.weight[order])
        summand.bias = nn.Parameter(cast(Tensor, summand.bias)[order])
    expand.weight = nn.Parameter(expand.weight[:, order])
    # One 5x5 depth-wise convolution for the 3x3 of the near half and the 5x5 of the far half.
    near, far = _convolution(block.local[0]), _convolution(block.wide[0])
    channels = near.out_channels + far.out_channels
    filters = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
    filters.weight = nn.Parameter(torch.cat((F.pad(near.weight, (1, 1, 1, 1)), far.weight)))
    filters.bias = nn.Parameter(torch.cat((cast(Tensor, near.bias), cast(Tensor, far.bias))))
    return nn.Sequential(down, MergedLFEM(expand, filters, join, block.final))


def _fold_batch_norms(network: nn.Module) -> None:
    for module in list(network.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        layers: list[nn.Module] = []
        for layer in module:
            if isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Conv2d):
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
            else:
                layers.append(layer)
        del module[:]
        module.extend(layers)


def _convolution(module: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, module)


def export_onnx(model: DBRNet, meta: ModelMeta, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the network to `path` as one self-contained ONNX file, atomically.

    The graph takes `image`, uint8 RGB [batch, height, width, 3], and gives `mask`, uint8, and `confidence`, float32,
    both [batch, height, width]. Batch and size are free, from 32x32 up. The file's metadata holds `classes` (JSON:
    names and colours), `input`, `normalised`, `mean`, `std`, `zoom`, and the entries of `metadata`.
    """
    dimension = torch.export.Dim
    height, width = (dimension(name, min=TRACED_SIDE) for name in ("height", "width"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about packages that are not needed here
        program = torch.onnx.export(
            DeployedModel(model, meta, fused=True),
            (torch.zeros(2, *EXAMPLE_SIZE, 3, dtype=torch.uint8),),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[*INPUTS],
            output_names=[*OUTPUTS, LOGITS],
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
        "zoom": json.dumps(meta.zoom),
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
