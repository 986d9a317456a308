"""The evaluation report: one HTML file that opens offline, with its images and styles inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrnet.data.dataset import Card
from dbrnet.evaluation.defect_metrics import SIZE_BOUNDS, SIZES
from dbrnet.records import (
    DefectTally,
    Estimate,
    EvaluationRecord,
    ExportRecord,
    RuntimeParity,
    TrainRecord,
    format_value,
)
from dbrnet.reports.gallery import ERROR_KINDS, Gallery
from dbrnet.reports.html import css, data_uri, templates
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
    counts: DefectTally
    recall: Estimate
    precision: Estimate | None = None
    boundary: Estimate | None = None  # F1 of the outlines


def render_report(
    record: EvaluationRecord,
    train: TrainRecord,
    export: ExportRecord,
    card: Card,
    history: Sequence[Mapping[str, float]],
    gallery: Gallery,
) -> str:
    """The whole report as HTML; `history` are the training's rows by epoch, without which there are no curves."""
    environment = templates()
    environment.filters["worst_change"] = _worst_change
    names = [info.name for info in card.classes]
    return environment.get_template("evaluation.html").render(
        title=f"DBRNet on {card.title}",
        record=record,
        confidence=f"{100 * record.bootstrap.confidence:g} %",
        size_bounds=SIZE_BOUNDS,
        rows=_class_rows(record, card),
        defects=_defect_rows(record, card),
        card=card,
        confusion=data_uri(confusion_plot(record.confusion, names), "svg+xml"),
        curves=data_uri(training_curves(history), "svg+xml") if history else None,
        epochs=len(history),
        gallery=gallery,
        error_kinds=ERROR_KINDS[1:],
        provenance=_provenance(train, export),
    )


def _class_rows(record: EvaluationRecord, card: Card) -> list[ClassRow]:
    scores, pixels = record.scores, [sum(row) for row in record.confusion]
    return [
        ClassRow(
            name=info.name,
            color=css(info.color),
            iou=record.figures[f"iou/{info.name}"],
            f1=scores.f1[info.name],
            precision=scores.precision[info.name],
            recall=scores.recall[info.name],
            pixels=count,
            share=count / sum(pixels),
            images=record.images_by_class[info.name],
        )
        for info, count in zip(card.classes, pixels, strict=True)
    ]


def _defect_rows(record: EvaluationRecord, card: Card) -> dict[str, list[DefectRow]]:
    """The tables "class", which ends with all of them, and "size"; what is nowhere is left out."""
    figures, counts = record.figures, record.defects
    classes = [
        DefectRow(
            name=info.name,
            color=css(info.color),
            counts=counts.by_class[info.name],
            recall=figures[f"defect_recall/class/{info.name}"],
            precision=figures[f"defect_precision/class/{info.name}"],
            boundary=figures[f"boundary_f1/{info.name}"],
        )
        for info in card.classes[1:]
    ]
    tallies = list(counts.by_class.values())
    total = DefectTally(
        true=sum(tally.true for tally in tallies),
        found=sum(tally.found for tally in tallies),
        predicted=sum(tally.predicted or 0 for tally in tallies),
        correct=sum(tally.correct or 0 for tally in tallies),
    )
    overall = (figures[name] for name in ("defect_recall", "defect_precision", "boundary_f1"))
    classes.append(DefectRow("all", None, total, *overall))
    sizes = [DefectRow(size, None, counts.by_size[size], figures[f"defect_recall/size/{size}"]) for size in SIZES]
    return {
        kind: [row for row in rows if row.counts.true or row.counts.predicted]
        for kind, rows in (("class", classes), ("size", sizes))
    }


def _provenance(train: TrainRecord, export: ExportRecord) -> dict[str, str]:
    """Where the figures come from, by label."""
    training, hardware = train.training, train.provenance.hardware
    return {
        "Dataset": f"{train.dataset.title}, content {train.dataset.content_hash}",
        "Split": train.split.text,
        "Training": f"seed {training.seed}, {training.epochs} epochs, best epoch {training.best_epoch} by validation "
        f"mIoU, {training.seconds / 60:.1f} minutes on {training.device}",
        "Model": f"SHA-256 {export.model_sha256}",
        "int8": _int8(export),
        "Code": str(train.provenance.code_revision),
        "Machine": ", ".join([hardware.cpu, f"{hardware.cores} cores", *hardware.gpus]),
        "Versions": train.provenance.libraries,
    }


def _int8(export: ExportRecord) -> str:
    """How much of the network computes in int8, what that costs, and which layers are kept from it."""
    int8 = export.int8
    if int8 is None:
        return f"none: {export.no_int8}"
    return (
        f"{int8.convolutions - len(int8.kept)} of {int8.convolutions} convolutions; mIoU on val "
        f"{format_value(-int8.loss, 'points')} (at most {format_value(int8.max_loss, 'share')} may be lost); "
        f"in higher precision: {', '.join(int8.kept) or 'no other'}"
    )


def _worst_change(parity: RuntimeParity) -> str:
    changes = {name: change for name, change in parity.iou_change.items() if change is not None}
    if not changes or min(changes.values()) >= 0:
        return "none"
    name = min(changes, key=changes.__getitem__)
    return f"{name} {format_value(changes[name], 'points', bare=True)}"
