"""Step 8: the decision, and what follows from it in MLflow."""

import csv
import hashlib
import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from dbrnet.config import PromoteParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset, Image
from dbrnet.data.split import Split, require_trained_on
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, read_json, sha256_file, write_atomically, write_json
from dbrnet.provenance import collect_provenance
from dbrnet.registry.criteria import Measurements
from dbrnet.registry.gate import Decision, Figure, decide
from dbrnet.registry.promotion import Promotion, describe, record
from dbrnet.registry.store import Store, open_store, patient
from dbrnet.registry.tracking import TrackedRun, decision_run, send_missing, start_or_resume_run
from dbrnet.registry.versions import LINEAGE, TABLES, register
from dbrnet.reports.decision_facts import Facts
from dbrnet.reports.decision_page import render_review
from dbrnet.reports.model_card import model_card
from dbrnet.reports.summary import outcome_line, render_summary

log = logging.getLogger(__name__)


@patient
def promote(
    params: PromoteParams,
    dataset: Path,
    split: Path,
    trained: Path,
    exported: Path,
    champion: Path,
    evaluated: Path,
    benchmarked: Path,
    *,
    out: Path,
) -> None:
    """Decide by the measured figures and carry the decision out in MLflow's registry.

    Promoted: the model's version gets the alias `champion`. Needs review: it gets the alias `challenger`, and
    a person decides (`dbrnet registry`). Rejected: no alias moves. A figure that is missing rejects; each
    answer is exit status 0. The decision stands in the registry's ledger, and takes effect only if the
    champion is still the one that was compared. Writes decision.json, review.html, model-card.md and
    summary.txt under --out, and into a run of its own beneath the training's. A content that cannot be
    rendered, a full disk and a store that takes no files fail before the decision is entered. A step that is
    killed after it is completed by the next run of the same step.
    """
    files = _Files(trained, exported, champion, evaluated, benchmarked)
    files.require_one_model()
    data = open_dataset(dataset)
    require_trained_on(files.lineage, data, split)
    measured = files.measurements
    thresholds = measured.thresholds(params.model_dump())
    decision = decide(measured.figures(params.fps_hardware), thresholds, params.mode)
    key, name, store = _key(decision, files), files.champion["model_name"], open_store(Path.cwd())
    run = start_or_resume_run(
        store,
        files.lineage["dataset"]["name"],
        run_id=files.lineage["run_id"],
        name=name,
        tags={"answer": decision.answer},
    )
    try:
        send_missing(run, files.history)
        run.log_metrics(_metrics(files), step=0)
        version = register(
            store,
            run,
            name,
            files.model,
            files={LINEAGE: trained / "train.json", **_tables(dataset, split, evaluated)},
            tags=_evidence(files),
            example=_example(data, split),
        )
    finally:
        run.finish()  # the training did, whatever becomes of its model
    with decision_run(store, run, key=key, name=f"decide-v{version}", tags=_evidence(files)) as own:
        enter = partial(
            record,
            store,
            name,
            version,
            answer=decision.answer,
            reasons=decision.reasons,
            compared_with=files.champion["version"],
            decision_id=key,
            run_id=own.run_id,
            figures=_key_figures(measured),
        )
        with atomic_directory(out, "promote") as folder:
            # First with the expected outcome: an error in the content, on the disk or in the store ends the
            # step here, before anything is decided.
            facts = _facts(params, decision, enter(dry_run=True), files, store, own, out)
            _write(folder, facts, own)
            for file in files.attachments:
                own.log_artifact(file)
            promotion = enter()
            facts = replace(facts, outcome=promotion.to_dict(), time=promotion.time, by=promotion.by)
            _write(folder, facts, own)
            for file in sorted(folder.glob("[!.]*")):
                own.log_artifact(file)
        own.set_tags({"answer": promotion.answer})
        describe(store, name, version, model_card(facts))
    log.info("%s", outcome_line(facts.outcome))


@dataclass(frozen=True)
class _Files:
    """What the steps before wrote."""

    trained: Path
    exported: Path
    champion_folder: Path
    evaluated: Path
    benchmarked: Path

    @cached_property
    def lineage(self) -> dict[str, Any]:
        return read_json(self.trained / "train.json")

    @cached_property
    def export(self) -> dict[str, Any]:
        return read_json(self.exported / "export.json")

    @cached_property
    def champion(self) -> dict[str, Any]:
        return read_json(self.champion_folder / "champion.json")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.evaluated / "metrics.json")

    @cached_property
    def benchmark(self) -> dict[str, Any]:
        return read_json(self.benchmarked / "benchmark.json")

    @property
    def model(self) -> Path:
        return self.exported / str(self.export["model_file"])

    @property
    def history(self) -> list[dict[str, float]]:
        with (self.trained / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{key: float(value) for key, value in row.items() if value} for row in rows]

    @property
    def measurements(self) -> Measurements:
        split = self.lineage["split"]
        return Measurements(self.export, self.champion, self.metrics, self.benchmark, split)

    @property
    def attachments(self) -> list[Path]:
        """What the decision rests on, for a reader of its run."""
        return [
            self.evaluated / "report.html",
            self.evaluated / "metrics.json",
            self.exported / "export.json",
            self.benchmarked / "benchmark.json",
            *sorted(self.benchmarked.glob("*.png")),
        ]

    def require_one_model(self) -> None:
        """Figures of another model, or against another champion, must not decide on this one."""
        digest, baseline = sha256_file(self.model), self.champion["version"]
        contents = {"export": self.export, "evaluate": self.metrics, "benchmark": self.benchmark}
        for step, content in contents.items():
            if content.get("model_sha256") != digest:
                raise UserError(f"the {step} figures are of another model than {self.model}; run that step again")
            if step != "export" and (content["champion"] or {}).get("version") != baseline:
                raise UserError(f"the {step} figures are against another champion; run that step again")


