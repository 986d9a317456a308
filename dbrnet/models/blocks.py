"""The blocks of DBRNet: LFEM, AFFM and DCPPM of the paper, their counterparts in the baseline, and what both share.

Shapes are [N, C, H, W] throughout. A block's final ReLU can be left to the next stage (`final_relu=False`): the last
block of a two-block stage hands on its sum as it is, as in DDRNet.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Alignment = Literal["exact", "released"]  # where maps of two resolutions meet, see `enlarge` and `warp`
Process = Literal["pointwise", "depthwise"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel.

    A batch of one image leaves one value per channel after global pooling, and below 64 pixels a side on the whole
    1/32 map. One value has no variance: its batch statistics would turn every feature into zero, and PyTorch refuses
    them. In that case the running statistics normalise, and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class DepthwiseConv(nn.Conv2d):
    """A padded convolution of each channel by its own kernel, without a bias.

    Under autocast it stays in float32 on a CPU: oneDNN's backward pass in bfloat16 takes up to twenty times as long.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter [N, channels, H, W]; `stride` 2 turns a side of n pixels into ceil(n / 2)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def conv3x3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A padded 3x3 convolution: `stride` 2 turns a side of n pixels into ceil(n / 2)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def conv1x1(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=bias)


def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution and its BN."""
    return [convolution, BatchNorm(convolution.out_channels)]


def activated(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution, its BN and a ReLU."""
    return [*normalised(convolution), nn.ReLU(inplace=True)]


def preactivated(convolution: nn.Conv2d) -> list[nn.Module]:
    """BN and ReLU before the convolution, as everywhere in the context modules and the heads."""
    return [BatchNorm(convolution.in_channels), nn.ReLU(inplace=True), convolution]


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The residual path of a block: the identity where shapes allow it, else a strided 1x1 conv and BN."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*normalised(conv1x1(inputs, outputs, stride)))


def shuffle_channels(x: Tensor, groups: int = 2) -> Tensor:
    """Interleave `groups` equal runs of channels (ShuffleNet): [N, C, H, W] to [N, C, H, W]."""
    if x.is_contiguous(memory_format=torch.channels_last):  # stays so
        return x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ResidualBlock(nn.Module):
    """Layers and a residual path that are added: [N, inputs, H, W] to [N, outputs, ceil(H / stride), ...]."""

    def __init__(self, body: list[nn.Module], residual: nn.Module, *, final_relu: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.residual = residual
        self.final = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths."""
        return self.final(self.body(x) + self.residual(x))


class BasicBlock(ResidualBlock):
    """ResNet's basic block (the paper's RB): two 3x3 convolutions and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, final_relu: bool = True) -> None:
        body = [*activated(conv3x3(inputs, outputs, stride)), *normalised(conv3x3(outputs, outputs))]
        super().__init__(body, projection(inputs, outputs, stride), final_relu=final_relu)


class Bottleneck(ResidualBlock):
    """ResNet's bottleneck (the paper's RBB): 1x1, 3x3, 1x1, the last doubling the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        width = outputs // 2
        body = activated(conv1x1(inputs, width)) + activated(conv3x3(width, width, stride))
        super().__init__(body + normalised(conv1x1(width, outputs)), projection(inputs, outputs, stride))


class LFEM(nn.Module):
    """Low-params Feature Enhancement Module at stride 1 (section 2.1, Fig. 2a).

    Expand x2, filter one half of the channels depth-wise with 3x3 and the other with 5x5, join them by a 1x1
    convolution, add the input, shuffle the channels.
    """

    def __init__(self, channels: int, *, final_relu: bool = True) -> None:
        super().__init__()
        self.expand = nn.Sequential(*activated(conv1x1(channels, 2 * channels)))
        self.local = nn.Sequential(*normalised(DepthwiseConv(channels, 3)))
        self.wide = nn.Sequential(*normalised(DepthwiseConv(channels, 5)))
        self.join = nn.Sequential(nn.ReLU(inplace=True), *normalised(conv1x1(2 * channels, channels, bias=True)))
        self.final = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same shape."""
        near, far = self.expand(x).chunk(2, dim=1)
        joined = self.join(torch.cat((self.local(near), self.wide(far)), dim=1))
        return self.final(shuffle_channels(joined + x))


class LFEMDown(ResidualBlock):
    """Low-params Feature Enhancement Module at stride 2 (section 2.1, Fig. 2b).

    MobileNet's inverted bottleneck, with a strided 1x1 convolution as residual. The released code does not shuffle.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        width = 2 * outputs
        body = activated(conv1x1(inputs, width)) + activated(DepthwiseConv(width, 3, stride=2))
        super().__init__(body + normalised(conv1x1(width, outputs, bias=True)), projection(inputs, outputs, stride=2))


def basic_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two basic blocks, the first with the stride, the last without its ReLU."""
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, final_relu=False))


