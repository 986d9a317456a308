"""The losses: what a wrong pixel costs, for the main and the auxiliary head alike.

Each takes logits [N, C, H, W] and the target int64 [N, H, W] with 255 = ignored, and gives the loss of the whole batch.
Where several processes share the batch, sums go over all of them. A batch without a valid pixel gives 0 and a zero
gradient. Nothing is read back from the device, so that a GPU never waits.
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


def make_loss(name: LossName, ohem_threshold: float, distributed: DistributedContext, batch_size: int) -> Loss:
    """The loss of that name; `batch_size` counts the images of all processes."""
    losses: dict[LossName, Callable[[Tensor, Tensor, DistributedContext], Tensor]] = {
        "ohem": partial(ohem_cross_entropy, threshold=ohem_threshold, batch_size=batch_size),
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
    logarithms = logits.log_softmax(1)  # that both share
    losses = F.nll_loss(logarithms, target, ignore_index=IGNORE_INDEX, reduction="sum")
    labels = torch.arange(1, logits.shape[1], device=target.device)[:, None, None]
    dice = _dice(logarithms[:, 1:].exp() * valid[:, None], target[:, None] == labels, distributed)
    return _ratio(losses, valid.sum(), distributed) + dice


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


def ohem_cross_entropy(
    logits: Tensor, target: Tensor, distributed: DistributedContext, threshold: float, batch_size: int
) -> Tensor:
    """Cross entropy with online hard example mining (paper, section 3.2; the numbers are the released code's).

    A pixel is hard when the probability of its true class is below `threshold`. Where fewer than a sixteenth of
    the valid pixels are hard, the sixteenth with the highest loss counts, over all processes. Where there is no valid
    pixel the released code gives NaN.

    How many are hard stays on the device: both outcomes are computed, and no shape depends on the numbers.
    """
    losses, valid = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none"), target != IGNORE_INDEX
    hard = valid & ((-losses).exp() < threshold)
    kept, pixels = distributed.sum(torch.stack([hard.sum(), valid.sum()]))
    least = (pixels // KEPT_SHARE).clamp_min(1)
    most = max(1, batch_size * target[0].numel() // KEPT_SHARE)  # that `least` can be
    highest = _sum_of_highest(losses.where(valid, -torch.inf).flatten(), least, most, distributed)
    total = torch.where(kept >= least, (losses * hard).sum(), highest)
    return distributed.sum(total) / torch.maximum(kept, least)


def _sum_of_highest(losses: Tensor, count: Tensor, most: int, distributed: DistributedContext) -> Tensor:
    """The sum of those of `losses` [n] that are finite and among the `count`, `most` at most, highest of all processes.

    Each process gets the sum of its own.
    """
    own = losses.topk(min(most, losses.numel())).values
    own = F.pad(own, (0, most - own.numel()), value=-torch.inf)
    places = torch.arange(distributed.size * most, device=losses.device)  # of the highest loss: 0
    if distributed.size > 1:
        # A stable sort: all processes must break ties alike.
        order = distributed.gather(own).flatten().argsort(descending=True, stable=True)
        places = torch.empty_like(places).scatter(0, order, places).view(distributed.size, most)[distributed.rank]
    return own.where((places < count) & own.isfinite(), 0).sum()


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
