from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from dbrnet.evaluation.defect_metrics import count_defects
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.records import MatchFacts
from tests.evaluation.conftest import RULES
from tests.evaluation.random_masks import CLASSES, masks

Mask = NDArray[np.uint8]
CROSS = ndimage.generate_binary_structure(2, 1)
EIGHT = np.ones((3, 3), bool)


def plain_defects(
    region: NDArray[np.bool_], counted: NDArray[np.bool_], agreed: NDArray[np.bool_], share: float
) -> list[tuple[int, bool]]:
    """Area and verdict of each defect that counts, with scipy's labels and plain loops."""
    labels, number = ndimage.label(region, structure=EIGHT)
    defects = []
    for label in range(1, number + 1):
        pixels = [place for place in zip(*np.nonzero(labels == label), strict=True) if counted[place]]
        if pixels:
            hits = sum(bool(agreed[place]) for place in pixels)
            defects.append((len(pixels), hits / len(pixels) >= share))
    return defects


def plain_outlines(prediction: Mask, truth: Mask, id_: int, tolerance: int) -> tuple[int, int, int, int]:
    """True outline pixels, those met, predicted ones, those correct: with erosion and distances by scipy."""
    ignored = truth == IGNORE_INDEX
    true, predicted = truth == id_, prediction == id_
    outline = true & ~ndimage.binary_erosion(true | ignored, CROSS, border_value=1)
    predicted_outline = predicted & ~ndimage.binary_erosion(predicted, CROSS, border_value=1)
    counted = distance(ignored) > tolerance
    met = counted & outline & (distance(predicted_outline) <= tolerance)
    correct = counted & predicted_outline & (distance(outline) <= tolerance)
    counts = (outline & counted, met, predicted_outline & counted, correct)
    return tuple(int(pixels.sum()) for pixels in counts)  # type: ignore[return-value]


def distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not region.any():
        return np.full(region.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~region))


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 1 / 3, 0.5, 0.8, 1.0]), tolerance=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_counts_equal_plain_loops_over_scipys_labels_and_distances(seed: int, share: float, tolerance: int) -> None:
    prediction, truth = masks(seed)
    counts = count_defects(prediction, truth, CLASSES, MatchFacts(min_overlap=share, boundary_tolerance=tolerance))
    counted = truth != IGNORE_INDEX
    for id_ in range(1, CLASSES):
        true, predicted = truth == id_, prediction == id_
        defects = plain_defects(true, true, predicted, share)
        sizes = [sum(area < 32**2 for area, _ in defects), sum(32**2 <= area < 96**2 for area, _ in defects), 0]
        assert counts.true[id_ - 1].tolist() == sizes
        assert counts.found[id_ - 1].sum() == sum(found for _, found in defects)
        defects = plain_defects(predicted, counted, true, share)
        assert counts.predicted[id_ - 1] == len(defects)
        assert counts.correct[id_ - 1] == sum(correct for _, correct in defects)
        outlines = (counts.true_boundary, counts.met_boundary, counts.predicted_boundary, counts.correct_boundary)
        expected = plain_outlines(prediction, truth, id_, tolerance)
        assert tuple(int(pixels[id_ - 1]) for pixels in outlines) == expected


def counts_of(prediction: Mask, truth: Mask, rules: MatchFacts = RULES) -> dict[str, Any]:
    return {name: counts[0].tolist() for name, counts in vars(count_defects(prediction, truth, 2, rules)).items()}


def test_half_of_a_defect_is_enough_and_less_is_not() -> None:
    truth = np.zeros((10, 30), np.uint8)
    truth[2:4, 2:6] = truth[6:8, 2:6] = 1
    prediction = np.zeros_like(truth)
    prediction[2:4, 2:4] = 1  # 4 of 8
    prediction[6:8, 2:3] = prediction[6, 3] = 1  # 3 of 8
    prediction[2:4, 20:22] = 1  # nothing there
    counts = counts_of(prediction, truth)
    assert (counts["true"], counts["found"]) == ([2, 0, 0], [1, 0, 0])
    assert (counts["predicted"], counts["correct"]) == (3, 2)
    assert counts_of(prediction, truth, MatchFacts(min_overlap=0.375, boundary_tolerance=2))["found"] == [2, 0, 0]
    assert counts_of(prediction, truth, MatchFacts(min_overlap=0.51, boundary_tolerance=2))["found"] == [0, 0, 0]


def test_another_class_finds_nothing_and_corners_connect() -> None:
    truth = np.diag(np.ones(6, np.uint8))
    counts = count_defects((truth * 2).astype(np.uint8), truth, 3, RULES)
    assert counts.true[:, 0].tolist() == [1, 0]
    assert counts.found.sum() == 0
    assert (counts.predicted.tolist(), counts.correct.tolist()) == ([0, 1], [0, 0])


@pytest.mark.parametrize(("area", "size"), [(1023, 0), (1024, 1), (9215, 1), (9216, 2)])
def test_sizes_are_cocos(area: int, size: int) -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth.ravel()[:area] = 1  # whole rows, and a part of one below them
    counts = count_defects(truth, truth, 2, RULES)
    assert counts.true[0].tolist() == counts.found[0].tolist() == [int(place == size) for place in range(3)]


def test_ignored_pixels_count_neither_as_found_nor_as_false() -> None:
    truth = np.zeros((12, 40), np.uint8)
    truth[:, 20:] = IGNORE_INDEX
    truth[2:6, 16:20] = 1
    prediction = np.zeros_like(truth)
    prediction[2:6, 16:32] = 1  # most of it on ignored pixels, all others right
    prediction[8:10, 30:36] = 1  # wholly on ignored pixels
    counts = counts_of(prediction, truth)
    assert (counts["predicted"], counts["correct"], counts["found"]) == (1, 1, [1, 0, 0])
    # Its outline counts at more than two pixels from ignored ones: columns 16 and 17.
    assert counts["true_boundary"] == counts["met_boundary"] == 2 * 2 + 2
    assert counts["predicted_boundary"] == counts["correct_boundary"] == 2 * 2 + 2


def test_outlines_may_be_off_by_the_tolerance_and_no_more() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    for off, missed in ((0, 0), (2, 0), (3, 2 * 14)):  # of top and bottom, except near the sides
        grown = np.zeros_like(truth)
        grown[10 - off : 30 + off, 10:30] = 1
        counts = counts_of(grown, truth, RULES)
        assert counts["true_boundary"] == 4 * 20 - 4
        assert counts["true_boundary"] - counts["met_boundary"] == missed


def test_the_images_border_is_no_outline() -> None:
    whole = np.ones((9, 9), np.uint8)
    assert counts_of(whole, whole)["true_boundary"] == 0
    half = np.zeros((9, 9), np.uint8)
    half[:, :4] = 1
    counts = counts_of(half, half)
    assert counts["true_boundary"] == counts["met_boundary"] == counts["correct_boundary"] == 9


def test_a_clean_image_counts_nothing() -> None:
    clean = np.zeros((8, 8), np.uint8)
    assert all(counts.sum() == 0 for counts in vars(count_defects(clean, clean, CLASSES, RULES)).values())
