"""On whole datasets: halves drawn at random do not differ, exposures do."""

from collections.abc import Callable

import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.image_stats import write_image_stats
from dbrnet.drift.checks import compare_classes, compare_values, exceeds
from dbrnet.drift.new_samples import Images, find_new_samples
from tests.sections import PARAMS

DEFAULTS = PARAMS.drift


def shifts(images: Images, first: np.ndarray, classes: int) -> dict[str, bool]:
    """What is found to differ between the images of `first` (a mask) and the others."""
    one, other = (images.take(np.flatnonzero(side).tolist()) for side in (first, ~first))
    assert one.labels is not None
    assert other.labels is not None
    balance = compare_classes(one.labels, one.groups, other.labels, other.groups, classes=classes)
    features = (
        compare_values(before, one.groups, after, other.groups, comparisons=5)
        for before, after in zip(one.features.T, other.features.T, strict=True)
    )
    return {
        "classes": exceeds(balance, DEFAULTS.max_class_shift),
        "image": any(exceeds(shift, DEFAULTS.max_image_drift) for shift in features),
    }


def halves(images: Images, seed: int, *, whole_groups: bool) -> np.ndarray:
    """A random half of the images, or the images of a random half of the groups."""
    rng = np.random.default_rng(seed)
    names = np.array(images.groups if whole_groups else [str(path) for path in images.paths])
    units = np.unique(names)
    return np.isin(names, rng.permutation(units)[: len(units) // 2])


@pytest.mark.parametrize("whole_groups", [True, False])
def test_reshuffled_halves_are_no_drift(strips: Dataset, whole_groups: bool) -> None:
    images = find_new_samples(strips, strips).reference
    for seed in range(20):
        half = halves(images, seed, whole_groups=whole_groups)
        assert not any(shifts(images, half, len(strips.card.classes)).values()), seed


@pytest.mark.slow
def test_exposures_are_drift_and_reshuffled_halves_are_none(real_dataset: Callable[[str], Dataset]) -> None:
    tiles = real_dataset("magnetic-tile")
    write_image_stats(tiles, {})
    images = find_new_samples(tiles, tiles).reference
    classes = len(tiles.card.classes)
    exposures = np.array([int(sample.id.partition("exp")[2][0]) for sample in tiles.samples])
    for dark, bright in ((1, 6), (1, 2), (5, 6)):
        one_of_two = images.take(np.flatnonzero(np.isin(exposures, (dark, bright))).tolist())
        found = shifts(one_of_two, exposures[np.isin(exposures, (dark, bright))] == dark, classes)
        assert found == {"classes": False, "image": True}, (dark, bright)
    for seed in range(20):
        for whole_groups in (True, False):
            half = halves(images, seed, whole_groups=whole_groups)
            assert shifts(images, half, classes) == {"classes": False, "image": False}, seed
