import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images
from dbrnet.training.distributed import World
from dbrnet.training.validation import validate

NAMES = ["background", "dark", "light"]
ALONE = World(torch.device("cpu"))
MEAN, STD = torch.full((3,), 0.4), torch.full((3,), 0.2)


class Threshold(nn.Module):
    """Logits from the brightness: dark below .25, light above .75, and wrong in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x * STD[:, None, None] + MEAN[:, None, None]).mean(1)
        logits = torch.stack([torch.full_like(level, 0.25), 0.5 - level, level - 0.5], dim=1)
        return -logits if self.training else logits


def test_counts_every_pixel_once_whatever_the_sizes_and_the_batch(dataset: Dataset, val_ids: list[str]) -> None:
    model = Threshold().train()
    images = Images(dataset, val_ids, None)
    for batch_size in (1, 3, 8):
        scores = validate(model, images, NAMES, MEAN, STD, batch_size, ALONE)
        assert scores.iou == {"background": 1.0, "dark": 1.0, "light": 1.0}
    assert not model.training


def test_resized_images_are_scored_at_the_masks_size(dataset: Dataset, val_ids: list[str]) -> None:
    scores = validate(Threshold(), Images(dataset, val_ids, (32, 40)), NAMES, MEAN, STD, 4, ALONE)
    union, hits = np.zeros(3), np.zeros(3)
    for name in val_ids:
        sample = dataset.by_id[name]
        image, mask = Images(dataset, [name], (32, 40))[0]
        x = (torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255 - MEAN[:, None, None]) / STD[:, None, None]
        logits = F.interpolate(Threshold().eval()(x), size=mask.shape, mode="bilinear", align_corners=False)
        prediction = logits[0].argmax(0).numpy()
        assert mask.shape == (sample.height, sample.width)
        for kind in range(3):
            hits[kind] += ((prediction == kind) & (mask == kind)).sum()
            union[kind] += ((prediction == kind) | (mask == kind)).sum()
    assert [scores.iou[name] for name in NAMES] == pytest.approx(list(hits / union))
    assert 0.5 < scores.miou < 1
