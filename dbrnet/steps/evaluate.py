"""Step 6: the exported model's score on the test split beside the champion's, and the report."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrnet.audit.result import AUDIT_FILE
from dbrnet.config import EvaluateParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import SPLIT_FILE, SPLIT_TABLE, Split, require_trained_on
from dbrnet.errors import UserError
from dbrnet.evaluation.comparison import choose_disagreements, compare
from dbrnet.evaluation.defect_metrics import MatchRules
from dbrnet.evaluation.figures import describe, estimates
from dbrnet.evaluation.parity import Parity, measure_parity
from dbrnet.evaluation.predictions import IMAGES_TABLE
from dbrnet.evaluation.predictions import evaluate as run_evaluation
from dbrnet.files import atomic_directory, read_json, write_atomically, write_json
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.registry import open_all, open_fitting, open_model
from dbrnet.provenance import collect_provenance
from dbrnet.reports.evaluation_page import render_report
from dbrnet.reports.gallery import build_gallery, show_disagreements

log = logging.getLogger(__name__)


def evaluate(
    params: EvaluateParams, dataset: Path, split: Path, trained: Path, exported: Path, champion: Path, *, out: Path
) -> None:
    """Score the exported model, as the line runs it and at native resolution, on the test split.

    Every runtime of export.runtimes that this machine has is compared with PyTorch on the whole split; the
    first one's answers are the ones scored. The champion, where there is one, answers the same images, in
    the same runtime if that takes its file. Writes metrics.json (IoU, defects found and invented and
    outlines met, with intervals and as differences from the champion, and by runtime how far it lies from
    PyTorch and what that costs), images.csv (a row an image), the images on which candidate and champion
    disagree most, and report.html, which opens offline, under --out.
    """
    splits = Split.load(split)
    data = splits.regrouped(open_dataset(dataset))
    nn_baseline = read_json(split / AUDIT_FILE)["nn_baseline"]
    lineage = read_json(trained / "train.json")
    require_trained_on(lineage, data, split)
    export_info = read_json(exported / "export.json")
    ids = [sample.id for sample in splits.samples(data, "test")]
    models, missing = open_all(export_info["runtimes"], trained, exported)
    deployed = export_info["runtimes"][0]
    if deployed in missing:
        raise UserError(f"{missing[deployed]}; it is the first of export.runtimes, which the line runs")
    own, asked = ([one.name for one in classes] for classes in (models[deployed].classes, data.card.classes))
    if own != asked:
        raise UserError(
            f"{exported}: the model knows the classes {', '.join(own)}, and {dataset} has "
            f"{', '.join(asked)}; give the dataset that it was trained on"
        )
    holder, holder_facts = _open_champion(champion, deployed, data, ids)
    rules = MatchRules(params.min_overlap, params.boundary_tolerance)
    predict = models[deployed].predict
    evaluation = run_evaluation(predict, data, ids, rules)
    parity = measure_parity(
        open_model(trained / "model.pt").predict_with_logits,
        {name: model.predict_with_logits for name, model in models.items()},
        data,
        ids,
    )
    by_runtime = {name: {"precision": models[name].precision, **found.to_dict()} for name, found in parity.items()}
    figures = estimates(evaluation, params.confidence)
    with atomic_directory(out, "evaluate") as folder:
        disagreements: list[dict[str, Any]] = []
        if holder and holder_facts:
            baseline = run_evaluation(holder.predict, data, ids, rules, "evaluate the champion")
            holder_facts |= compare(evaluation, baseline, params.confidence).to_dict()
            chosen = choose_disagreements(evaluation, baseline)
            disagreements = show_disagreements(chosen, data, predict, holder.predict, folder)
        metrics = {
            "runtime": deployed,
            **describe(evaluation, figures, params.confidence),
            "champion": holder_facts,
            "disagreements": disagreements,
            "colors": {info.name: list(info.color) for info in data.card.classes[1:]},
            "runtimes": by_runtime,
            "not_available": missing,
            "model_sha256": export_info["model_sha256"],
            "dataset": lineage["dataset"],
            "split": lineage["split"],
            "nn_baseline": nn_baseline,
            "provenance": collect_provenance(),
        }
        write_json(folder / "metrics.json", metrics)
        write_atomically(folder / IMAGES_TABLE, evaluation.table())
        report = render_report(
            evaluation,
            figures=figures,
            rules=rules,
            confidence=params.confidence,
            card=data.card,
            split=read_json(split / SPLIT_FILE),
            history=_history(trained / "history.csv"),
            gallery=build_gallery(evaluation, data, predict, params.gallery),
            nn_baseline=nn_baseline["miou"],
            parity=by_runtime,
            runtime=deployed,
            provenance=_provenance(lineage, export_info),
            title=f"DBRNet on {data.card.title}",
        )
        write_atomically(folder / "report.html", report)
    _tell(parity, missing, metrics, out / "report.html")


def _open_champion(
    folder: Path, runtime: str, data: Dataset, ids: list[str]
) -> tuple[Model | None, dict[str, Any] | None]:
    """The champion's model, and what is said of it; None and None where there is no champion yet."""
    facts = read_json(folder / "champion.json")
    if facts["version"] is None:
        return None, None
    known = {"version": facts["version"], "sha256": facts["sha256"]}
    try:
        model = open_fitting(folder / "model.onnx", runtime)
    except NotAvailableError as error:
        return None, known | {"not_compared": str(error)}
    own, asked = ([one.name for one in classes] for classes in (model.classes, data.card.classes))
    if own != asked:
        return None, known | {
            "not_compared": f"it knows the classes {', '.join(own)}, and the dataset has {', '.join(asked)}"
        }
    return model, known | {"runtime": model.runtime, "seen": _seen(folder / SPLIT_TABLE, ids)}


