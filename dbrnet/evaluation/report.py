"""The evaluation report: one HTML file that opens offline, with its pictures and styles inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbrnet.data.dataset import Card
from dbrnet.evaluation.gallery import ERROR_KINDS, Gallery
from dbrnet.evaluation.plots import confusion_plot, training_curves
from dbrnet.evaluation.predictions import Evaluation
from dbrnet.page import data_uri, templates


@dataclass(frozen=True)
class ClassRow:
    """A line of the report's table of classes; None where a score does not exist."""

    name: str
    color: str  # CSS
    iou: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    pixels: int
    share: float  # of the part's pixels
    images: int


def render_report(
    evaluation: Evaluation,
    *,
    card: Card,
    split: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    gallery: Gallery,
    provenance: Mapping[str, str],
    look_up: float | None,
    parity: Mapping[str, Mapping[str, Any]],
    runtime: str,
    title: str,
    part: str = "test",
) -> str:
    """The whole report as HTML.

    `split` is what split.json holds (kind, seed, leaks, leaking_share, leak_note); `history` the training's
    rows by epoch (epoch, loss, val_miou, learning_rate; empty: no curves); `provenance` label -> value, shown
    in its order; `look_up` the mIoU on this part of copying the nearest training mask (None: not measured);
    `parity` what `Parity.to_dict` says of each runtime, with its precision, and `runtime` the one scored.
    """
    environment = templates("dbrnet.evaluation")
    environment.filters |= {"jpeg": _jpeg, "css": _css, "worst_change": _worst_change}
    return environment.get_template("report.html").render(
        title=title,
        part=part,
        evaluation=evaluation,
        scores=evaluation.scores,
        rows=_class_rows(evaluation, card),
        card=card,
        split=split,
        leaking=split["leaking_share"].get(part, 0.0),
        confusion=data_uri(confusion_plot(evaluation.confusion, evaluation.classes), "svg+xml"),
        curves=data_uri(training_curves(history), "svg+xml") if history else None,
        epochs=len(history),
        gallery=gallery,
        error_kinds=ERROR_KINDS[1:],
        provenance=provenance,
        look_up=look_up,
        parity=parity,
        runtime=runtime,
    )


def _class_rows(evaluation: Evaluation, card: Card) -> list[ClassRow]:
    scores, images = evaluation.scores, evaluation.images_by_class()
    pixels = evaluation.confusion.sum(axis=1).tolist()
    return [
        ClassRow(
            name=info.name,
            color=_css(info.color),
            iou=scores.iou[info.name],
            f1=scores.f1[info.name],
            precision=scores.precision[info.name],
            recall=scores.recall[info.name],
            pixels=count,
            share=count / sum(pixels),
            images=images[info.name],
        )
        for info, count in zip(card.classes, pixels, strict=True)
    ]


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
