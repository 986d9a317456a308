"""Context over the whole image at the end of the semantic branch: the paper's DCPPM, and DDRNet's DAPPM
for the baseline. Both pool at five scales and let each scale see the finer ones; they differ in how.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.models.blocks import BatchNorm, conv1x1, conv3x3

Process = Literal["pointwise", "depthwise"]


def preactivated(convolution: nn.Conv2d) -> list[nn.Module]:
    """BN and ReLU before the convolution, as everywhere in these modules."""
    return [BatchNorm(convolution.in_channels), nn.ReLU(inplace=True), convolution]


class DAPPM(nn.Module):
    """DDRNet's Deep Aggregation Pyramid Pooling Module: each scale adds the output of the one before."""

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
        """What each scale's sum goes through."""
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
            scales.append(F.interpolate(pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        # One value a channel: adding it broadcasts, which is all that resizing a 1x1 map could do.
        scales.append(self.whole(x.mean((2, 3), keepdim=True)))
        return self.join(torch.cat(self.connect(scales), dim=1)) + self.shortcut(x)


class DCPPM(DAPPM):
    """Deep Connection Pyramid Pooling Module (section 2.3, Fig. 4, eq. 2 and 3).

    `process` is the paper's f: "pointwise" is the depth-wise 3x3 and 1x1 convolutions that the text names
    and that give the published 3.34 M parameters; "depthwise" is the released code's, without the 1x1.
    """

    def __init__(self, inputs: int, width: int, outputs: int, process: Process = "pointwise") -> None:
        self.pointwise = process == "pointwise"
        super().__init__(inputs, width, outputs)

    def process(self, width: int) -> nn.Sequential:
        """f of eq. (3)."""
        layers = preactivated(conv3x3(width, width, groups=width))
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
