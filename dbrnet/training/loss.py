"""The loss: cross entropy on the hard pixels, of the main and the auxiliary head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.evaluation.metrics import IGNORE_INDEX

KEPT_SHARE = 16  # at least one valid pixel in so many counts, however easy all are


class OhemCrossEntropy(nn.Module):
    """Cross entropy with online hard example mining (paper section 3.2; the numbers are the released code's).

    A pixel is hard when the probability of its true class is below `threshold`. Where fewer than a sixteenth
    of the valid pixels are hard, the sixteenth with the highest loss counts. A batch without a valid pixel
    gives 0 and a zero gradient, where the released code gives NaN.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The hard pixels' mean loss; logits [N, C, H, W], target int64 [N, H, W] with 255 = ignored."""
        losses = F.cross_entropy(logits.float(), target, ignore_index=IGNORE_INDEX, reduction="none")
        losses = losses[target != IGNORE_INDEX]
        if losses.numel() == 0:
            return logits.float().sum() * 0.0
        hard = losses[torch.exp(-losses) < self.threshold]
        least = max(1, losses.numel() // KEPT_SHARE)
        return hard.mean() if hard.numel() >= least else losses.topk(least).values.mean()
