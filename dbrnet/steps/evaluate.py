"""Step 6: the exported model's scores on the test split, beside the champion's, and the report."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dbrnet.config import EvaluateParams
from dbrnet.data import open_dataset
from dbrnet.data.split import SPLIT_TABLE, Split, require_trained_on, trained_ids
from dbrnet.errors import UserError
from dbrnet.evaluation.figures import compare, summarise
from dbrnet.evaluation.parity import measure_parity
from dbrnet.evaluation.predictions import IMAGES_TABLE
from dbrnet.evaluation.predictions import evaluate as run_evaluation
from dbrnet.files import atomic_directory, write_atomically
from dbrnet.inference.runtimes import open_model
from dbrnet.provenance import collect_provenance
from dbrnet.records import (
    WEIGHTS_FILE,
    AuditRecord,
    ChampionScores,
    ComparedScores,
    DisagreementFacts,
    EvaluationRecord,
    ExportRecord,
    TrainRecord,
    format_value,
    read_history,
)
from dbrnet.reports.evaluation_page import render_report
from dbrnet.reports.gallery import build_gallery, choose_disagreements, show_disagreements
from dbrnet.steps.checks import class_difference, open_champion, open_runtimes

log = logging.getLogger(__name__)


def evaluate(
    params: EvaluateParams, dataset: Path, split: Path, trained: Path, exported: Path, champion: Path, *, out: Path
) -> None:
    """Score the exported model on the test split, as production runs it and at native resolution.

    Every runtime of export.runtimes that this machine has is compared with PyTorch on the whole split; the
    first one's answers are scored. The champion, where there is one, answers the same images, in the same
    runtime if that takes its file. Writes metrics.json (IoU, defects and outlines with intervals, differences
    from the champion, and the parity and scores of each runtime), images.csv (a row an image), the images on
    which candidate and champion disagree most, and report.html, which opens offline, under --out.
    """
    splits = Split.load(split)
    data = splits.regrouped(open_dataset(dataset))
    train, export, audit = TrainRecord.load(trained), ExportRecord.load(exported), AuditRecord.load(split)
    require_trained_on(train, data, split)
    ids = [sample.id for sample in splits.samples(data, "test")]
    candidates, missing = open_runtimes(export, trained, exported)
    model = candidates[export.deployed]
    if difference := class_difference(model.classes, data.card.classes, str(dataset)):
        raise UserError(f"{exported}: the model {difference}; give the dataset that it was trained on")
    baseline = open_champion(champion, export.deployed, classes=data.card.classes)
    evaluation = run_evaluation(model.predict, data, ids, params.match)
    parity = measure_parity(open_model(trained / WEIGHTS_FILE), candidates, data, ids)
    with atomic_directory(out, "evaluate") as folder:
        compared: ComparedScores | None = None
        disagreements: tuple[DisagreementFacts, ...] = ()
        if baseline and baseline.model:
            other = run_evaluation(baseline.model.predict, data, ids, params.match, "evaluate the champion")
            seen, runtime = _seen(champion / SPLIT_TABLE, ids), baseline.model.runtime
            compared = compare(evaluation, other, confidence=params.confidence, runtime=runtime, seen=seen)
            chosen = choose_disagreements(evaluation, other)
            disagreements = show_disagreements(chosen, data, model.predict, baseline.model.predict, folder)
        record = EvaluationRecord(
            **vars(summarise(evaluation, params.match, params.confidence)),
            runtime=export.deployed,
            champion=ChampionScores(**vars(baseline.facts), compared=compared) if baseline else None,
            disagreements=disagreements,
            colors={info.name: info.color for info in data.card.classes[1:]},
            runtimes=parity,
            not_available=missing,
            model_sha256=export.model_sha256,
            dataset=train.dataset,
            split=train.split,
            nn_baseline=audit.nn_baseline,
            provenance=collect_provenance(),
        )
        record.save(folder)
        write_atomically(folder / IMAGES_TABLE, evaluation.table())
        gallery = build_gallery(evaluation, data, model.predict, params.gallery)
        report = render_report(record, train, export, data.card, read_history(trained), gallery)
        write_atomically(folder / "report.html", report)
    _log_summary(record)
    log.info("report: %s", out / "report.html")


def _seen(table: Path, ids: Sequence[str]) -> float | None:
    """The share of the images `ids` that the champion was trained on; None: its split is not known."""
    if not table.exists():
        return None
    trained_on = trained_ids(table)
    return sum(id_ in trained_on for id_ in ids) / len(ids)


def _log_summary(record: EvaluationRecord) -> None:
    for name, parity in record.runtimes.items():
        log.info(
            "%s: mIoU %s (%s), %s of the pixels unlike PyTorch's, logits by up to %s",
            name,
            format_value(parity.miou, "share"),
            format_value(parity.miou_change, "points"),
            format_value(parity.differing_pixels, "share"),
            format_value(parity.max_logit_difference, "number"),
        )
    for reason in record.not_available.values():
        log.info("left out: %s", reason)
    log.info(
        "test split, %d images in %d groups: mIoU %s with background, %s over defects; defects found: %s",
        record.images,
        record.bootstrap.groups,
        *(record.figures[name] for name in ("miou", "miou_defects", "defect_recall")),
    )
    if champion := record.champion:
        compared = champion.compared
        text = f"mIoU {compared.difference['miou']} against it" if compared else champion.not_compared
        log.info("the champion, version %d: %s", champion.version, text)
