"""Bringing the semantic branch's 1/16 map into the detail branch's 1/8 map: the paper's AFFM, and the
baseline's plain bilinear fusion.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.models.blocks import BatchNorm, conv1x1, conv3x3

Flow = Literal["aligned", "released"]


def warp(features: Tensor, flow: Tensor, reading: Flow = "aligned") -> Tensor:
    """Sample `features` [N, C, h, w] at the pixels of `flow` [N, 2, H, W] moved by it; gives [N, C, H, W].

    The flow's two channels are x and y, in half pixels of the flow's own map (SFNet's unit).

    `reading`:
    - "aligned": the grid lies on pixel centres and outside counts as the border, so that zero flow is
      exactly bilinear resizing (the identity where both maps have one size).
    - "released": as the authors' code does. x is divided by H and y by W, which is wrong on all but
      squares, and a grid from corner to corner is sampled as if it lay on centres, with zeros outside, so
      that zero flow blurs and darkens the edges. It is there to check against their outputs.

    The grid is laid out on the features' own device, in at least float32: in half precision it would be
    off by up to .05 pixels on a map 200 wide.
    """
    height, width = flow.shape[-2:]
    dtype = torch.promote_types(features.dtype, torch.float32)
    columns = torch.arange(width, device=features.device, dtype=dtype)
    rows = torch.arange(height, device=features.device, dtype=dtype)[:, None]
    if reading == "aligned":
        x = (2 * columns + 1 + flow[:, 0]) / width - 1
        y = (2 * rows + 1 + flow[:, 1]) / height - 1
        padding = "border"
    else:
        x = 2 * columns / (width - 1) - 1 + flow[:, 0] / height
        y = 2 * rows / (height - 1) - 1 + flow[:, 1] / width
        padding = "zeros"
    grid = torch.stack((x, y), dim=-1)
    sampled = F.grid_sample(features.to(dtype), grid, padding_mode=padding, align_corners=False)
    return sampled.to(features.dtype)


def compression(semantic: int, detail: int) -> nn.Sequential:
    """The 1x1 convolution and BN that bring the semantic map to the detail branch's channels."""
    return nn.Sequential(conv1x1(semantic, detail), BatchNorm(detail))


class AFFM(nn.Module):
    """Attention Flow-semantic Fusion Module (section 2.2, eq. 1, Fig. 3).

    The pooled semantic map weights the detail map's channels (no sigmoid, as in eq. 1), and the semantic
    map itself, compressed, is added where a learnt flow says that it belongs.
    """

    def __init__(self, semantic: int, detail: int, flow: Flow = "aligned") -> None:
        super().__init__()
        self.reading: Flow = flow
        self.compress = compression(semantic, detail)
        self.attention = conv1x1(semantic, detail, bias=True)
        self.contrast_semantic = conv1x1(detail, detail // 2)
        self.contrast_detail = conv1x1(detail, detail // 2)
        self.flow = conv3x3(detail, 2)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """[N, detail, H, W] and [N, semantic, ceil(H / 2), ceil(W / 2)] to [N, detail, H, W]."""
        weight = self.attention(semantic.mean((2, 3), keepdim=True))
        compressed = self.compress(semantic)
        contrast = F.interpolate(
            self.contrast_semantic(compressed),
            size=detail.shape[-2:],
            mode="bilinear",
            align_corners=self.reading == "released",
        )
        flow = self.flow(torch.cat((contrast, self.contrast_detail(detail)), dim=1))
        return weight * detail + warp(compressed, flow, self.reading)


class BilinearFusion(nn.Module):
    """The baseline's fusion (DDRNet): compress the semantic map, resize it, add it."""

    def __init__(self, semantic: int, detail: int) -> None:
        super().__init__()
        self.compress = compression(semantic, detail)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """[N, detail, H, W] and [N, semantic, ceil(H / 2), ceil(W / 2)] to [N, detail, H, W]."""
        compressed = self.compress(semantic)
        return detail + F.interpolate(compressed, size=detail.shape[-2:], mode="bilinear", align_corners=False)
