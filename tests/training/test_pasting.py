import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.data.dataset import Image, Mask
from dbrnet.data.loading import BLACK, exposure_levels, normalise_exposure
from dbrnet.training.pasting import NEAR_EDGE, Defect, find_defects, paste

RANDOM = np.random.default_rng


def metal(height: int, width: int, level: float, deviation: float) -> Image:
    noise = RANDOM(5).normal(level, deviation, (height, width, 1))
    return np.repeat(noise.clip(0, 255), 3, 2).astype(np.uint8)


def donor() -> tuple[Image, Mask]:
    """Dark metal with a darker spot in its middle and one at its left edge."""
    image, mask = metal(80, 100, 90, 8), np.zeros((80, 100), np.uint8)
    mask[30:40, 40:52], mask[60:70, 0:8] = 1, 2
    image[mask > 0] = 40
    return image, mask


def test_defects_are_the_connected_regions_of_each_class() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 3:8], mask[6:9, 8:10] = 1, 1  # they touch at a corner
    mask[6:9, 3:8] = 2
    mask[15, 20] = 1  # a speck
    mask[0, 0] = 3  # of this class there is nothing else
    mask[12:20, 0:2] = 255
    found = {(defect.label, defect.top, defect.left, int(defect.region.sum())) for defect in find_defects(mask, 4)}
    assert found == {(1, 2, 3, 26), (2, 6, 3, 15), (3, 0, 0, 1)}
    for defect in find_defects(mask, 4):
        row, column = defect.pixel(RANDOM(0))
        assert mask[row, column] == defect.label


def test_a_pasted_defect_takes_the_light_of_its_new_place() -> None:
    (image, mask), bright = donor(), metal(90, 120, 180, 16)
    [defect, _] = find_defects(mask, 3)
    pasted, labels, there = paste(
        image, defect, bright, np.zeros((90, 120), np.uint8), BLACK, RANDOM(1)
    ) or pytest.fail("no place")
    assert there.region.sum() == defect.region.sum() == (labels == 1).sum()
    inside = pasted[labels == 1].mean()
    assert inside == pytest.approx(180 - 2 * 50, abs=12)  # twice the contrast of the metal around, so twice the depth
    far = np.ones_like(labels, bool)
    far[there.top - 8 : there.top + 28, there.left - 8 : there.left + 28] = False
    assert np.array_equal(pasted[far], bright[far])  # nothing else changes
    assert bright[labels == 1].mean() > 150  # nor does what was given


def test_a_defect_at_the_edge_stays_there() -> None:
    image, mask = donor()
    [_, defect] = find_defects(mask, 3)
    for seed in range(10):
        _, labels, there = paste(
            image, defect, metal(90, 120, 180, 8), np.zeros((90, 120), np.uint8), BLACK, RANDOM(seed)
        ) or pytest.fail("no place")
        assert there.left == 0
        assert np.nonzero(labels)[1].min() == 0


@pytest.mark.parametrize("normalised", [False, True])
def test_no_defect_covers_another_or_lies_beside_the_metal(normalised: bool) -> None:
    image, mask = donor()
    [defect, _] = find_defects(mask, 3)
    target, labels = metal(60, 400, 90, 30), np.zeros((60, 400), np.uint8)
    labels[:, 100:120] = 2
    target[:, 200:] = 0
    black = BLACK
    if normalised:  # black is no longer black then
        black = int(exposure_levels(target)[BLACK])
        target = normalise_exposure(target)
        assert target[0, 300, 0] > BLACK
    places = []
    for seed in range(60):
        if result := paste(image, defect, target, labels, black, RANDOM(seed)):
            assert (result[1] == 2).sum() == (labels == 2).sum()
            places.append(result[2].left)
    assert len(places) > 30
    assert max(places) < 200
    assert paste(image, defect, np.zeros_like(target), labels, black, RANDOM(0)) is None
    assert paste(image, defect, target, np.full_like(labels, 2), black, RANDOM(0)) is None
    assert paste(image, defect, target[:12], labels[:12], black, RANDOM(0)) is None  # no room


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 60), st.integers(20, 90), st.integers(20, 90))
def test_any_defect_fits_or_is_left(seed: int, height: int, width: int, rows: int, columns: int) -> None:
    random = RANDOM(seed)
    image, mask = metal(60, 70, 120, 9), np.zeros((60, 70), np.uint8)
    top, left = int(random.integers(0, 60 - height + 1)), int(random.integers(0, 70 - width + 1))
    mask[top : top + height, left : left + width] = 1
    [defect] = find_defects(mask, 2)
    target = metal(rows, columns, 150, 9)
    result = paste(image, defect, target, np.zeros((rows, columns), np.uint8), BLACK, random)
    if result is not None:
        pasted, labels, there = result
        assert pasted.shape == target.shape
        assert (labels == 1).sum() == height * width
        assert isinstance(there, Defect)
        if top < NEAR_EDGE and top + height + NEAR_EDGE < rows:
            assert np.nonzero(labels)[0].min() <= top
