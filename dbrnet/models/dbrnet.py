"""DBRNet: two branches at 1/8 and 1/32 of the image that exchange features (section 2, Fig. 1).

image - stem - stage1 - stage2 (1/8) --+-- detail3 --> fusion -- detail4 -- detail5 ----+-- head
                                         |       |          ^          |                  |
                                         |     down3     semantic3   down4                |
                                         |       v          |          v                  |
                                         +-- semantic3 (1/16) -- semantic4 -- semantic5 - context
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.models.blocks import (
    AFFM,
    DAPPM,
    DCPPM,
    Alignment,
    BasicBlock,
    BilinearFusion,
    Bottleneck,
    Process,
    SegHead,
    activated,
    basic_stage,
    conv3x3,
    enlarge,
    enlarge_by_products,
    lfem_stage,
    normalised,
)

# RetinaNet's value. With Kaiming's 0.7 the first logits lie tens apart: the loss starts at 10 rather than at
# log(classes), and a short training with OHEM stays on the background.
HEAD_STD = 0.01


class DBRNet(nn.Module):
    """The network, and with switches off its ablation rows (Tables 3 and 4).

    - `lfem` off: basic residual blocks in stage 2 and semantic stage 4.
    - `affm` off: the compressed semantic map is enlarged bilinearly and added.
    - `dcppm` off: DDRNet's DAPPM.
    - all off: the paper's baseline, a DDRNet-23-slim with shallower detail stages.
    - `alignment`, `process`: readings of where maps of two resolutions meet and of DCPPM's f, see `blocks.enlarge`,
      `blocks.warp` and `blocks.DCPPM`; "released" and "depthwise" together are the authors' released code.

    Where text, figures, tables and released code disagree, the text goes first, then the figures. docs/network.md
    lists the deviations.

    Convolutions start from Kaiming's normal distribution (fan out, ReLU) with zero biases, batch norms
    from 1 and 0, and the heads' last convolutions from a deviation of `HEAD_STD`.
    """

    def __init__(
        self,
        classes: int,
        *,
        lfem: bool = True,
        affm: bool = True,
        dcppm: bool = True,
        alignment: Alignment = "exact",
        process: Process = "pointwise",
    ) -> None:
        super().__init__()
        self.alignment: Alignment = alignment
        light_stage = lfem_stage if lfem else lambda inputs, outputs: basic_stage(inputs, outputs, stride=2)

        self.stem = nn.Sequential(
            *activated(conv3x3(3, 32, stride=2, bias=True)), *activated(conv3x3(32, 32, stride=2, bias=True))
        )
        self.stage1 = basic_stage(32, 32, stride=1)
        self.stage2 = light_stage(32, 64)

        self.semantic3 = basic_stage(64, 128, stride=2)
        self.semantic4 = light_stage(128, 256)
        self.semantic5 = Bottleneck(256, 512)
        self.context = DCPPM(512, 128, 128, process) if dcppm else DAPPM(512, 128, 128)

        self.detail3 = BasicBlock(64, 64)
        self.detail4 = BasicBlock(64, 64)
        self.detail5 = Bottleneck(64, 128)

        self.fusion = AFFM(128, 64, alignment) if affm else BilinearFusion(128, 64, alignment)
        self.down3 = nn.Sequential(*normalised(conv3x3(64, 128, stride=2)))
        self.down4 = nn.Sequential(*activated(conv3x3(64, 128, stride=2)), *normalised(conv3x3(128, 256, stride=2)))

        self.head = SegHead(128, 64, classes)
        self.auxiliary_head = SegHead(64, 64, classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [N, classes, H, W] of normalised images [N, 3, H, W], of any size from 32x32 up.

        In training mode (logits, auxiliary logits): the auxiliary head reads the detail branch after
        fusion, so that its loss reaches the early layers directly (as in DDRNet).
        """
        size = x.shape[-2:]
        features, fused = self._branches(x)
        logits = self.enlarge_logits(self.head(features), size)
        if not self.training:
            return logits
        return logits, self.enlarge_logits(self.auxiliary_head(fused), size)

    def logits_at_stride_8(self, x: Tensor) -> Tensor:
        """The main head's logits before `enlarge_logits`: [N, classes, ceil(H / 8), ceil(W / 8)]."""
        return self.head(self._branches(x)[0])

    def enlarge_logits(self, logits: Tensor, *sizes: torch.Size) -> Tensor:
        """Logits at stride 8 of an image of the first of `sizes`, resized to each of the others in turn.

        In float32 or better, also where the network computes in half precision.
        """
        with torch.autocast("cuda" if logits.is_cuda else "cpu", enabled=False):  # it knows no meta device
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return enlarge_by_products(logits, 8, *sizes, alignment=self.alignment)

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads read, at 1/8: both branches' sum [N, 128, ...], fused detail [N, 64, ...]."""
        shared = F.relu(self.stage2(F.relu(self.stage1(self.stem(x)))))

        semantic = self.semantic3(shared)
        detail = self.detail3(shared)
        fused = self.fusion(detail, F.relu(semantic))
        semantic = F.relu(semantic + self.down3(detail))

        detail = self.detail4(F.relu(fused))
        semantic = F.relu(self.semantic4(semantic) + self.down4(detail))

        detail = self.detail5(detail)
        context = self.context(self.semantic5(semantic))
        return detail + enlarge(context, 4, detail.shape[-2:], self.alignment), fused


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SegHead):  # after its convolutions: `apply` goes from the inside out
        nn.init.normal_(module.body[-1].weight, std=HEAD_STD)  # type: ignore[arg-type]
