"""The evaluation report: one HTML file that opens offline, with its images and styles inside."""

from collections.abc import Mapping, Sequence

from dbrnet.data.dataset import Card
from dbrnet.evaluation.defect_metrics import SIZE_BOUNDS
from dbrnet.records import EvaluationRecord, ExportRecord, RuntimeParity, TrainRecord, format_value
from dbrnet.reports.gallery import ERROR_KINDS, Gallery
from dbrnet.reports.html import data_uri, leak_statement, render
from dbrnet.reports.plots import confusion_plot, training_curves


def render_report(
    record: EvaluationRecord,
    train: TrainRecord,
    export: ExportRecord,
    card: Card,
    history: Sequence[Mapping[str, float]],
    gallery: Gallery,
) -> str:
    """The whole report as HTML; `history` are the training's rows by iteration, without which there are no curves."""
    names = [info.name for info in card.classes]
    return render(
        "evaluation.html",
        title=f"DBRNet on {card.title}",
        record=record,
        card=card,
        leak=leak_statement(record.split),
        confidence=f"{100 * record.bootstrap.confidence:g} %",
        size_bounds=SIZE_BOUNDS,
        worst_change=_worst_change,
        class_colors={info.name: info.color for info in card.classes[1:]},
        error_colors={kind.name: kind.color for kind in ERROR_KINDS[1:]},
        confusion=data_uri(confusion_plot(record.confusion, names), "svg+xml"),
        curves=data_uri(training_curves(history), "svg+xml") if history else None,
        warnings=train.training.warnings,
        gallery=gallery,
        provenance=_provenance(train, export),
    )


def _provenance(train: TrainRecord, export: ExportRecord) -> dict[str, str]:
    """Where the figures come from, by label."""
    training, hardware = train.training, train.provenance.hardware
    return {
        "Dataset": f"{train.dataset.title}, content {train.dataset.content_hash}",
        "Split": train.split.text,
        "Training": f"{training.text}, {training.seconds / 60:.1f} minutes on {training.device}",
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
