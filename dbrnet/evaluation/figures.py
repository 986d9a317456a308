"""The figures of an evaluation, each a ratio of sums of counts, so that it follows from any draw of groups."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbrnet.evaluation.bootstrap import RESAMPLES, SEED, estimate
from dbrnet.evaluation.defect_metrics import SIZES
from dbrnet.evaluation.predictions import Evaluation, ImageResult
from dbrnet.records import Bootstrap, ComparedScores, DefectTable, DefectTally, Estimate, MatchFacts, SplitScores, Unit

DIFFERENCE = "difference of "  # before a figure's name

Floats = NDArray[np.float64]


def group_counts(evaluation: Evaluation) -> NDArray[np.int64]:
    """The counts of each group, [G, K], added up over its images; groups in the order of their names."""
    rows: dict[str, NDArray[np.int64]] = {}
    for image in evaluation.images:
        rows[image.group] = rows.get(image.group, 0) + _row(image)
    return np.stack([rows[group] for group in sorted(rows)])


def figures(sums: Floats, classes: Sequence[str]) -> dict[str, Floats]:
    """Figures by name, each [R], from sums of `group_counts` [R, K]; NaN where the divisor is 0.

    The rules for absent classes are those of `metrics`: no figure, and left out of every mean.
    """
    counts = _by_name(sums, len(classes))
    hits = np.diagonal(counts["confusion"], axis1=1, axis2=2)
    true, predicted = counts["confusion"].sum(axis=2), counts["confusion"].sum(axis=1)
    iou = _ratio(hits, true + predicted - hits)
    boundary = _f1(*(counts[f"{name}_boundary"] for name in ("correct", "predicted", "met", "true")))
    recall = _ratio(counts["found"].sum(axis=2), counts["true"].sum(axis=2))
    by_size = _ratio(counts["found"].sum(axis=1), counts["true"].sum(axis=1))
    precision = _ratio(counts["correct"], counts["predicted"])
    defects = classes[1:]
    return {
        "miou": _mean(iou),
        "miou_defects": _mean(iou[:, 1:]),
        "pixel_accuracy": _ratio(hits.sum(axis=1), true.sum(axis=1)),
        **_named("iou", classes, iou),
        "defect_recall": _ratio(counts["found"].sum(axis=(1, 2)), counts["true"].sum(axis=(1, 2))),
        "defect_precision": _ratio(counts["correct"].sum(axis=1), counts["predicted"].sum(axis=1)),
        **_named("defect_recall/class", defects, recall),
        **_named("defect_recall/size", SIZES, by_size),
        **_named("defect_precision/class", defects, precision),
        "false_positives": _ratio(counts["alarms"], counts["defect_free"]),
        "flagged_share": _ratio(counts["flagged"], counts["defect_free"]),
        "boundary_f1": _mean(boundary),
        **_named("boundary_f1", defects, boundary),
    }


def estimates(evaluation: Evaluation, confidence: float) -> dict[str, Estimate]:
    """Every figure of the evaluation with its interval."""
    classes = evaluation.classes
    return estimate(
        group_counts(evaluation), lambda sums: figures(sums, classes), confidence=confidence, unit_of=unit_of
    )


def summarise(evaluation: Evaluation, rules: MatchFacts, confidence: float) -> SplitScores:
    """All that is kept of an evaluation whose defects were counted by `rules`."""
    groups = len({image.group for image in evaluation.images})
    return SplitScores(
        scores=evaluation.scores,
        figures=estimates(evaluation, confidence),
        bootstrap=Bootstrap(resamples=RESAMPLES, confidence=confidence, groups=groups, seed=SEED),
        match=rules,
        defects=defect_counts(evaluation),
        confusion=evaluation.confusion.tolist(),
        images=len(evaluation.images),
        images_by_class=evaluation.images_by_class(),
        defect_free=len(evaluation.defect_free),
        false_positives=len(evaluation.false_positives),
        defective=len(evaluation.defective),
        missed=len(evaluation.missed),
    )


def compare(
    candidate: Evaluation, champion: Evaluation, *, confidence: float, runtime: str, seen: float | None
) -> ComparedScores:
    """The champion's figures, and the candidate's minus those; `runtime` and `seen` are the champion's.

    Both are scored on the same draws of groups, so that the difficulty of an image cancels out of the difference.
    Raises ValueError where the images or classes are not the same.
    """
    images = [[(image.id, image.group) for image in model.images] for model in (candidate, champion)]
    if images[0] != images[1] or candidate.classes != champion.classes:
        raise ValueError("the two models were not evaluated on the same images and classes")
    classes, counts = candidate.classes, group_counts(candidate)
    own = counts.shape[1]

    def both(sums: Floats) -> dict[str, Floats]:
        first, second = figures(sums[:, :own], classes), figures(sums[:, own:], classes)
        return second | {DIFFERENCE + name: first[name] - second[name] for name in first}

    compared = estimate(np.hstack([counts, group_counts(champion)]), both, confidence=confidence, unit_of=unit_of)
    names = [name for name in compared if not name.startswith(DIFFERENCE)]
    return ComparedScores(
        runtime=runtime,
        seen=seen,
        scores=champion.scores,
        figures={name: compared[name] for name in names},
        defects=defect_counts(champion),
        difference={name: compared[DIFFERENCE + name] for name in names},
    )


def unit_of(name: str) -> Unit:
    """The unit of a figure of `figures`, or of the difference of two."""
    count = name.removeprefix(DIFFERENCE) == "false_positives"
    if name.startswith(DIFFERENCE):
        return "difference" if count else "points"
    return "count" if count else "share"


def defect_counts(evaluation: Evaluation) -> DefectTable:
    """Defects by class and by size."""
    counts = _by_name(group_counts(evaluation).sum(axis=0)[None], len(evaluation.classes))
    true, found = counts["true"][0], counts["found"][0]
    by_size = {"true": true.sum(axis=0), "found": found.sum(axis=0)}
    by_class = {"true": true.sum(axis=1), "found": found.sum(axis=1)}
    by_class |= {name: counts[name][0] for name in ("predicted", "correct")}
    return DefectTable(by_class=_rows(evaluation.classes[1:], by_class), by_size=_rows(SIZES, by_size))


def _rows(names: Sequence[str], columns: dict[str, NDArray[np.int64]]) -> dict[str, DefectTally]:
    return {
        name: DefectTally(**{what: int(values[index]) for what, values in columns.items()})
        for index, name in enumerate(names)
    }


def _shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """The counts by name and their shapes, in the order of a row's columns."""
    defects = classes - 1
    outlines = ("true_boundary", "met_boundary", "predicted_boundary", "correct_boundary")
    return {
        "confusion": (classes, classes),
        **dict.fromkeys(("true", "found"), (defects, len(SIZES))),
        **dict.fromkeys(("predicted", "correct", *outlines), (defects,)),
        **dict.fromkeys(("defect_free", "alarms", "flagged"), ()),
    }


