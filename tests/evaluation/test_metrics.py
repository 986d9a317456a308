"""The scores against plain counts."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dbrnet.evaluation.metrics import IGNORE_INDEX, Scores, confusion_matrix

NAMES = ("background", "scratch", "dent", "stain")


def random_masks(seed: int, classes: int = 4, used: int = 4) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A prediction and a target [2, 9, 7] over the first `used` ids, with ignored pixels in the target."""
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, used, (2, 9, 7), dtype=np.uint8)
    target = np.where(rng.random((2, 9, 7)) < 0.6, prediction, rng.integers(0, used, (2, 9, 7))).astype(np.uint8)
    target[rng.random(target.shape) < 0.1] = IGNORE_INDEX
    return prediction, target


def plain_count(prediction: NDArray[np.uint8], target: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    counts = np.zeros((classes, classes), np.int64)
    for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
        if t != IGNORE_INDEX:
            counts[t, p] += 1
    return counts


@given(seed=st.integers(0, 2**32 - 1), used=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_confusion_matrix_equals_a_plain_count(seed: int, used: int) -> None:
    prediction, target = random_masks(seed, used=used)
    confusion = confusion_matrix(prediction, target, 4)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, plain_count(prediction, target, 4))

    scores = Scores.from_confusion(confusion, NAMES)
    counted = target != IGNORE_INDEX
    ious = []
    for id_, name in enumerate(NAMES):
        true, found = (target == id_) & counted, (prediction == id_) & counted
        if not (true | found).any():
            assert scores.iou[name] is None
            assert scores.f1[name] is None
            assert name in scores.absent
            continue
        both = (true & found).sum()
        ious.append(both / (true | found).sum())
        assert scores.iou[name] == pytest.approx(ious[-1])
        assert scores.f1[name] == pytest.approx(2 * both / (true.sum() + found.sum()))
        assert scores.precision[name] == (pytest.approx(both / found.sum()) if found.any() else None)
        assert scores.recall[name] == (pytest.approx(both / true.sum()) if true.any() else None)
    assert scores.miou == pytest.approx(np.mean(ious))
    assert scores.pixel_accuracy == pytest.approx((prediction == target)[counted].mean())


def test_absent_missed_and_falsely_predicted_classes_differ() -> None:
    target = np.array([[0, 0, 1, 1]], np.uint8)
    prediction = np.array([[0, 2, 0, 0]], np.uint8)  # 1 is missed, 2 invented, 3 in neither
    scores = Scores.from_confusion(confusion_matrix(prediction, target, 4), NAMES)
    assert scores.iou == {"background": 0.25, "scratch": 0.0, "dent": 0.0, "stain": None}
    assert scores.absent == ("stain",)
    assert scores.miou == pytest.approx(0.25 / 3)  # the released code would say 0.25 / 4
    assert scores.miou_defects == 0.0
    assert (scores.precision["scratch"], scores.recall["scratch"]) == (None, 0.0)
    assert (scores.precision["dent"], scores.recall["dent"]) == (0.0, None)


def test_a_clean_set_predicted_clean_has_no_defect_score() -> None:
    clean = np.zeros((3, 3), np.uint8)
    scores = Scores.from_confusion(confusion_matrix(clean, clean, 4), NAMES)
    assert (scores.miou, scores.miou_defects, scores.pixel_accuracy) == (1.0, None, 1.0)
    assert json.loads(scores.model_dump_json())["iou"]["dent"] is None


def test_confusion_matrices_of_parts_add_up_to_the_sets() -> None:
    (p1, t1), (p2, t2) = random_masks(1), random_masks(2)
    whole = confusion_matrix(np.concatenate([p1, p2]), np.concatenate([t1, t2]), 4)
    np.testing.assert_array_equal(whole, confusion_matrix(p1, t1, 4) + confusion_matrix(p2, t2, 4))


def test_wrong_input_is_named_in_the_error() -> None:
    mask = np.array([[0, 4]], np.uint8)
    good = np.zeros_like(mask)
    with pytest.raises(ValueError, match=r"prediction holds class id 4.*0 to 3"):
        confusion_matrix(mask, good, 4)
    with pytest.raises(ValueError, match="ground truth holds class id 4"):
        confusion_matrix(good, mask, 4)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(good, good.T, 4)
    with pytest.raises(ValueError, match="no labelled pixel"):
        Scores.from_confusion(confusion_matrix(good, np.full_like(good, IGNORE_INDEX), 4), NAMES)
