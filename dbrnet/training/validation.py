"""Validation: how a network does on images that it does not learn from, which shows how a training goes."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.dataset import Image, Mask
from dbrnet.data.loading import normalise, zoom_image, zoomed_size
from dbrnet.evaluation.metrics import Confusion, confusion_matrix
from dbrnet.progress import progress
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.recipe import Recipe

MOST = 20  # validations of a training
FEWEST = 5  # as many as show how it goes
SHARE = 0.1  # of a training's time, that they take at most
FORWARD_SHARE = 0.55  # of an iteration's time a pixel, that a pixel of the validation costs
BATCH_AREA = 2**22  # pixels of a batch: images may be large


class SampleLike(Protocol):
    """What is known of an image before it is read."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of its defects' classes, as far as they are known."""

    @property
    def group(self) -> str:
        """Images of one group resemble each other."""


class ImagesLike(Protocol):
    """Images uint8 [H, W, 3] with masks [H, W], by index."""

    @property
    def samples(self) -> Sequence[SampleLike]:
        """What is known of each."""

    def __getitem__(self, index: int) -> tuple[Image, Mask]: ...

    def prefetch(self, indices: Iterable[int]) -> None:
        """Announce which will be asked for next."""


@dataclass(frozen=True)
class Plan:
    """When a training is validated, and on which images."""

    interval: int  # iterations between two validations, counted from the end
    watched: tuple[int, ...]  # places of the images of each
    others: tuple[int, ...]  # places of those that the last validation adds

    @classmethod
    def make(cls, samples: Sequence[SampleLike], zoom: float, recipe: Recipe) -> Self:
        """Validate on all images where that leaves enough validations; else on some, and on all at the end.

        Some are drawn with the recipe's seed: each class once, then images of as many groups as possible.
        """
        iteration = recipe.batch_size * math.prod(recipe.crop)
        costs = [
            FORWARD_SHARE * math.prod(zoomed_size(one.height, one.width, zoom)) / iteration for one in samples
        ]  # in iterations

        def interval(cost: float, validations: int) -> int:
            return max(math.ceil(recipe.steps / validations), math.ceil(cost / SHARE))

        everything = tuple(range(len(samples)))
        if (rarely := interval(sum(costs), MOST)) * FEWEST <= recipe.steps:
            return cls(rarely, everything, ())
        watched = _draw(samples, costs, SHARE * recipe.steps / FEWEST, recipe.seed)
        others = tuple(sorted(set(everything).difference(watched)))
        return cls(interval(sum(costs[index] for index in watched), FEWEST), watched, others)


def _draw(samples: Sequence[SampleLike], costs: Sequence[float], budget: float, seed: int) -> tuple[int, ...]:
    """Places of images that cost about `budget` together: one of each class, then one of each group in turn."""
    drawn = Counter[str]()
    turns = []
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        turns.append((drawn[samples[index].group], index))
        drawn[samples[index].group] += 1
    order = [index for _, index in sorted(turns, key=lambda turn: turn[0])]
    watched, shown = set[int](), set[int]()
    for index in order:
        if not shown.issuperset(samples[index].classes):
            watched.add(index)
            shown.update(samples[index].classes)
    left = budget - sum(costs[index] for index in watched)
    for index in order:
        if index not in watched and (costs[index] <= left or not watched):
            watched.add(index)
            left -= costs[index]
    return tuple(sorted(watched))


@torch.inference_mode()
def validate(
    model: nn.Module,
    images: ImagesLike,
    indices: Sequence[int],
    classes: int,
    mean: Tensor,
    std: Tensor,
    zoom: float,
    batch_size: int,
    distributed: DistributedContext,
) -> Confusion:
    """The confusion matrix of `model`, which sees the `images` at `indices` by the factor `zoom`, at their own size.

    `mean` and `std` ([3], of pixels / 255) lie on the model's device. Each process predicts a share of the batches,
    and all get the sum. The model is left in eval mode.
    """
    model.eval()
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)  # only images of one size share a batch
    for index in indices:
        by_size[images.samples[index].height, images.samples[index].width].append(index)
    batches = []
    for size, same in by_size.items():
        count = max(1, min(batch_size, BATCH_AREA // math.prod(zoomed_size(*size, zoom))))
        batches += [same[start : start + count] for start in range(0, len(same), count)]
    batches = distributed.share(batches)
    images.prefetch(index for batch in batches for index in batch)
    confusion = np.zeros((classes, classes), np.int64)
    for batch in progress(batches, len(batches), "validating"):
        pixels, masks = zip(*(images[index] for index in batch), strict=True)
        logits = model(
            normalise(
                torch.from_numpy(np.stack([zoom_image(image, zoom) for image in pixels])).to(mean.device), mean, std
            )
        )
        target = np.stack(masks)
        if logits.shape[-2:] != target.shape[-2:]:  # the logits fit the mask, not the mask the logits
            logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
        confusion += confusion_matrix(logits.argmax(1).byte().cpu().numpy(), target, classes)
    total = distributed.sum(torch.from_numpy(confusion).to(mean.device))
    return total.cpu().numpy()
