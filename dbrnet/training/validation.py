"""Validation: the scores of a network on a whole split, which show how a training goes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.dataset import Image, Mask
from dbrnet.data.loading import normalise, zoom_image
from dbrnet.evaluation.metrics import Scores, confusion_matrix
from dbrnet.progress import progress
from dbrnet.training.distributed import DistributedContext


class Sized(Protocol):
    """What has a height and a width in pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""


class ImagesLike(Protocol):
    """Images uint8 [H, W, 3] with masks [H, W], by index."""

    @property
    def samples(self) -> Sequence[Sized]:
        """The images' sizes."""

    def __getitem__(self, index: int) -> tuple[Image, Mask]: ...

    def prefetch(self, indices: Iterable[int]) -> None:
        """Announce which will be asked for next."""


@torch.inference_mode()
def validate(
    model: nn.Module,
    images: ImagesLike,
    names: Sequence[str],
    mean: Tensor,
    std: Tensor,
    zoom: float,
    batch_size: int,
    distributed: DistributedContext,
) -> Scores:
    """Score `model` on all of `images`, seen by the factor `zoom`, at native size, from one confusion matrix.

    `mean` and `std` ([3], of pixels / 255) lie on the model's device. Each process scores a share of the batches,
    and all get the scores of the whole split. The model is left in eval mode.
    """
    model.eval()
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)  # only images of one size share a batch
    for index, sample in enumerate(images.samples):
        by_size[sample.height, sample.width].append(index)
    batches = distributed.share(
        [same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)]
    )
    images.prefetch(index for batch in batches for index in batch)
    confusion = np.zeros((len(names), len(names)), np.int64)
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
        confusion += confusion_matrix(logits.argmax(1).byte().cpu().numpy(), target, len(names))
    total = distributed.sum(torch.from_numpy(confusion).to(mean.device))
    return Scores.from_confusion(total.cpu().numpy(), names)
