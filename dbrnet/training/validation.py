"""Scores of the network in training, over a whole split, at native resolution."""

from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.loading import Images, normalise
from dbrnet.evaluation.metrics import Scores, confusion_matrix
from dbrnet.progress import progress
from dbrnet.training.distributed import World


@torch.inference_mode()
def validate(
    model: nn.Module, images: Images, names: list[str], mean: Tensor, std: Tensor, batch_size: int, world: World
) -> Scores:
    """Score `model` on all of `images`, from one confusion matrix; the model is left in eval mode.

    Each process of `world` scores a share of the batches, and all get the scores of the whole.

    Images of one size share a batch. Where they were resized for the network, the logits are resized to
    the mask, not the mask to the logits. `mean` and `std` ([3], of pixels / 255) lie on the model's device.
    """
    model.eval()
    confusion = np.zeros((len(names), len(names)), np.int64)
    batches = world.share(_batches_of_one_size(images, batch_size))
    images.prefetch(index for batch in batches for index in batch)
    for batch in progress(batches, len(batches), "validating"):
        inputs_u8, masks = zip(*(images[index] for index in batch), strict=True)
        inputs = normalise(torch.from_numpy(np.stack(inputs_u8)).to(mean.device), mean, std)
        logits = model(inputs)
        target = np.stack(masks)
        if logits.shape[-2:] != target.shape[-2:]:
            logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
        confusion += confusion_matrix(logits.argmax(1).byte().cpu().numpy(), target, len(names))
    total = world.sum(torch.from_numpy(confusion).to(mean.device))
    return Scores.from_confusion(total.cpu().numpy(), names)


def _batches_of_one_size(images: Images, batch_size: int) -> list[list[int]]:
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, sample in enumerate(images.samples):
        by_size[sample.height, sample.width].append(index)
    return [
        group[start : start + batch_size] for group in by_size.values() for start in range(0, len(group), batch_size)
    ]
