"""Candidate and champion in rows: a figure each, the difference, its drawing, and how it reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dbrnet.evaluation.defect_metrics import SIZES
from dbrnet.records import Criterion, DefectTally, Estimate
from dbrnet.reports.decision_facts import Facts

OVERALL = {
    "miou": "mIoU",
    "miou_defects": "mIoU, defects only",
    "pixel_accuracy": "pixel accuracy",
    "defect_recall": "defects found",
    "defect_precision": "predicted defects that are correct",
    "boundary_f1": "boundary F1",
    "false_positives": "false positives per defect-free image",
    "flagged_share": "defect-free images flagged",
}
LESS_IS_BETTER = {"false_positives", "flagged_share"}
LEAST_SPAN = 0.01  # either way, so that a negligible difference looks like one
WIDTH = 160.0  # of a bar's view box
MARGIN = 0.08  # of the span, on either side

Span = tuple[float, float]
Reading = Literal["better", "worse", "same", "unclear", ""]


@dataclass(frozen=True)
class Drawing:
    """A figure on a bar: places from 0 to WIDTH; None where it has no such part."""

    mark: float  # the threshold, or no difference
    point: float | None
    low: float | None
    high: float | None
    good: tuple[float, float] | None = None  # where the side that passes begins, and its width


@dataclass(frozen=True)
class Comparison:
    """A row: both sides' figures, and the difference drawn on its table's scale."""

    key: str  # the figure's
    label: str  # in its table
    name: str  # in a sentence
    candidate: Estimate
    champion: Estimate
    difference: Estimate
    less_is_better: bool
    reads: Reading  # unclear: the interval holds 0; "": there is no interval
    counts: str  # such as "41 of 57 found", the candidate's; "" where nothing is counted
    drawing: Drawing | None = None

    @property
    def towards_better(self) -> Estimate:
        """The difference with the better side above 0."""
        if not self.less_is_better:
            return self.difference
        value, low, high = (
            None if end is None else -end for end in (self.difference.value, self.difference.high, self.difference.low)
        )
        return Estimate(value=value, low=low, high=high, unit=self.difference.unit)


def all_tables(facts: Facts) -> dict[str, list[Comparison]]:
    """The tables of accuracy by their headings."""
    return {
        "The whole test split": overall(facts),
        "IoU by class": by_class(facts, "iou", "IoU of {}"),
        "Defects found, by class": by_class(facts, "defect_recall/class", "{} found"),
        "Defects found, by size": by_size(facts),
        "Boundary F1 by class": by_class(facts, "boundary_f1", "boundary F1 of {}"),
    }


def overall(facts: Facts) -> list[Comparison]:
    """The figures of the whole test split; those that were not measured on either side are left out."""
    rows = [_row(facts, name, label, label) for name, label in OVERALL.items()]
    return _drawn([row for row in rows if row.candidate.value is not None or row.champion.value is not None])


def by_class(facts: Facts, figure: str, name: str) -> list[Comparison]:
    """`figure` (iou, boundary_f1, defect_recall/class) of each class; `name` such as "IoU of {}"."""
    counted = facts.evaluation.defects.by_class if figure == "defect_recall/class" else {}
    rows = [_row(facts, f"{figure}/{label}", label, name.format(label), counted.get(label)) for label in facts.classes]
    return _drawn(rows)


def by_size(facts: Facts) -> list[Comparison]:
    """The recall of small, medium and large defects."""
    counted = facts.evaluation.defects.by_size
    return _drawn(
        [_row(facts, f"defect_recall/size/{size}", size, f"{size} defects found", counted.get(size)) for size in SIZES]
    )


def draw_criterion(criterion: Criterion) -> Drawing:
    """A criterion's figure and threshold on a scale of their own, with the side that passes."""
    scale = _span([criterion.threshold, *_ends(criterion.figure)])
    drawing = _draw(criterion.figure, criterion.threshold, scale)
    at_least = criterion.direction == "at least"
    return replace(drawing, good=(drawing.mark, WIDTH - drawing.mark) if at_least else (0.0, drawing.mark))


def _row(facts: Facts, name: str, label: str, words: str, counted: DefectTally | None = None) -> Comparison:
    difference, less_is_better = facts.difference(name), name in LESS_IS_BETTER
    return Comparison(
        key=name,
        label=label,
        name=words,
        candidate=facts.figure(name),
        champion=facts.champion_figure(name),
        difference=difference,
        less_is_better=less_is_better,
        reads=_reading(difference, less_is_better),
        counts=f"{counted.found} of {counted.true} found" if counted else "",
    )


def _reading(difference: Estimate, less_is_better: bool) -> Reading:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return ""
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) != less_is_better else "worse"


def _drawn(rows: Sequence[Comparison]) -> list[Comparison]:
    """The rows with their differences drawn, the better side on the right: shares on one scale."""
    shared = [end for row in rows if row.difference.unit == "points" for end in _ends(row.towards_better)]
    drawn = []
    for row in rows:
        ends = _ends(row.towards_better)
        scale = _span([-LEAST_SPAN, LEAST_SPAN, *ends, *(shared if row.difference.unit == "points" else [])])
        drawn.append(replace(row, drawing=_draw(row.towards_better, 0.0, scale) if ends else None))
    return drawn


def _ends(figure: Estimate) -> list[float]:
    return [end for end in (figure.value, figure.low, figure.high) if end is not None]


def _span(values: Iterable[float]) -> Span:
    """From the least to the greatest of `values`, with a margin."""
    ends = sorted(values)
    margin = MARGIN * (ends[-1] - ends[0]) or 1.0
    return ends[0] - margin, ends[-1] + margin


def _draw(figure: Estimate, mark: float, scale: Span) -> Drawing:
    def place(value: float) -> float:
        return round(WIDTH * (value - scale[0]) / (scale[1] - scale[0]), 1)

    point, low, high = (None if end is None else place(end) for end in (figure.value, figure.low, figure.high))
    return Drawing(place(mark), point, low, high)
