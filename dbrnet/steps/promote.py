"""Step 8: the decision, and what follows from it in MLflow."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dbrnet.config import PromoteParams
from dbrnet.data import open_dataset
from dbrnet.data.split import Split, require_trained_on
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, sha256_file, write_atomically
from dbrnet.provenance import collect_provenance
from dbrnet.records import (
    WEIGHTS_FILE,
    BenchmarkRecord,
    ChampionRecord,
    Decision,
    DecisionRecord,
    EvaluationRecord,
    ExportRecord,
    TrainRecord,
    read_history,
)
from dbrnet.registry.gate import Measurements, decide
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import describe, record
from dbrnet.registry.store import Store, open_store, retry_while_unavailable
from dbrnet.registry.tracking import TrackedRun, decision_run, send_missing, start_or_resume_run
from dbrnet.registry.versions import LINEAGE, TABLES, register
from dbrnet.reports.decision_facts import Facts
from dbrnet.reports.decision_page import render_review
from dbrnet.reports.decision_text import model_card, outcome_line, render_summary
from dbrnet.steps.thresholds import thresholds

log = logging.getLogger(__name__)


@retry_while_unavailable
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
    train = TrainRecord.load(trained)
    evidence = _Evidence(
        ExportRecord.load(exported),
        ChampionRecord.load(champion),
        EvaluationRecord.load(evaluated),
        BenchmarkRecord.load(benchmarked),
        *(train.split, train, exported, evaluated, benchmarked),
    )
    evidence.require_one_model()
    data = open_dataset(dataset)
    require_trained_on(train, data, split)
    decision = decide(evidence.figures(params.fps_hardware), thresholds(params, evidence), params.mode)
    name, store = evidence.champion.model_name, open_store(Path.cwd())
    run = start_or_resume_run(
        store, train.dataset.name, run_id=train.run_id, name=name, tags={"answer": decision.answer}
    )
    try:
        send_missing(run, read_history(trained))
        run.log_metrics(_metrics(evidence), step=0)
        files = {
            LINEAGE: trained / TrainRecord.FILE,
            WEIGHTS_FILE: trained / WEIGHTS_FILE,  # a later training may start from them
            **_tables(dataset, split, evaluated),
        }
        example = data.image(Split.load(split).samples(data, "test")[0])[None]  # raw
        version = register(store, run, name, evidence.model, files=files, tags=evidence.tags, example=example)
    finally:
        run.finish()  # the training did, whatever becomes of its model
    _carry_out(params, evidence, decision, store, run, version, out)


@dataclass(frozen=True)
class _Evidence(Measurements):
    """The records of the steps before, and their folders."""

    train: TrainRecord
    exported: Path
    evaluated: Path
    benchmarked: Path

    @property
    def model(self) -> Path:
        return self.exported / self.export.model_file

    @property
    def attachments(self) -> list[Path]:
        """The files behind the decision, for a reader of its run."""
        return [
            self.evaluated / "report.html",
            self.evaluated / EvaluationRecord.FILE,
            self.exported / ExportRecord.FILE,
            self.benchmarked / BenchmarkRecord.FILE,
            *sorted(self.benchmarked.glob("*.png")),
        ]

    @property
    def tags(self) -> dict[str, object]:
        """What stays on the version for ever."""
        dataset = self.train.dataset
        return {
            "dataset": dataset.name,
            "dataset_hash": dataset.content_hash,
            "split": self.split.kind,
            "leaks": self.split.leaks,
            "code_revision": self.train.provenance.code_revision,
            **{f"dvc_{name}": value for name, value in dataset.dvc.known.items()},
        }

    @property
    def key_figures(self) -> KeyFigures:
        """What the ledger keeps."""
        compared, speed = self.evaluation.compared, self.benchmark.runtimes.get(self.export.deployed)
        return KeyFigures(
            miou=self.evaluation.figures["miou"].value,
            difference=compared.difference["miou"].value if compared else None,
            fps=speed.fps if speed else None,
        )

    def require_one_model(self) -> None:
        """Figures of another model, or against another champion, must not decide on this one."""
        digest = sha256_file(self.model)
        for measured in (self.export, self.evaluation, self.benchmark):
            if measured.model_sha256 != digest:
                raise UserError(
                    f"the {measured.STEP} figures are of another model than {self.model}; run that step again"
                )
        for compared in (self.evaluation, self.benchmark):
            if (compared.champion and compared.champion.version) != self.champion.version:
                raise UserError(f"the {compared.STEP} figures are against another champion; run that step again")

    def key(self, decision: Decision) -> str:
        """The decision's id: the same evidence and the same answer, the same decision."""
        content = [
            decision.model_dump(mode="json"),
            self.export.model_sha256,
            self.champion.version,
            self.evaluation.dataset.model_dump(mode="json"),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _tables(*folders: Path) -> dict[str, Path]:
    """The tables that a later run compares with, by name, in the folders that the steps wrote."""
    tables = {name: folder / name for name in TABLES for folder in folders if (folder / name).exists()}
    if missing := [name for name in TABLES if name not in tables]:
        log.warning(
            "the version is registered without %s, and drift will not know what to compare with; "
            "ingest the dataset again",
            ", ".join(missing),
        )
    return tables


def _metrics(evidence: _Evidence) -> dict[str, float]:
    """The candidate's figures in MLflow's tables, beside the training's."""
    figures, runtimes = evidence.evaluation.figures, evidence.evaluation.runtimes
    metrics = {f"test_{name.replace('/', '_')}": figure.value for name, figure in figures.items()}
    for name, speed in evidence.benchmark.runtimes.items():
        metrics |= {f"{name}_{field}": getattr(speed, field) for field in ("fps", "p50_ms", "p99_ms")}
    for name, parity in runtimes.items():
        distances = ("miou_change", "max_logit_difference", "differing_pixels")
        metrics |= {f"{name}_{field}": getattr(parity, field) for field in distances}
    return {name: value for name, value in metrics.items() if value is not None}


def _carry_out(
    params: PromoteParams,
    evidence: _Evidence,
    decision: Decision,
    store: Store,
    run: TrackedRun,
    version: int,
    out: Path,
) -> None:
    """Enter the decision in the ledger, and write what tells of it, into `out` and a run of its own."""
    name, key = evidence.champion.model_name, evidence.key(decision)
    with decision_run(store, run, key=key, name=f"decide-v{version}", tags=evidence.tags) as own:
        enter = partial(
            record,
            store,
            name,
            version,
            decision,
            compared_with=evidence.champion.version,
            decision_id=key,
            run_id=own.run_id,
            figures=evidence.key_figures,
        )
        with atomic_directory(out, "promote") as folder:
            # First with the expected outcome: an error in the content, on the disk or in the store ends the
            # step here, before anything is decided.
            facts = Facts(
                decision=decision,
                promotion=enter(dry_run=True),
                evaluation=evidence.evaluation,
                benchmark=evidence.benchmark,
                train=evidence.train,
                champion=evidence.champion,
                settings=params.model_dump(),
                evaluated=evidence.evaluated,
                durations=evidence.benchmarked / "durations.csv",
                links=_links(store, own, name, version, out, evidence.evaluated),
            )
            _write(folder, facts, own)
            for file in evidence.attachments:
                own.log_artifact(file)
            facts = replace(facts, promotion=enter())
            _write(folder, facts, own)
            for file in sorted(folder.glob("[!.]*")):
                own.log_artifact(file)
        own.set_tags({"answer": facts.promotion.answer})
        describe(store, name, version, model_card(facts))
    log.info("%s", outcome_line(facts.promotion))


def _links(store: Store, own: TrackedRun, name: str, version: int, out: Path, evaluated: Path) -> dict[str, str]:
    """Label -> where more is found."""
    ui = str(store).rstrip("/") if store.is_server else "http://127.0.0.1:5000"
    page = f"{ui}/#/models/{name}/versions/{version}"
    return {
        "review": str(out / "review.html"),
        "page": f"{ui}/#/experiments/{own.experiment_id}/runs/{own.run_id}/artifacts/review.html",
        "report": str(evaluated / "report.html"),
        "MLflow": f"{store}, run {own.run_id}" if store.is_server else f"make ui, then open {page}",
    }


def _write(folder: Path, facts: Facts, own: TrackedRun) -> None:
    DecisionRecord(
        **vars(facts.decision), promotion=facts.promotion, run_id=own.run_id, provenance=collect_provenance()
    ).save(folder)
    write_atomically(folder / "review.html", render_review(facts))
    write_atomically(folder / "model-card.md", model_card(facts))
    write_atomically(folder / "summary.txt", render_summary(facts))
