"""The figures of any set of groups against plain sums over its images."""

from collections.abc import Sequence

import numpy as np
import pytest

from dbrnet.evaluation.defect_metrics import SIZES
from dbrnet.evaluation.figures import defect_counts, estimates, figures, group_counts
from dbrnet.evaluation.metrics import Scores
from dbrnet.evaluation.predictions import Evaluation, ImageResult
from dbrnet.records import DefectTally
from tests.evaluation.random_masks import NAMES, Mask, evaluation, image


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def plain_figures(images: Sequence[ImageResult]) -> dict[str, float | None]:
    """Every figure from the images one by one, with `Scores` for those of pixels."""
    scores = Scores.from_confusion(np.sum([one.confusion for one in images], axis=0), NAMES)
    found: dict[str, float | None] = {
        "miou": scores.miou,
        "miou_defects": scores.miou_defects,
        "pixel_accuracy": scores.pixel_accuracy,
        **{f"iou/{name}": value for name, value in scores.iou.items()},
    }
    seen = [one.defects for one in images]

    def total(name: str, *place: int) -> int:
        return sum(int(np.sum(getattr(one, name)[place])) for one in seen)

    for id_, name in enumerate(NAMES[1:]):
        found[f"defect_recall/class/{name}"] = ratio(total("found", id_), total("true", id_))
        found[f"defect_precision/class/{name}"] = ratio(total("correct", id_), total("predicted", id_))
        precision = ratio(total("correct_boundary", id_), total("predicted_boundary", id_))
        recall = ratio(total("met_boundary", id_), total("true_boundary", id_))
        if precision is None and recall is None:
            found[f"boundary_f1/{name}"] = None
        else:
            both = (precision or 0) + (recall or 0)
            found[f"boundary_f1/{name}"] = 2 * (precision or 0) * (recall or 0) / both if both else 0.0
    for place, size in enumerate(SIZES):
        of_size = [(one.found[:, place].sum(), one.true[:, place].sum()) for one in seen]
        found[f"defect_recall/size/{size}"] = ratio(*(int(sum(counts)) for counts in zip(*of_size, strict=True)))
    found["boundary_f1"] = mean([found[f"boundary_f1/{name}"] for name in NAMES[1:]])
    found["defect_recall"] = ratio(total("found"), total("true"))
    found["defect_precision"] = ratio(total("correct"), total("predicted"))
    clean = [one for one in images if one.defect_pixels == 0]
    alarms = [one.predicted_defects for one in clean]
    found["false_positives"] = ratio(sum(alarms), len(clean))
    found["flagged_share"] = ratio(sum(count > 0 for count in alarms), len(clean))
    return found


def flat(rows: np.ndarray) -> dict[str, float | None]:
    named = figures(rows.sum(axis=0, dtype=float)[None], NAMES)
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in named.items()}


@pytest.mark.parametrize("seed", range(8))
def test_figures_equal_plain_sums_over_the_images_of_any_groups(seed: int) -> None:
    whole = evaluation(range(100 * seed, 100 * seed + 14), groups=6)
    rows = group_counts(whole)
    drawn = np.random.default_rng(seed).integers(0, 6, 6)
    images = [one for group in drawn for one in whole.images if one.group == f"g{group}"]
    expected = plain_figures(images)
    got = flat(rows[drawn])
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name


def test_values_equal_the_scores() -> None:
    whole = evaluation(range(9), groups=3)
    found = estimates(whole, 0.95)
    for name in ("miou", "miou_defects", "pixel_accuracy"):
        assert found[name].value == pytest.approx(getattr(whole.scores, name))
        assert found[name].unit == "share"
    assert found["false_positives"].unit == "count"
    counts = defect_counts(whole)
    for what in ("true", "found"):
        by_class, by_size = (
            sum(getattr(tally, what) for tally in tallies.values()) for tallies in (counts.by_class, counts.by_size)
        )
        assert by_class == by_size == sum(getattr(one, f"{what}_defects") for one in whole.images)


def square(id_: int | None) -> Mask:
    mask = np.zeros((16, 16), np.uint8)
    if id_:
        mask[4:8, 4:8] = id_
    return mask


def test_an_absent_class_has_no_figure_and_a_missed_one_zero() -> None:
    images = (image("a", "a", square(None), square(1)), image("b", "b", square(2), square(2)))
    found = {name: one.value for name, one in estimates(Evaluation(NAMES, images), 0.95).items()}
    assert found["iou/stain"] is found["defect_recall/class/stain"] is found["boundary_f1/stain"] is None
    assert found["iou/scratch"] == found["defect_recall/class/scratch"] == found["boundary_f1/scratch"] == 0
    assert found["defect_precision/class/scratch"] is None
    assert found["defect_recall/size/large"] is found["false_positives"] is found["flagged_share"] is None
    assert (found["boundary_f1"], found["defect_recall"], found["miou_defects"]) == (0.5, 0.5, 0.5)


def test_false_positives_are_counted_on_defect_free_images_only() -> None:
    two = square(1)
    two[12:14, 12:14] = 3
    clean = [image("a", "a", two, square(None)), image("b", "b", square(None), square(None))]
    invented = image("c", "c", two, square(1))
    whole = Evaluation(NAMES, (*clean, invented))
    found = estimates(whole, 0.95)
    assert (found["false_positives"].value, found["flagged_share"].value) == (1.0, 0.5)
    assert found["defect_precision"].value == 0.25
    assert defect_counts(whole).by_class["stain"] == DefectTally(true=0, found=0, predicted=2, correct=0)
