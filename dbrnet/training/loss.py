"""The loss: cross entropy on the hard pixels, for the main and the auxiliary head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.training.distributed import DistributedContext

KEPT_SHARE = 16  # one in so many valid pixels counts at least, as in the released code


class OhemCrossEntropy(nn.Module):
    """Cross entropy with online hard example mining (paper, section 3.2; the numbers are the released code's).

    A pixel is hard when the probability of its true class is below `threshold`. Where fewer than a sixteenth of
    the valid pixels are hard, the sixteenth with the highest loss counts. A batch without a valid pixel gives 0
    and a zero gradient, where the released code gives NaN.

    Where several processes share the batch, each gets the loss of the whole batch: pixels are counted, and the
    hardest chosen, over all processes.
    """

    def __init__(self, threshold: float, distributed: DistributedContext) -> None:
        super().__init__()
        self.threshold = threshold
        self.distributed = distributed

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The hard pixels' mean loss; logits [N, C, H, W], target int64 [N, H, W] with 255 = ignored."""
        losses = F.cross_entropy(logits.float(), target, ignore_index=IGNORE_INDEX, reduction="none")
        losses = losses[target != IGNORE_INDEX]
        hard = losses[torch.exp(-losses) < self.threshold]
        counts = torch.tensor([hard.numel(), losses.numel()], device=losses.device)
        kept, valid = self.distributed.sum(counts).tolist()
        if valid == 0:
            return logits.float().sum() * 0.0
        least = max(1, valid // KEPT_SHARE)
        if kept < least:
            hard, kept = self._hardest(losses, least), least
        return self.distributed.sum(hard.sum()) / kept

    def _hardest(self, losses: Tensor, count: int) -> Tensor:
        """Those of `losses` [n] that are among the `count` highest of all processes."""
        own = losses.topk(min(count, losses.numel())).values
        ranked = self.distributed.gather(F.pad(own, (0, count - own.numel()), value=-torch.inf)).flatten()
        # A stable sort: all processes must break ties alike.
        chosen = ranked.sort(descending=True, stable=True).indices[:count]
        first = self.distributed.rank * count
        return own[chosen[(chosen >= first) & (chosen < first + count)] - first]