def _key(decision: Decision, files: _Files) -> str:
    """The decision's id: the same evidence and the same answer, the same decision."""
    content = [decision.to_dict(), files.export["model_sha256"], files.champion["version"], files.metrics["dataset"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _evidence(files: _Files) -> dict[str, object]:
    """What stays on the version for ever."""
    dataset, split = files.lineage["dataset"], files.lineage["split"]
    return {
        "dataset": dataset["name"],
        "dataset_hash": dataset["content_hash"],
        "split": split["kind"],
        "leaks": split["leaks"],
        "code_revision": files.lineage["provenance"]["code_revision"],
        **{f"dvc_{name}": value for name, value in dataset.get("dvc", {}).items()},
    }


def _tables(*folders: Path) -> dict[str, Path]:
    """What a later run will want to know of the version, by name, in the folders that the steps wrote."""
    found = {name: folder / name for name in TABLES for folder in folders if (folder / name).exists()}
    if missing := [name for name in TABLES if name not in found]:  # an earlier version ingested the dataset
        log.warning(
            "the version is registered without %s, and drift will not know what to compare with; "
            "ingest the dataset again",
            ", ".join(missing),
        )
    return found


def _example(data: Dataset, split: Path) -> Image:
    """One raw image of the test split, [1, H, W, 3]."""
    return data.image(Split.load(split).samples(data, "test")[0])[None]


def _metrics(files: _Files) -> dict[str, float]:
    """The candidate's figures as MLflow's tables show them beside the training's."""
    found = {f"test_{name.replace('/', '_')}": one["value"] for name, one in files.metrics["figures"].items()}
    for name, latency in files.benchmark["runtimes"].items():
        found |= {f"{name}_{figure}": latency[figure] for figure in ("fps", "p50_ms", "p99_ms")}
    for name, parity in files.metrics["runtimes"].items():
        found |= {
            f"{name}_{figure}": parity[figure] for figure in ("miou_change", "max_logit_difference", "differing_pixels")
        }
    return {name: value for name, value in found.items() if value is not None}


def _key_figures(measured: Measurements) -> dict[str, float]:
    """What the ledger keeps of the decision."""
    compared = (measured.metrics["champion"] or {}).get("difference", {})
    figures = {
        "miou": measured.metrics["figures"]["miou"]["value"],
        "difference": compared.get("miou", {}).get("value"),
        "fps": measured.benchmark["runtimes"].get(measured.deployed, {}).get("fps"),
    }
    finite = {name: Figure.of(value).value for name, value in figures.items()}
    return {name: value for name, value in finite.items() if value is not None}


def _facts(
    params: PromoteParams,
    decision: Decision,
    promotion: Promotion,
    files: _Files,
    store: Store,
    own: TrackedRun,
    out: Path,
) -> Facts:
    ui = str(store).rstrip("/") if store.is_server else "http://127.0.0.1:5000"
    page = f"{ui}/#/models/{promotion.model_name}/versions/{promotion.version}"
    return Facts(
        decision=decision.to_dict(),
        outcome=promotion.to_dict(),
        metrics=files.metrics,
        benchmark=files.benchmark,
        lineage=files.lineage,
        champion=files.champion,
        params=params.model_dump(),
        evaluated=files.evaluated,
        durations=files.benchmarked / "durations.csv",
        links={
            "review": str(out / "review.html"),
            "page": f"{ui}/#/experiments/{own.experiment_id}/runs/{own.run_id}/artifacts/review.html",
            "report": str(files.evaluated / "report.html"),
            "MLflow": f"{store}, run {own.run_id}" if store.is_server else f"make ui, then open {page}",
        },
        time=promotion.time,
        by=promotion.by,
    )


def _write(folder: Path, facts: Facts, own: TrackedRun) -> None:
    content = {**facts.decision, "promotion": facts.outcome, "run_id": own.run_id, "provenance": collect_provenance()}
    write_json(folder / "decision.json", content)
    write_atomically(folder / "review.html", render_review(facts))
    write_atomically(folder / "model-card.md", model_card(facts))
    write_atomically(folder / "summary.txt", render_summary(facts))
