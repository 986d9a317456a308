"""The blocks that DBRNet's branches are made of: residual blocks, the paper's LFEM, and the head.

A block's final ReLU can be left to the next stage (`final_relu=False`): the last block of a two-block
stage hands on its sum as it is, as in DDRNet.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on a single value a channel.

    A batch of one image leaves one value a channel after global pooling, and below 64 pixels a side on
    the whole 1/32 map. One value has no variance, and its batch statistics would turn every feature into
    zero (PyTorch refuses them), so there the running statistics normalise, and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def conv3x3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution: `stride` 2 turns a side of n pixels into ceil(n / 2)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=bias)


def conv1x1(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=bias)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The residual path of a block: the identity where shapes allow it, else a strided 1x1 conv and BN."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv1x1(inputs, outputs, stride), BatchNorm(outputs))


def shuffle_channels(x: Tensor, groups: int = 2) -> Tensor:
    """Interleave `groups` equal runs of channels (ShuffleNet): [N, C, H, W] to [N, C, H, W]."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class BasicBlock(nn.Module):
    """ResNet's basic block (the paper's RB): two 3x3 convolutions and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, final_relu: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride),
            BatchNorm(outputs),
            nn.ReLU(inplace=True),
            conv3x3(outputs, outputs),
            BatchNorm(outputs),
        )
        self.residual = projection(inputs, outputs, stride)
        self.final = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.final(self.body(x) + self.residual(x))


class Bottleneck(nn.Module):
    """ResNet's bottleneck (the paper's RBB): 1x1, 3x3, 1x1, the last doubling the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, final_relu: bool = True) -> None:
        super().__init__()
        width = outputs // 2
        self.body = nn.Sequential(
            conv1x1(inputs, width),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width, stride),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv1x1(width, outputs),
            BatchNorm(outputs),
        )
        self.residual = projection(inputs, outputs, stride)
        self.final = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.final(self.body(x) + self.residual(x))


class LFEM(nn.Module):
    """Low-params Feature Enhancement Module at stride 1 (section 2.1, Fig. 2a).

    Expand x2, filter one half of the channels depth-wise with 3x3 and the other with 5x5, join them by a
    1x1 convolution, add the input, shuffle the channels.
    """

    def __init__(self, channels: int, *, final_relu: bool = True) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv1x1(channels, 2 * channels), BatchNorm(2 * channels), nn.ReLU(inplace=True))
        self.local = nn.Sequential(conv3x3(channels, channels, groups=channels), BatchNorm(channels))
        self.wide = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False), BatchNorm(channels)
        )
        self.join = nn.Sequential(
            nn.ReLU(inplace=True), conv1x1(2 * channels, channels, bias=True), BatchNorm(channels)
        )
        self.final = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same shape."""
        near, far = self.expand(x).chunk(2, dim=1)
        joined = self.join(torch.cat((self.local(near), self.wide(far)), dim=1))
        return self.final(shuffle_channels(joined + x))


class LFEMDown(nn.Module):
    """Low-params Feature Enhancement Module at stride 2 (section 2.1, Fig. 2b).

    MobileNet's inverted bottleneck, with a strided 1x1 convolution on the residual path so that less is
    lost in going down.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = 2 * outputs
        self.body = nn.Sequential(
            conv1x1(inputs, width),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width, stride=2, groups=width),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv1x1(width, outputs, bias=True),
            BatchNorm(outputs),
        )
        self.residual = projection(inputs, outputs, stride=2)
        self.final = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / 2), ceil(W / 2)]."""
        return self.final(self.body(x) + self.residual(x))


def basic_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two basic blocks, the first with the stride, the last without its ReLU."""
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, final_relu=False))


def lfem_stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two LFEMs at stride 2 and 1, the last without its ReLU."""
    return nn.Sequential(LFEMDown(inputs, outputs), LFEM(outputs, final_relu=False))


class SegHead(nn.Module):
    """DDRNet's segmentation head: BN, ReLU, 3x3, BN, ReLU, 1x1 to the classes."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BatchNorm(inputs),
            nn.ReLU(inplace=True),
            conv3x3(inputs, width),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv1x1(width, classes, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to logits [N, classes, H, W]."""
        return self.body(x)
