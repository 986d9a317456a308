"""The same network with fewer operations, for the exported graph: optimisations that runtimes leave undone.

Every change is exact except for rounding; tests compare the logits with those of the trained network.

- Batch norms are folded into the convolutions before them. Those in front of a convolution (after a pool, a sum or a
  concatenation) have no convolution to go into, and stay.
- LFEM's two halves become one: the 3x3 kernels are padded to 5x5, so that one depth-wise convolution filters all
  channels. The channel shuffle becomes the order of the weights before it. Split, shuffle and concatenation would make
  runtimes copy between memory layouts.
- Normalisation becomes one subtraction: its scale goes into the weights of the first convolution. The shift must stay,
  since the zeros of the padding stand for the average image.
- The logits are resized to the image by products with two matrices of bilinear weights: OpenVINO's own resizing of a
  map with few channels costs as much as ten convolutions.
"""

import copy
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dbrnet.models.blocks import LFEM, LFEMDown, shuffle_channels
from dbrnet.models.dbrnet import DBRNet


def fuse(model: DBRNet, scale: Tensor) -> DBRNet:
    """A copy of `model` in eval mode that takes images before they are multiplied by `scale` [3, 1, 1].

    The copy has no auxiliary head.
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


def resize_by_products(x: Tensor, *sizes: torch.Size) -> Tensor:
    """Resize [N, C, h, w] bilinearly to each of `sizes` in turn, in one step: [N, C, H, W] of the last one."""
    height, width = x.shape[-2:]
    rows, columns = _interpolation(height, sizes[0][0]), _interpolation(width, sizes[0][1])
    for before, after in pairwise(sizes):
        rows = _interpolation(before[0], after[0]) @ rows
        columns = _interpolation(before[1], after[1]) @ columns
    return rows @ (x @ columns.T)


def _interpolation(inputs: int, outputs: int) -> Tensor:
    """The weights [outputs, inputs] of linear interpolation, as `F.interpolate` without aligned corners."""
    place = ((torch.arange(outputs) + 0.5) * (inputs / outputs) - 0.5).clamp(0, inputs - 1)
    return (1 - (place[:, None] - torch.arange(inputs)).abs()).clamp_min(0)


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
