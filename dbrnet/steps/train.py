"""Step 3: train the network, tracked in MLflow and safe to kill."""

import csv
import io
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dbrnet.config import TrainParams
from dbrnet.data import open_dataset
from dbrnet.data.split import SPLIT_TABLE, Split
from dbrnet.files import (
    atomic_directory,
    claim,
    read_json,
    remove_own,
    require_own,
    sha256_file,
    write_atomically,
    write_json,
)
from dbrnet.models.saved import save_model
from dbrnet.process_group import process_group
from dbrnet.provenance import collect_provenance, computing_digest, data_revision
from dbrnet.registry.metric_logger import MetricLogger
from dbrnet.registry.store import open_store, patient
from dbrnet.registry.tracking import TrackedRun, start_or_resume_run
from dbrnet.training.checkpoint import drop_stale, mark_finished
from dbrnet.training.loop import EpochRow, TrainResult
from dbrnet.training.loop import train as run_training

log = logging.getLogger(__name__)

CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}  # MLflow's words for the splits


def train(params: TrainParams, dataset: Path, split: Path, *, out: Path, checkpoints: Path | None = None) -> None:
    """Train DBRNet on the train split; the best weights are chosen on val, and test is never looked at.

    Runs on the GPU if there is one, and under torchrun on all those that it starts processes for, of one
    machine or more. Killed at any moment and started again, it goes on from its last checkpoint and, on the
    CPU, ends in the same weights. A finished one stays in --checkpoints, and its result is taken from there
    if code, libraries and GPUs are the same; what was left alone there for two weeks is removed. Writes
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
    train_ids, val_ids = ([sample.id for sample in splits.samples(data, split_name)] for split_name in ("train", "val"))
    card = data.card
    fingerprint = params.fingerprint(card.content_hash, train_ids, val_ids)
    workdir = checkpoints / fingerprint[:16] if checkpoints else out.with_name(f".{out.name}.checkpoint")
    train_here = partial(
        run_training,
        *(data, train_ids, val_ids, params, workdir),
        workers=params.workers,
        checkpoint_seconds=params.checkpoint_seconds,
    )
    if not process_group().first:  # non-zero ranks only compute; the first tracks and writes
        train_here()
        return
    require_own(workdir, "train")
    by = computing_digest() if checkpoints else ""  # now: the source may be edited meanwhile
    if checkpoints:
        drop_stale(checkpoints, workdir, by)
    claim(workdir, "train")
    lineage: dict[str, Any] = {
        "dataset": {
            "name": card.name,
            "title": card.title,
            "content_hash": card.content_hash,
            "images": card.images,
            "groups": card.groups,
            "images_by_class": card.images_by_class,
            "dvc": data_revision(dataset, Path.cwd()) or {},
        },
        "split": {
            "kind": splits.kind,
            "seed": splits.seed,
            "leaks": splits.leaks,
            "leak_rate": splits.leak_rate,
            "leak_note": splits.leak_note,
            "sha256": sha256_file(split / SPLIT_TABLE),
            "counts": {split_name: asdict(counts) for split_name, counts in splits.counts.items()},
        },
        "provenance": collect_provenance(),
    }
    name = f"{card.name} {splits.kind} seed {params.seed} {fingerprint[:8]}"
    with _tracked(workdir, fingerprint, params, card.name, name) as feed:
        _describe(feed.run, params, dataset, splits, lineage)
        result = train_here(on_epoch=lambda row: feed.add(_flat(row)))
        for row in result.history:  # those of before a kill may not have been sent
            feed.add(_flat(row))
    lineage |= {
        "training": _training(params, result),
        "run_id": feed.run.run_id,
        "tracking": {"missing_epochs": feed.missing},
    }
    with atomic_directory(out, "train") as folder:
        save_model(folder / "model.pt", result.model, result.meta)
        write_atomically(folder / "history.csv", _table(result.history))
        write_json(folder / "train.json", lineage)
    if checkpoints:  # whoever called may still fail, and call again
        mark_finished(workdir, by)
    else:
        with suppress(OSError):
            remove_own(workdir)
    log.info(
        "best epoch %d of %d, validation mIoU %.4f, %.0f s on %s",
        result.best_epoch,
        params.epochs,
        result.best_miou,
        result.seconds,
        result.device,
    )


@patient
def _tracked(workdir: Path, fingerprint: str, params: TrainParams, experiment: str, name: str) -> MetricLogger:
    """The way to this training's MLflow run: MLFLOW_RUN_ID's, one begun before a kill, or a new one."""
    note, given = workdir / "run.json", os.environ.get("MLFLOW_RUN_ID")
    # MLflow refuses to change a parameter of a run, also one that the weights do not know of.
    asked = {"fingerprint": fingerprint, "given": given, "params": params.model_dump(mode="json")}
    begun = read_json(note) if note.exists() else {}
    # A run that the store did not know has a stand-in since, which the training goes on with.
    run_id = begun["run_id"] if asked.items() <= begun.items() else given
    store = open_store(Path.cwd())
    run = start_or_resume_run(store, experiment, run_id=run_id, name=name, tags={})
    write_json(note, {**asked, "run_id": run.run_id})
    return MetricLogger(run)


@patient
def _describe(run: TrackedRun, params: TrainParams, dataset: Path, splits: Split, lineage: Mapping[str, Any]) -> None:
    """What the run is a training of: parameters, data, split, code."""
    known, divided = lineage["dataset"], lineage["split"]
    revision, code = known["dvc"], lineage["provenance"]["code_revision"]
    run.log_params(
        {
            "train": params.model_dump(),
            "dataset": {key: known[key] for key in ("name", "title", "content_hash")},
            "split": {key: divided[key] for key in ("kind", "seed", "leaks", "leak_rate", "leak_note")},
        }
    )
    run.set_tags({"code_revision": code, "mlflow.source.git.commit": code or "", "leaks": splits.leaks})
    run.set_tags({f"dvc_{name}": value for name, value in revision.items()})
    run.log_dataset(
        known["name"],
        known["content_hash"],
        dataset,
        {
            context: {
                "split": f"{splits.kind}, seed {splits.seed}",
                "images": splits.counts[split_name].images,
                "groups": splits.counts[split_name].groups,
            }
            for split_name, context in CONTEXTS.items()
        },
    )


def _training(params: TrainParams, result: TrainResult) -> dict[str, Any]:
    return {
        "params": params.model_dump(),
        "best_epoch": result.best_epoch,
        "best_val_miou": result.best_miou,
        "seconds": result.seconds,
        "device": result.device,
        "processes": result.processes,
    }


def _flat(row: EpochRow) -> dict[str, float]:
    """The row as plain figures; an absent class has no IoU and is left out."""
    values = asdict(row)
    iou = values.pop("val_iou")
    return values | {f"val_iou_{name}": value for name, value in iou.items() if value is not None}


def _table(history: tuple[EpochRow, ...]) -> str:
    rows = [_flat(row) for row in history]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
