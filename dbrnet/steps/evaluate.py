"""Step 5: the exported model's score on the test part, and the report."""

import csv
import logging
from pathlib import Path
from typing import Any

from dbrnet.audit.findings import AUDIT_FILE
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import SPLIT_FILE, Split
from dbrnet.deployment.runtimes.catalogue import open_all, open_model
from dbrnet.errors import UserError
from dbrnet.evaluation.gallery import build_gallery
from dbrnet.evaluation.parity import measure_parity
from dbrnet.evaluation.predictions import evaluate as run_evaluation
from dbrnet.evaluation.report import render_report
from dbrnet.files import atomic_directory, read_json, write_atomically, write_json
from dbrnet.params import EvaluateParams
from dbrnet.provenance import origin

log = logging.getLogger(__name__)


def evaluate(
    params: EvaluateParams, dataset: Path, split: Path, trained: Path, exported: Path, *, out: Path
) -> None:
    """Score the exported model, as the line runs it and at native resolution, on the test part.

    Every runtime of export.runtimes that this machine has is compared with PyTorch on the whole part; the
    first one's answers are the ones scored. Writes metrics.json (mIoU with and without background, per-class
    IoU and F1, pixel accuracy, and by runtime how far it lies from PyTorch and what that costs), pictures.csv
    (a row a picture) and report.html, which opens offline, under --out.
    """
    parts = Split.load(split)
    data = parts.regrouped(Dataset.load(dataset))
    look_up = read_json(split / AUDIT_FILE)["look_up"]
    lineage = read_json(trained / "train.json")
    export_info = read_json(exported / "export.json")
    ids = [sample.id for sample in parts.samples(data, "test")]
    models, missing = open_all(export_info["runtimes"], trained, exported)
    deployed = export_info["runtimes"][0]
    if deployed in missing:
        raise UserError(f"{missing[deployed]}; it is the first of export.runtimes, which the line runs")
    evaluation = run_evaluation(models[deployed].predict, data, ids)
    scores = evaluation.scores
    parity = measure_parity(
        open_model(trained / "model.pt").predict_with_logits,
        {name: model.predict_with_logits for name, model in models.items()},
        data,
        ids,
    )
    by_runtime = {
        name: {"precision": models[name].precision, **found.to_dict()} for name, found in parity.items()
    }
    metrics = {
        "runtime": deployed,
        "scores": scores.to_dict(),
        "runtimes": by_runtime,
        "not_available": missing,
        "confusion": evaluation.confusion.tolist(),
        "pictures": len(evaluation.pictures),
        "defect_free": len(evaluation.defect_free),
        "false_alarms": len(evaluation.false_alarms),
        "defective": len(evaluation.defective),
        "missed": len(evaluation.missed),
        "model_sha256": export_info["model_sha256"],
        "dataset": lineage["dataset"],
        "split": lineage["split"],
        "look_up": look_up,
        "origin": origin(),
    }
    with atomic_directory(out) as folder:
        write_json(folder / "metrics.json", metrics)
        write_atomically(folder / "pictures.csv", evaluation.table())
        report = render_report(
            evaluation,
            card=data.card,
            split=read_json(split / SPLIT_FILE),
            history=_history(trained / "history.csv"),
            gallery=build_gallery(evaluation, data, models[deployed].predict, params.gallery),
            look_up=look_up["miou"],
            parity=by_runtime,
            runtime=deployed,
            provenance=_provenance(lineage, export_info),
            title=f"DBRNet on {data.card.title}",
        )
        write_atomically(folder / "report.html", report)
    for name, found in parity.items():
        log.info("%s: mIoU %.4f (%+.4f), %.4f %% of the pixels unlike PyTorch's, logits by up to %.2g",
                 name, found.scores.miou, found.miou_change, 100 * found.differing_pixels,
                 found.max_logit_difference)  # fmt: skip
    for reason in missing.values():
        log.info("left out: %s", reason)
    log.info(
        "test part, %d pictures: mIoU %.4f with background, %s over defects; report: %s",
        len(ids),
        scores.miou,
        "none" if scores.miou_defects is None else f"{scores.miou_defects:.4f}",
        out / "report.html",
    )


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _provenance(lineage: dict[str, Any], export_info: dict[str, Any]) -> dict[str, str]:
    """What the report says of where its figures come from."""
    origin_of_training, training = lineage["origin"], lineage["training"]
    hardware = origin_of_training["hardware"]
    libraries = ", ".join(f"{name} {version}" for name, version in origin_of_training["versions"].items())
    device, minutes = training["device"], training["seconds"] / 60
    return {
        "Dataset": f"{lineage['dataset']['title']}, content {lineage['dataset']['content_hash']}",
        "Split": f"{lineage['split']['kind']}, seed {lineage['split']['seed']}",
        "Training": f"seed {training['params']['seed']}, {training['params']['epochs']} epochs, best epoch "
        f"{training['best_epoch']} by validation mIoU, {minutes:.1f} minutes on {device}",
        "Model": f"SHA-256 {export_info['model_sha256']}",
        "Code": str(origin_of_training["code_revision"]),
        "Machine": ", ".join([hardware["cpu"], f"{hardware['cores']} cores", *hardware["gpus"]]),
        "Versions": libraries,
    }