def _row(image: ImageResult) -> NDArray[np.int64]:
    """All counts of one image, [K]."""
    defect_free = image.defect_pixels == 0
    alarms = image.predicted_defects if defect_free else 0
    clean = {"defect_free": defect_free, "alarms": alarms, "flagged": alarms > 0}
    counts = {"confusion": image.confusion, **vars(image.defects), **clean}
    return np.concatenate([np.ravel(counts[name]) for name in _shapes(len(image.confusion))]).astype(np.int64)


def _by_name(sums: NDArray[Any], classes: int) -> dict[str, NDArray[Any]]:
    """The columns of `sums` [R, K] by the name of the count, each [R, *shape]."""
    shapes = _shapes(classes)
    ends = np.cumsum([prod(shape) for shape in shapes.values()])
    parts = np.split(sums, ends[:-1], axis=1)
    return {name: part.reshape(len(sums), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Elementwise part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _f1(correct: Floats, predicted: Floats, met: Floats, true: Floats) -> Floats:
    """2 p r / (p + r) with p = correct / predicted and r = met / true; 0 where either side has nothing."""
    either = predicted + true > 0
    doubled = np.where(either, correct * true + met * predicted, 0)
    f1 = np.divide(2 * correct * met, doubled, out=np.zeros(doubled.shape), where=doubled > 0)
    return np.where(either, f1, np.nan)


def _mean(values: Floats) -> Floats:
    """The mean over the classes [R, C] that have a value, [R]; NaN where none has."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def _named(figure: str, names: Sequence[str], values: Floats) -> dict[str, Floats]:
    return {f"{figure}/{name}": values[:, index] for index, name in enumerate(names)}