def lfem_stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two LFEMs at stride 2 and 1, the last without its ReLU."""
    return nn.Sequential(LFEMDown(inputs, outputs), LFEM(outputs, final_relu=False))


def compression(semantic: int, detail: int) -> nn.Sequential:
    """The 1x1 convolution and BN that bring the semantic map to the detail branch's channels."""
    return nn.Sequential(*normalised(conv1x1(semantic, detail)))


class AFFM(nn.Module):
    """Attention Flow-semantic Fusion Module (section 2.2, eq. 1, Fig. 3).

    The pooled semantic map weights the channels of the detail map (without a sigmoid, as in eq. 1). The semantic map
    itself, compressed, is added where a learnt flow moves it to, see `warp`.
    """

    def __init__(self, semantic: int, detail: int, alignment: Alignment = "exact") -> None:
        super().__init__()
        self.alignment: Alignment = alignment
        self.compress = compression(semantic, detail)
        self.attention = conv1x1(semantic, detail, bias=True)
        self.contrast_semantic = conv1x1(detail, detail // 2)
        self.contrast_detail = conv1x1(detail, detail // 2)
        self.flow = conv3x3(detail, 2)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """[N, detail, H, W] and [N, semantic, ceil(H / 2), ceil(W / 2)] to [N, detail, H, W]."""
        weight = self.attention(semantic.mean((2, 3), keepdim=True))
        compressed = self.compress(semantic)
        contrast, size = self.contrast_semantic(compressed), detail.shape[-2:]
        if self.alignment == "exact":
            contrast = enlarge(contrast, 2, size)
        else:
            contrast = F.interpolate(contrast, size=size, mode="bilinear", align_corners=True)
        flow = self.flow(torch.cat((contrast, self.contrast_detail(detail)), dim=1))
        return weight * detail + warp(compressed, flow, self.alignment)


class BilinearFusion(nn.Module):
    """The baseline's fusion (DDRNet), in place of AFFM: compress the semantic map, enlarge it, add it."""

    def __init__(self, semantic: int, detail: int, alignment: Alignment = "exact") -> None:
        super().__init__()
        self.alignment: Alignment = alignment
        self.compress = compression(semantic, detail)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """[N, detail, H, W] and [N, semantic, ceil(H / 2), ceil(W / 2)] to [N, detail, H, W]."""
        return detail + enlarge(self.compress(semantic), 2, detail.shape[-2:], self.alignment)


def warp(features: Tensor, flow: Tensor, alignment: Alignment = "exact") -> Tensor:
    """Sample `features` [N, C, ceil(H / 2), ceil(W / 2)] at the pixels of `flow` [N, 2, H, W], each moved by it.

    Returns [N, C, H, W]. The flow's two channels are x and y, in half pixels of the flow's own map (SFNet's unit).

    `alignment`:
    - "exact": the grid lies on pixel centres and outside counts as the border. Zero flow is exactly `enlarge`.
    - "released": the authors' code, for comparison with their outputs. It divides x by H and y by W, which is wrong
      on all but squares. It also samples a grid from corner to corner as if it lay on centres, with zeros outside,
      so that zero flow blurs and darkens the edges.
    """
    height, width = flow.shape[-2:]
    # On the features' own device, so that no GPU waits; in half precision a map 200 wide would be off by .05 pixels.
    dtype = torch.promote_types(features.dtype, torch.float32)
    columns = torch.arange(width, device=features.device, dtype=dtype)
    rows = torch.arange(height, device=features.device, dtype=dtype)[:, None]
    if alignment == "exact":  # in units of the features' own sides, which reach beyond an odd flow's
        x = (2 * columns + 1 + flow[:, 0]) / (2 * features.shape[-1]) - 1
        y = (2 * rows + 1 + flow[:, 1]) / (2 * features.shape[-2]) - 1
        padding = "border"
    else:
        x = 2 * columns / (width - 1) - 1 + flow[:, 0] / height
        y = 2 * rows / (height - 1) - 1 + flow[:, 1] / width
        padding = "zeros"
    grid = torch.stack((x, y), dim=-1)
    sampled = F.grid_sample(features.to(dtype), grid, padding_mode=padding, align_corners=False)
    return sampled.to(features.dtype)


def enlarge(x: Tensor, stride: int, size: torch.Size, alignment: Alignment = "exact") -> Tensor:
    """Enlarge a map [N, C, ceil(H / stride), ceil(W / stride)] bilinearly to `size` (H, W).

    `alignment`:
    - "exact": each pixel becomes `stride` pixels, and what exceeds `size` is cut off. So it stays where the
      convolutions took it from, on images of any size.
    - "released": the whole map is resized to `size`, as in the authors' code and most others. Where a side is no
      multiple of `stride` this squeezes the map: its last pixel moves by up to half of itself. Of logits at 1/8 of
      images of 300 x 300 it cost 7 points of mIoU (docs/network.md).
    """
    if alignment == "released":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    enlarged = F.interpolate(x, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return enlarged[..., : size[0], : size[1]]


def enlarge_by_products(x: Tensor, stride: int, *sizes: torch.Size, alignment: Alignment = "exact") -> Tensor:
    """`enlarge` to the first of `sizes`, and resize bilinearly to each of the others, in one step.

    By products with two matrices of bilinear weights: for maps with few channels, such as logits, several times as fast
    as interpolation (OpenVINO's costs as much as ten convolutions), and on a GPU backward always in the same order.
    """
    matrices = []
    for axis in (0, 1):
        inputs, outputs = x.shape[axis - 2], sizes[0][axis]
        matrix = _interpolation(inputs, outputs, 1 / stride if alignment == "exact" else inputs / outputs, x)
        for before, after in pairwise(size[axis] for size in sizes):
            matrix = _interpolation(before, after, before / after, x) @ matrix
        matrices.append(matrix)
    rows, columns = matrices
    return rows @ (x @ columns.T)


def _interpolation(inputs: int, outputs: int, ratio: float, like: Tensor) -> Tensor:
    """The weights [outputs, inputs] of linear interpolation; `ratio`: of an output's side to an input's."""
    rows, columns = (torch.arange(count, device=like.device, dtype=like.dtype) for count in (outputs, inputs))
    place = ((rows + 0.5) * ratio - 0.5).clamp(0, inputs - 1)
    return (1 - (place[:, None] - columns).abs()).clamp_min(0)


class DAPPM(nn.Module):
    """DDRNet's Deep Aggregation Pyramid Pooling Module, the baseline's context in place of DCPPM.

    It pools at five scales, and each scale adds the output of the one before.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.identity = nn.Sequential(*preactivated(conv1x1(inputs, width)))
        # Only padded pools: any map from 1x1 up has all scales.
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(kernel, stride, kernel // 2), *preactivated(conv1x1(inputs, width)))
            for kernel, stride in ((5, 2), (9, 4), (17, 8))
        )
        self.whole = nn.Sequential(*preactivated(conv1x1(inputs, width)))
        self.processes = nn.ModuleList(self.process(width) for _ in range(4))
        self.join = nn.Sequential(*preactivated(conv1x1(5 * width, outputs)))
        self.shortcut = nn.Sequential(*preactivated(conv1x1(inputs, outputs)))

    def process(self, width: int) -> nn.Sequential:
        """The layers that each scale's sum goes through."""
        return nn.Sequential(*preactivated(conv3x3(width, width)))

    def connect(self, scales: list[Tensor]) -> list[Tensor]:
        """The outputs of the five branches from their pooled maps, finest first."""
        outputs = scales[:1]
        for scale, process in zip(scales[1:], self.processes, strict=True):
            outputs.append(process(scale + outputs[-1]))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        scales = [self.identity(x)]
        for pool in self.pools:
            # Where a pooled map reaches beyond `x` it may be squeezed: it says what is around, not where.
            scales.append(F.interpolate(pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        # One value per channel: adding it broadcasts, which is all that resizing a 1x1 map could do.
        scales.append(self.whole(x.mean((2, 3), keepdim=True)))
        return self.join(torch.cat(self.connect(scales), dim=1)) + self.shortcut(x)


class DCPPM(DAPPM):
    """Deep Connection Pyramid Pooling Module (section 2.3, Fig. 4, eq. 2 and 3).

    `process` is the paper's f. "pointwise" is the depth-wise 3x3 and 1x1 convolutions that the text names and that
    give the published 3.34 M parameters. "depthwise" is the released code's, without the 1x1: 3.27 M.
    """

    def __init__(self, inputs: int, width: int, outputs: int, process: Process = "pointwise") -> None:
        self.pointwise = process == "pointwise"
        super().__init__(inputs, width, outputs)

    def process(self, width: int) -> nn.Sequential:
        """f of eq. (3)."""
        layers = preactivated(DepthwiseConv(width, 3))
        if self.pointwise:
            layers += preactivated(conv1x1(width, width))
        return nn.Sequential(*layers)

    def connect(self, scales: list[Tensor]) -> list[Tensor]:
        """Eq. (3), with the first sum of branch 4 added to branch 5 as Fig. 4 draws it (eq. 3 omits it)."""
        f2, f3, f4, f5 = self.processes
        first = scales[0]
        second = f2(scales[1] + first)
        sum3 = scales[2] + second
        third = f3(sum3)
        sum4 = scales[3] + sum3  # branch 4 adds the sum of branch 3 first, then its output
        deep4 = sum4 + third
        fourth = f4(deep4)
        fifth = f5(scales[4] + fourth + deep4 + sum4)
        return [first, second, third, fourth, fifth]


class SegHead(nn.Module):
    """DDRNet's segmentation head: BN, ReLU, 3x3, BN, ReLU, 1x1 to the classes."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *preactivated(conv3x3(inputs, width)), *preactivated(conv1x1(width, classes, bias=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to logits [N, classes, H, W]."""
        return self.body(x)
