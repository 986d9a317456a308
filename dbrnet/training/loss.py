"""The losses: what a wrong pixel costs, for the main and the auxiliary head alike.

Each takes logits [N, C, H, W] and the target int64 [N, H, W] with 255 = ignored, and gives the loss of the whole batch.
Where several processes share the batch, sums go over all of them. A batch without a valid pixel gives 0 and a zero
gradient.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.recipe import LossName

KEPT_SHARE = 16  # one in so many valid pixels counts at least, as in the released code
KIND_WEIGHT = 0.5  # of the class among the defects' pixels, beside the defect itself

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: LossName, ohem_threshold: float, distributed: DistributedContext) -> Loss:
    """The loss of that name."""
    losses: dict[LossName, Callable[[Tensor, Tensor, DistributedContext], Tensor]] = {
        "ohem": partial(ohem_cross_entropy, threshold=ohem_threshold),
        "ce": cross_entropy,
        "ce+dice": cross_entropy_and_dice,
        "hierarchical": hierarchical,
    }

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))  # sums of bfloat16 are worth nothing
        return losses[name](precise, target, distributed)

    return loss


def cross_entropy(logits: Tensor, target: Tensor, distributed: DistributedContext) -> Tensor:
    """The mean cross entropy of the valid pixels."""
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
    return _ratio(losses, (target != IGNORE_INDEX).sum(), distributed)


def cross_entropy_and_dice(logits: Tensor, target: Tensor, distributed: DistributedContext) -> Tensor:
    """Cross entropy, and the Dice loss of the batch's defect classes (nnU-Net, Isensee et al. 2021)."""
    valid = target != IGNORE_INDEX
    probabilities = logits.softmax(1)[:, 1:] * valid[:, None]
    truth = torch.stack([target == label for label in range(1, logits.shape[1])], 1)
    return cross_entropy(logits, target, distributed) + _dice(probabilities, truth, distributed)


def hierarchical(logits: Tensor, target: Tensor, distributed: DistributedContext) -> Tensor:
    """First whether a pixel is a defect, then of which class: a loss for each question.

    The first is a cross entropy and a Dice loss of defect against background, where the probability of a defect is the
    sum over its classes. The second is the cross entropy among the defect classes, on the defects' pixels, the mean of
    the classes present. In plain cross entropy the second drowns in the background and the first is shared out among
    the classes, so that a network of many classes stays on the background for long (docs/learning.md).
    """
    valid, truth = target != IGNORE_INDEX, (target != IGNORE_INDEX) & (target > 0)
    defect = logits[:, 1:].logsumexp(1) - logits[:, 0]
    losses = F.binary_cross_entropy_with_logits(defect, truth.to(logits.dtype), reduction="none") * valid
    whether = _ratio(losses.sum(), valid.sum(), distributed)
    whether = whether + _dice((defect.sigmoid() * valid)[:, None], truth[:, None], distributed)
    if logits.shape[1] == 2:
        return whether
    kinds = F.cross_entropy(
        logits[:, 1:], (target - 1).where(truth, IGNORE_INDEX), ignore_index=IGNORE_INDEX, reduction="none"
    )
    masks = torch.stack([target == label for label in range(1, logits.shape[1])]).flatten(1)
    sums = distributed.sum(torch.stack([masks.to(kinds.dtype) @ kinds.flatten(), masks.sum(1).to(kinds.dtype)]))
    present = sums[1] > 0
    means = sums[0] / sums[1].clamp_min(1)
    return whether + KIND_WEIGHT * (means * present).sum() / present.sum().clamp_min(1)


def ohem_cross_entropy(logits: Tensor, target: Tensor, distributed: DistributedContext, threshold: float) -> Tensor:
    """Cross entropy with online hard example mining (paper, section 3.2; the numbers are the released code's).

    A pixel is hard when the probability of its true class is below `threshold`. Where fewer than a sixteenth of
    the valid pixels are hard, the sixteenth with the highest loss counts, over all processes. Where there is no valid
    pixel the released code gives NaN.
    """
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
    losses = losses[target != IGNORE_INDEX]
    hard = losses[torch.exp(-losses) < threshold]
    counts = torch.tensor([hard.numel(), losses.numel()], device=losses.device)
    kept, valid = distributed.sum(counts).tolist()
    if valid == 0:
        return logits.sum() * 0.0
    least = max(1, valid // KEPT_SHARE)
    if kept < least:
        hard, kept = _hardest(losses, least, distributed), least
    return distributed.sum(hard.sum()) / kept


def _hardest(losses: Tensor, count: int, distributed: DistributedContext) -> Tensor:
    """Those of `losses` [n] that are among the `count` highest of all processes."""
    own = losses.topk(min(count, losses.numel())).values
    ranked = distributed.gather(F.pad(own, (0, count - own.numel()), value=-torch.inf)).flatten()
    # A stable sort: all processes must break ties alike.
    chosen = ranked.sort(descending=True, stable=True).indices[:count]
    first = distributed.rank * count
    return own[chosen[(chosen >= first) & (chosen < first + count)] - first]


def _dice(probabilities: Tensor, truth: Tensor, distributed: DistributedContext) -> Tensor:
    """1 - the Dice coefficient over the whole batch, the mean of the classes present; both [N, K, H, W]."""
    truth = truth.to(probabilities.dtype)
    hit, predicted, present = distributed.sum(
        torch.stack([values.sum((0, 2, 3)) for values in (probabilities * truth, probabilities, truth)])
    )
    losses = 1 - (2 * hit + 1) / (predicted + present + 1)
    return (losses * (present > 0)).sum() / (present > 0).sum().clamp_min(1)


def _ratio(total: Tensor, count: Tensor, distributed: DistributedContext) -> Tensor:
    """The mean over all processes, from each one's sum and count; 0 of nothing."""
    sums = distributed.sum(torch.stack([total, count.to(total.dtype)]))
    return sums[0] / sums[1].clamp_min(1)
