"""Candidate and champion in rows: a figure each, the difference, and in words how it reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dbrnet.reports.decision_facts import Facts, Json
from dbrnet.reports.drawing import Drawing, draw, span

SIZES = ("small", "medium", "large")
OVERALL = {
    "miou": "mIoU",
    "miou_defects": "mIoU, defects only",
    "pixel_accuracy": "pixel accuracy",
    "defect_recall": "defects found",
    "defect_precision": "predicted defects that are there",
    "boundary_f1": "boundary F1",
    "false_positives": "false positives, each clean image",
    "flagged_share": "clean images flagged",
}
COUNTED = {"false_positives"}  # no share
BETTER_BELOW = {"false_positives", "flagged_share"}
LEAST_SPAN = 0.01  # either way, so that a difference of no account looks like one


@dataclass(frozen=True)
class Comparison:
    """A row: what is compared, both sides' figures, and the difference drawn on its table's scale."""

    label: str  # in its table
    name: str  # in a sentence
    candidate: Json
    champion: Json
    difference: Json
    share: bool  # shown in %; else as a number
    better_below: bool  # less is better
    reads: str  # better | worse | same | unclear: the interval holds 0 | "": no interval
    counts: str  # such as "41 of 57 found", the candidate's; "" where nothing is counted
    drawing: Drawing | None = None


def overall(facts: Facts) -> list[Comparison]:
    """The figures of the whole test split; those that were not measured on either side are left out."""
    return _drawn(
        row
        for name, label in OVERALL.items()
        if (row := _row(facts, name, label, label)).candidate["value"] is not None or row.champion["value"] is not None
    )


def by_class(facts: Facts, figure: str, name: str) -> list[Comparison]:
    """`figure` (iou, boundary_f1, defect_recall/class) of each class; `name` such as "IoU of {}"."""
    counted = facts.metrics["defects"]["by_class"] if figure == "defect_recall/class" else {}
    return _drawn(_row(facts, f"{figure}/{one}", one, name.format(one), counted.get(one)) for one in facts.classes)


def by_size(facts: Facts) -> list[Comparison]:
    """The recall of small, medium and large defects."""
    counted = facts.metrics["defects"]["by_size"]
    return _drawn(
        _row(facts, f"defect_recall/size/{size}", size, f"{size} defects found", counted.get(size)) for size in SIZES
    )


def _row(facts: Facts, name: str, label: str, words: str, counted: Json | None = None) -> Comparison:
    difference = facts.difference(name)
    return Comparison(
        label=label,
        name=words,
        candidate=facts.figure(name),
        champion=facts.champion_figure(name),
        difference=difference,
        share=name not in COUNTED,
        better_below=name in BETTER_BELOW,
        reads=_reads(difference, name in BETTER_BELOW),
        counts=f"{counted['found']} of {counted['true']} found" if counted else "",
    )


def _reads(difference: Json, better_below: bool) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return ""
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) != better_below else "worse"


def _drawn(rows: Iterable[Comparison]) -> list[Comparison]:
    """The rows with their differences drawn, the better side on the right: shares on one scale."""
    found = list(rows)
    shares = [value for row in found if row.share for value in _towards_better(row).values() if value is not None]
    return [replace(row, drawing=_drawing(row, shares if row.share else [])) for row in found]


def _drawing(row: Comparison, others: Sequence[float]) -> Drawing | None:
    difference = _towards_better(row)
    own = [value for value in difference.values() if value is not None]
    return draw(difference, 0.0, span([-LEAST_SPAN, LEAST_SPAN, *own, *others])) if own else None


def _towards_better(row: Comparison) -> Json:
    if not row.better_below:
        return row.difference
    low, high = row.difference["low"], row.difference["high"]
    turned = {"value": row.difference["value"], "low": high, "high": low}
    return {key: None if value is None else -value for key, value in turned.items()}
