"""Scores of the network in training, over a whole part, at native resolution."""

from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.loading import Pictures, normalise
from dbrnet.evaluation.metrics import Scores, confusion_matrix
from dbrnet.progress import progress


@torch.inference_mode()
def validate(
    model: nn.Module, pictures: Pictures, names: list[str], mean: Tensor, std: Tensor, batch_size: int
) -> Scores:
    """Score `model` on all of `pictures`, from one confusion matrix; the model is left in eval mode.

    Pictures of one size share a batch. Where they were resized for the network, the logits are resized to
    the mask, not the mask to the logits. `mean` and `std` ([3], of pixels / 255) lie on the model's device.
    """
    model.eval()
    confusion = np.zeros((len(names), len(names)), np.int64)
    batches = _batches_of_one_size(pictures, batch_size)
    pictures.prefetch(index for batch in batches for index in batch)
    for batch in progress(batches, len(batches), "validating"):
        images, masks = zip(*(pictures[index] for index in batch), strict=True)
        inputs = normalise(torch.from_numpy(np.stack(images)).to(mean.device), mean, std)
        logits = model(inputs)
        target = np.stack(masks)
        if logits.shape[-2:] != target.shape[-2:]:
            logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
        confusion += confusion_matrix(logits.argmax(1).byte().cpu().numpy(), target, len(names))
    return Scores.from_confusion(confusion, names)


def _batches_of_one_size(pictures: Pictures, batch_size: int) -> list[list[int]]:
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, sample in enumerate(pictures.samples):
        by_size[sample.height, sample.width].append(index)
    return [
        group[start : start + batch_size]
        for group in by_size.values()
        for start in range(0, len(group), batch_size)
    ]
