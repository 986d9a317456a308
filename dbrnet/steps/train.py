"""Step 3: train the network, tracked in MLflow and safe to kill."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dbrnet.addresses import redact
from dbrnet.config import TrainParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Card, Dataset
from dbrnet.data.split import SPLIT_FILE, SPLIT_TABLE, Split, trained_ids
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, claim, remove_own, require_own, sha256_file
from dbrnet.models.saved import save_model
from dbrnet.process_group import process_group
from dbrnet.provenance import collect_provenance, computing_digest, data_revision
from dbrnet.records import (
    WEIGHTS_FILE,
    DatasetFacts,
    Part,
    RunNote,
    SplitFacts,
    StartFacts,
    TrainingFacts,
    TrainRecord,
    format_value,
    write_history,
)
from dbrnet.registry.metric_logger import MetricLogger
from dbrnet.registry.store import open_store, retry_while_unavailable
from dbrnet.registry.tracking import TrackedRun, start_or_resume_run
from dbrnet.registry.versions import fetch_model
from dbrnet.training.checkpoint import drop_stale, mark_finished
from dbrnet.training.loop import HistoryRow, TrainResult
from dbrnet.training.loop import train as run_training
from dbrnet.training.start import GENERATED, Start

log = logging.getLogger(__name__)

CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}  # MLflow's words for the splits


def train(params: TrainParams, dataset: Path, split: Path, *, out: Path, checkpoints: Path | None = None) -> None:
    """Train DBRNet on the train split; val shows how it goes, and test is never looked at.

    Runs on the GPU if there is one, and under torchrun on all those that it starts processes for, of one
    machine or more. Killed at any moment and started again, it goes on from its last checkpoint and, on the
    CPU, ends in the same weights. A finished one stays in --checkpoints, and its result is taken from there
    if code, libraries and GPUs are the same; checkpoints not modified for two weeks are deleted. Writes
    model.pt, history.csv and train.json (the lineage that later steps carry on) under --out.

    Where train.nodes is above 1 it does all this in a TrainJob on a Kubernetes cluster, and waits for it.
    """
    if params.nodes > 1 and process_group().size == 1:  # not one of the job's own processes
        from dbrnet.cluster.training import train_on_nodes  # which brings Kubernetes' client

        train_on_nodes(
            params.model_dump_json(), dataset, split, out=out, nodes=params.nodes, processes=params.processes_per_node
        )
        return
    data, splits = open_dataset(dataset), Split.load(split)
    train_ids, val_ids = (
        [sample.id for sample in splits.samples(data, name) if sample.id not in splits.left_out]
        for name in ("train", "val")
    )
    if splits.left_out:
        _require_classes(splits, data, split / SPLIT_FILE)
        left_out = "%d of %d training images are left out: the audit disputes their labels (%s)"
        log.info(left_out, len(splits.left_out), len(splits.ids["train"]), split / SPLIT_FILE)
    start = open_start(params.start)
    if start and splits.leaks == "no":
        _require_unseen(start, splits)
    data = splits.regrouped(data)
    groups = data.groups(train_ids), data.groups(val_ids)
    fingerprint = params.fingerprint(data.card.content_hash, *groups, start.digest if start else "")
    workdir = checkpoints / fingerprint[:16] if checkpoints else out.with_name(f".{out.name}.checkpoint")
    train_here = partial(
        run_training,
        *(data, train_ids, val_ids, params, workdir),
        workers=params.workers,
        checkpoint_seconds=params.checkpoint_seconds,
        start=start,
    )
    if not process_group().first:  # non-zero ranks only compute
        train_here()
        return
    require_own(workdir, "train")
    environment = computing_digest() if checkpoints else ""  # before training: the source may be edited meanwhile
    if checkpoints:
        drop_stale(checkpoints, workdir, environment)
    claim(workdir, "train")
    name = f"{data.card.name} {splits.kind} seed {params.seed} {fingerprint[:8]}"
    with _tracked(workdir, fingerprint, params, data.card.name, name) as logger:
        result, record = _train_and_log(train_here, logger, params, start, data.card, splits, dataset, split)
    with atomic_directory(out, "train") as folder:
        save_model(folder / WEIGHTS_FILE, result.model, result.meta)
        write_history(folder, [_metrics(row) for row in result.history])
        record.model_copy(update={"missing_steps": tuple(logger.missing)}).save(folder)
    if checkpoints:  # the caller may still fail, and call again
        mark_finished(workdir, environment)
    else:
        with suppress(OSError):
            remove_own(workdir)
    miou = format_value(result.val_miou, "share")
    words = "weights of iteration %d of %d, validation mIoU %s, %.0f s on %s"
    log.info(words, result.chosen_step, params.steps, miou, result.seconds, result.device)


def _train_and_log(
    train_here: Callable[..., TrainResult],
    logger: MetricLogger,
    params: TrainParams,
    start: Start | None,
    card: Card,
    splits: Split,
    dataset: Path,
    split: Path,
) -> tuple[TrainResult, TrainRecord]:
    """Train, and log each validation; the record still lacks those that the closing logger could not send."""
    facts = DatasetFacts(**_shared(card, DatasetFacts), dvc=data_revision(dataset, Path.cwd()))
    split_facts = SplitFacts(**_shared(splits, SplitFacts), sha256=sha256_file(split / SPLIT_TABLE))
    provenance = collect_provenance()
    _describe(logger.run, params, dataset, facts, split_facts, provenance.code_revision)
    result = train_here(on_validation=lambda row: logger.add(_metrics(row)))
    for row in result.history:  # those of before a kill may not have been sent
        logger.add(_metrics(row))
    return result, TrainRecord(
        dataset=facts,
        split=split_facts,
        provenance=provenance,
        training=training_facts(params, start, result, left_out=len(splits.left_out)),
        run_id=logger.run.run_id,
        missing_steps=(),
    )


def training_facts(params: TrainParams, start: Start | None, result: TrainResult, *, left_out: int) -> TrainingFacts:
    """What records keep of a training with `params` from `start`, which `left_out` disputed images did not reach."""
    return TrainingFacts(
        seed=params.seed,
        steps=params.steps,
        params=params.model_dump(mode="json"),
        start=StartFacts(source=redact(start.source), sha256=start.digest) if start else None,
        chosen_step=result.chosen_step,
        val_miou=result.val_miou,
        zoom=result.meta.zoom,
        left_out=left_out,
        seconds=result.seconds,
        device=result.device,
        processes=result.processes,
        warnings=result.warnings,
    )


@retry_while_unavailable
def open_start(source: str | None) -> Start | None:
    """The weights that `train.start` names; None: random ones.

    `source`: "generated" (those that come with the package), models:/NAME@ALIAS or models:/NAME/VERSION (the model.pt
    that `promote` registered, from MLflow's store of the working directory), or a path. Raises `UserError` where
    there are none, and `JobError` where the store fails.
    """
    if source is None:
        return None
    if source == "generated":
        return Start.read(GENERATED, "generated defects")
    if not source.startswith("models:/"):
        return Start.read(Path(source), source)
    with tempfile.TemporaryDirectory() as folder:
        weights, table = (
            fetch_model(source, Path(folder), store=open_store(Path.cwd()), file=file)
            for file in (WEIGHTS_FILE, SPLIT_TABLE)
        )
        return Start.read(weights, source, trained_ids(table))


def _require_unseen(start: Start, splits: Split) -> None:
    """Raise `UserError` where the start has learnt from images, or near-duplicates of them, that are to judge."""
    learnt = {splits.groups[id_] for id_ in start.seen if id_ in splits.groups}
    for name in ("test", "val"):
        if known := sum(splits.groups[id_] in learnt for id_ in splits.ids[name]):
            raise UserError(
                f"train.start: {start.source} has learnt from {known} images of the {name} split or near-duplicates of "
                "them, so its score would be too good; split with that model's split as split.previous, or --champion"
            )


def _require_classes(splits: Split, data: Dataset, file: Path) -> None:
    """Raise `UserError` where leaving out the disputed images leaves none of a class to learn from."""
    samples = splits.samples(data, "train")
    learnt = {label for sample in samples if sample.id not in splits.left_out for label in sample.classes}
    for label in sorted({label for sample in samples for label in sample.classes} - learnt):
        raise UserError(
            f"the audit disputes every training image of class {data.card.classes[label].name!r} ({file}): look at "
            "the pairs in audit.html, correct their masks, and ingest again"
        )


@retry_while_unavailable
def _tracked(workdir: Path, fingerprint: str, params: TrainParams, experiment: str, name: str) -> MetricLogger:
    """The logger of this training's MLflow run: MLFLOW_RUN_ID's, one begun before a kill, or a new one."""
    given = os.environ.get("MLFLOW_RUN_ID")
    # MLflow refuses to change a parameter of a run, also one that does not affect the weights.
    note = RunNote(fingerprint=fingerprint, given=given, params=params.model_dump(mode="json"), run_id=given or "")
    begun = None
    with suppress(UserError):  # there is none, or a previous version wrote it
        begun = RunNote.load(workdir)
    # Where the store did not know the given run, the note names the run that stands in for it.
    same = begun is not None and begun == note.model_copy(update={"run_id": begun.run_id})
    store = open_store(Path.cwd())
    run = start_or_resume_run(store, experiment, run_id=begun.run_id if begun and same else given, name=name, tags={})
    note.model_copy(update={"run_id": run.run_id}).save(workdir)
    return MetricLogger(run)


@retry_while_unavailable
def _describe(
    run: TrackedRun,
    params: TrainParams,
    source: Path,
    dataset: DatasetFacts,
    split: SplitFacts,
    code_revision: str | None,
) -> None:
    """Log the run's parameters, data, split and code."""
    known = dataset.model_dump(include={"name", "title", "content_hash"})
    made = split.model_dump(include={"kind", "seed", "leaks", "leak_rate", "leak_note"})
    run.log_params({"train": params.model_dump(), "dataset": known, "split": made})
    revisions = {"code_revision": code_revision, "mlflow.source.git.commit": code_revision or ""}
    dvc = {f"dvc_{name}": value for name, value in dataset.dvc.known.items()}
    run.set_tags({**revisions, "leaks": split.leaks, **dvc})
    splits = {
        context: {"split": split.text, "images": split.counts[name].images, "groups": split.counts[name].groups}
        for name, context in CONTEXTS.items()
    }
    run.log_dataset(dataset.name, dataset.content_hash, source, splits)


def _shared(source: object, part: type[Part]) -> dict[str, Any]:
    """The attributes of `source` that are fields of `part` too, by name."""
    return {name: getattr(source, name) for name in part.model_fields if hasattr(source, name)}


def _metrics(row: HistoryRow) -> dict[str, float]:
    """The row's figures by name; an absent class has no IoU and is left out."""
    values = asdict(row)
    iou = values.pop("val_iou")
    return values | {f"val_iou_{name}": value for name, value in iou.items() if value is not None}
