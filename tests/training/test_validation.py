import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images, zoom_image
from dbrnet.evaluation.metrics import Scores
from dbrnet.training import validation
from dbrnet.training.pretraining import Surface
from dbrnet.training.validation import FORWARD_SHARE, Plan, validate
from tests.training.conftest import ALONE, NAMES, RECIPE, Splits

MEAN, STD = torch.full((3,), 0.4), torch.full((3,), 0.2)


class Threshold(nn.Module):
    """Logits from the brightness: dark below .25, light above .75, and wrong in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x * STD[:, None, None] + MEAN[:, None, None]).mean(1)
        logits = torch.stack([torch.full_like(level, 0.25), 0.5 - level, level - 0.5], dim=1)
        return -logits if self.training else logits


def test_validation_counts_every_pixel_once_for_any_sizes_and_batch(dataset: Dataset, splits: Splits) -> None:
    model = Threshold().train()
    images = Images(dataset, splits[1])
    for batch_size in (1, 3, 8):
        counts = validate(model, images, range(6), 3, MEAN, STD, 1.0, batch_size, ALONE)
        assert Scores.from_confusion(counts, NAMES).iou == dict.fromkeys(NAMES, 1.0)
        assert counts.sum() == sum(sample.height * sample.width for sample in images.samples)
    assert not model.training
    parts = [validate(model, images, some, 3, MEAN, STD, 1.0, 4, ALONE) for some in ([0, 5], [1, 2, 3, 4])]
    assert np.array_equal(sum(parts), counts)


def test_a_batch_of_large_images_is_small(dataset: Dataset, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "BATCH_AREA", 2 * 64 * 64)
    model, sizes = Threshold(), list[int]()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    validate(model, Images(dataset, splits[0]), range(14), 3, MEAN, STD, 1.0, 8, ALONE)
    assert sizes == [2] * 7
    validate(model, Images(dataset, splits[0]), range(2), 3, MEAN, STD, 4.0, 8, ALONE)  # of which none fits
    assert sizes[7:] == [1, 1]


def test_validation_scores_zoomed_images_at_native_size(dataset: Dataset, splits: Splits) -> None:
    counts = validate(Threshold(), Images(dataset, splits[1]), range(6), 3, MEAN, STD, 0.5, 4, ALONE)
    scores = Scores.from_confusion(counts, NAMES)
    union, hits = np.zeros(3), np.zeros(3)
    for name in splits[1]:
        sample = dataset.by_id[name]
        image, mask = Images(dataset, [name])[0]
        image = zoom_image(image, 0.5)
        x = (torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255 - MEAN[:, None, None]) / STD[:, None, None]
        logits = F.interpolate(Threshold().eval()(x), size=mask.shape, mode="bilinear", align_corners=False)
        prediction = logits[0].argmax(0).numpy()
        assert mask.shape == (sample.height, sample.width)
        for kind in range(3):
            hits[kind] += ((prediction == kind) & (mask == kind)).sum()
            union[kind] += ((prediction == kind) | (mask == kind)).sum()
    assert [scores.iou[name] for name in NAMES] == pytest.approx(list(hits / union))
    assert 0.5 < scores.miou < 1


def surfaces(count: int, size: tuple[int, int], groups: int) -> list[Surface]:
    """The last has the only defect of class 2."""
    rest = [Surface(f"{index % groups}", *size, classes=(1,) if index % 3 else ()) for index in range(count - 1)]
    return [*rest, Surface("rare", *size, classes=(2,))]


LONG = RECIPE.model_copy(update={"steps": 2000, "batch_size": 8, "crop": (200, 200)})


def cost(samples: list[Surface], places: tuple[int, ...], zoom: float) -> float:
    """In iterations."""
    area = sum(samples[place].height * samples[place].width for place in places) * zoom**2
    return FORWARD_SHARE * area / (LONG.batch_size * math.prod(LONG.crop))


def test_few_images_are_all_looked_at_twenty_times() -> None:
    assert Plan.make(surfaces(100, (200, 200), 50), 1.0, LONG) == Plan(100, tuple(range(100)), ())


def test_more_images_are_looked_at_less_often() -> None:
    samples = surfaces(400, (200, 200), 50)
    plan = Plan.make(samples, 1.0, LONG)
    assert (len(plan.watched), plan.others) == (400, ())
    assert 0 <= plan.interval - cost(samples, plan.watched, 1.0) / 0.1 <= 1
    assert plan.interval <= 400


@pytest.mark.parametrize(("count", "size", "zoom"), [(2000, (200, 200), 1.5), (40, (834, 2828), 1.0)])
def test_of_many_or_large_images_some_show_how_it_goes(count: int, size: tuple[int, int], zoom: float) -> None:
    samples = surfaces(count, size, groups=5)
    plan = Plan.make(samples, zoom, LONG)
    assert plan.interval == 400
    assert cost(samples, plan.watched, zoom) <= 0.1 * plan.interval
    assert sorted(plan.watched + plan.others) == list(range(count))
    assert {label for place in plan.watched for label in samples[place].classes} == {1, 2}
    assert len({samples[place].group for place in plan.watched}) == min(len(plan.watched), 6)
    assert Plan.make(samples, zoom, LONG) == plan
    assert Plan.make(samples, zoom, LONG.model_copy(update={"seed": 4})).watched != plan.watched


def test_an_image_that_takes_longer_than_its_share_is_looked_at_seldom() -> None:
    samples = surfaces(3, (4000, 4000), groups=1)
    plan = Plan.make(samples, 1.0, LONG)
    assert len(plan.watched) == 2  # one of each class
    assert 0 <= plan.interval - cost(samples, plan.watched, 1.0) / 0.1 <= 1