def _seen(table: Path, ids: list[str]) -> float | None:
    """The share of the images `ids` that the champion was trained on; None: its split is not known."""
    if not table.exists():
        return None
    with table.open(newline="") as file:
        trained_on = {row["id"] for row in csv.DictReader(file) if row["split"] == "train"}
    return sum(id_ in trained_on for id_ in ids) / len(ids)


def _tell(parity: Mapping[str, Parity], missing: Mapping[str, str], metrics: dict[str, Any], report: Path) -> None:
    """The step's summary, in the log."""
    for name, found in parity.items():
        log.info(
            "%s: mIoU %.4f (%+.4f), %.4f %% of the pixels unlike PyTorch's, logits by up to %.2g",
            name,
            found.scores.miou,
            found.miou_change,
            100 * found.differing_pixels,
            found.max_logit_difference,
        )
    for reason in missing.values():
        log.info("left out: %s", reason)
    figures, holder = metrics["figures"], metrics["champion"]
    log.info(
        "test split, %d images in %d groups: mIoU %s with background, %s over defects; defects found: %s",
        metrics["images"],
        metrics["bootstrap"]["groups"],
        *(_said(figures[name]) for name in ("miou", "miou_defects", "defect_recall")),
    )
    if holder:
        said = holder.get("not_compared") or f"mIoU {_said(holder['difference']['miou'], '+')} against it"
        log.info("the champion, version %d: %s", holder["version"], said)
    log.info("report: %s", report)


def _said(figure: Mapping[str, float | None], sign: str = "") -> str:
    """Such as "0.7813 (0.7521 to 0.8043)"."""
    value, low, high = (None if one is None else f"{one:{sign}.4f}" for one in figure.values())
    return "none" if value is None else value if low is None else f"{value} ({low} to {high})"


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _provenance(lineage: dict[str, Any], export_info: dict[str, Any]) -> dict[str, str]:
    """What the report says of where its figures come from."""
    provenance, training = lineage["provenance"], lineage["training"]
    hardware = provenance["hardware"]
    libraries = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    device, minutes = training["device"], training["seconds"] / 60
    return {
        "Dataset": f"{lineage['dataset']['title']}, content {lineage['dataset']['content_hash']}",
        "Split": f"{lineage['split']['kind']}, seed {lineage['split']['seed']}",
        "Training": f"seed {training['params']['seed']}, {training['params']['epochs']} epochs, best epoch "
        f"{training['best_epoch']} by validation mIoU, {minutes:.1f} minutes on {device}",
        "Model": f"SHA-256 {export_info['model_sha256']}",
        "int8": _said_of_int8(export_info["int8"]),
        "Code": str(provenance["code_revision"]),
        "Machine": ", ".join([hardware["cpu"], f"{hardware['cores']} cores", *hardware["gpus"]]),
        "Versions": libraries,
    }


def _said_of_int8(int8: Mapping[str, Any]) -> str:
    """How much of the network computes in int8, what that costs, and which layers it had to be kept from."""
    if "not_available" in int8:
        return f"none: {int8['not_available']}"
    kept = int8["kept"]
    return (
        f"{int8['convolutions'] - len(kept)} of {int8['convolutions']} convolutions; mIoU on val "
        f"{-int8['loss']:+.4f} (at most {int8['max_loss']:g} may be lost); "
        f"in higher precision: {', '.join(kept) or 'no other'}"
    )
