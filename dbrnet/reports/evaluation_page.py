"""The evaluation report: one HTML file that opens offline, with its images and styles inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbrnet.data.dataset import Card
from dbrnet.evaluation.bootstrap import RESAMPLES, Estimate
from dbrnet.evaluation.defect_metrics import SIZE_BOUNDS, SIZES, MatchRules
from dbrnet.evaluation.figures import defect_counts
from dbrnet.evaluation.predictions import Evaluation
from dbrnet.reports.gallery import ERROR_KINDS, Gallery
from dbrnet.reports.html import data_uri, templates
from dbrnet.reports.plots import confusion_plot, training_curves


@dataclass(frozen=True)
class ClassRow:
    """A line of the report's table of classes; None where a score does not exist."""

    name: str
    color: str  # CSS
    iou: Estimate
    f1: float | None
    precision: float | None
    recall: float | None
    pixels: int
    share: float  # of the split's pixels
    images: int


@dataclass(frozen=True)
class DefectRow:
    """A line of a table of connected defects, of one class or of one size."""

    name: str
    color: str | None  # CSS; None: not of a class
    counts: Mapping[str, int]  # true, found, and of a class predicted, correct
    recall: Estimate
    precision: Estimate | None = None
    boundary: Estimate | None = None  # F1 of the outlines


def render_report(
    evaluation: Evaluation,
    *,
    figures: Mapping[str, Estimate],
    confidence: float,
    rules: MatchRules,
    card: Card,
    split: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    gallery: Gallery,
    provenance: Mapping[str, str],
    nn_baseline: float | None,
    parity: Mapping[str, Mapping[str, Any]],
    runtime: str,
    title: str,
    split_name: str = "test",
) -> str:
    """The whole report as HTML.

    `figures` are the evaluation's `estimates` at `confidence`, its defects counted by `rules`.
    `split` is what split.json holds (kind, seed, leaks, leak_rate, leak_note); `history` the training's
    rows by epoch (epoch, loss, val_miou, learning_rate; empty: no curves); `provenance` label -> value, shown
    in its order; `nn_baseline` the mIoU on this split of copying the nearest training mask (None: not measured);
    `parity` what `Parity.to_dict` says of each runtime, with its precision, and `runtime` the one scored.
    """
    environment = templates()
    environment.filters |= {"jpeg": _jpeg, "css": _css, "worst_change": _worst_change, "interval": _interval}
    return environment.get_template("evaluation.html").render(
        title=title,
        split_name=split_name,
        evaluation=evaluation,
        scores=evaluation.scores,
        figures=figures,
        confidence=f"{100 * confidence:g} %",
        groups=len({image.group for image in evaluation.images}),
        resamples=RESAMPLES,
        rules=rules,
        size_bounds=SIZE_BOUNDS,
        rows=_class_rows(evaluation, card, figures),
        defects=_defect_rows(evaluation, card, figures),
        card=card,
        split=split,
        leaking=split["leak_rate"].get(split_name, 0.0),
        confusion=data_uri(confusion_plot(evaluation.confusion, evaluation.classes), "svg+xml"),
        curves=data_uri(training_curves(history), "svg+xml") if history else None,
        epochs=len(history),
        gallery=gallery,
        error_kinds=ERROR_KINDS[1:],
        provenance=provenance,
        nn_baseline=nn_baseline,
        parity=parity,
        runtime=runtime,
    )


def _class_rows(evaluation: Evaluation, card: Card, figures: Mapping[str, Estimate]) -> list[ClassRow]:
    scores, images = evaluation.scores, evaluation.images_by_class()
    pixels = evaluation.confusion.sum(axis=1).tolist()
    return [
        ClassRow(
            name=info.name,
            color=_css(info.color),
            iou=figures[f"iou/{info.name}"],
            f1=scores.f1[info.name],
            precision=scores.precision[info.name],
            recall=scores.recall[info.name],
            pixels=count,
            share=count / sum(pixels),
            images=images[info.name],
        )
        for info, count in zip(card.classes, pixels, strict=True)
    ]


def _defect_rows(evaluation: Evaluation, card: Card, figures: Mapping[str, Estimate]) -> dict[str, list[DefectRow]]:
    """The tables "class", which ends with all of them, and "size"; what is nowhere is left out."""
    counts = defect_counts(evaluation)
    classes = [
        DefectRow(
            name=info.name,
            color=_css(info.color),
            counts=counts["by_class"][info.name],
            recall=figures[f"defect_recall/class/{info.name}"],
            precision=figures[f"defect_precision/class/{info.name}"],
            boundary=figures[f"boundary_f1/{info.name}"],
        )
        for info in card.classes[1:]
    ]
    total = {what: sum(row.counts[what] for row in classes) for what in ("true", "found", "predicted", "correct")}
    overall = (figures[name] for name in ("defect_recall", "defect_precision", "boundary_f1"))
    classes.append(DefectRow("all", None, total, *overall))
    sizes = [DefectRow(size, None, counts["by_size"][size], figures[f"defect_recall/size/{size}"]) for size in SIZES]
    return {
        kind: [row for row in rows if any(row.counts.values())] for kind, rows in (("class", classes), ("size", sizes))
    }


def _interval(figure: Estimate, factor: float = 100, digits: int = 1) -> str:
    """Such as "75.2 to 80.4", in %; "" where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{factor * figure.low:.{digits}f} to {factor * figure.high:.{digits}f}"


def _worst_change(parity: Mapping[str, Any]) -> str:
    changes = {name: change for name, change in parity["iou_change"].items() if change is not None}
    if not changes or min(changes.values()) >= 0:
        return "none"
    name = min(changes, key=changes.__getitem__)
    return f"{name} {100 * changes[name]:+.2f}"


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _jpeg(data: bytes) -> str:
    return data_uri(data, "jpeg")
