"""`dbrnet promote` where something fails; from end to end: tests/test_pipeline.py."""

import errno
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dbrnet.steps.promote
from dbrnet.config import PromoteParams, load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split, split_samples
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.errors import JobError, UserError
from dbrnet.files import MARKER, read_json, sha256_file
from dbrnet.models.saved import ModelMeta, load_model, save_model
from dbrnet.records import StartFacts, TrainRecord
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import Store
from dbrnet.registry.tracking import TrackedRun
from dbrnet.registry.versions import fetch_model
from dbrnet.steps.promote import promote
from dbrnet.steps.train import open_start, train
from tests.registry.acting import NAME, carry_out, registry_state, start
from tests.registry.conftest import ModelMaker
from tests.reports import cases, examples
from tests.reports.examples import change
from tests.steps.test_thresholds import SETTINGS

PARAMS = Path(__file__).parents[2] / "params.yaml"
PAGES = {"decision.json", "review.html", "model-card.md", "summary.txt"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of 40 images and its split."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "source", images=40)
    made = build_dataset("steel-strip", folder / "source", folder, mask_threshold=127)
    splits = split_samples(
        made, {one.id: one.id for one in made.samples}, kind="random", fractions=(0.5, 0.25, 0.25), seed=0
    )
    splits.save(folder)
    return folder


@dataclass
class Candidate:
    """What the steps before `promote` wrote of one that passes, compared with the champion, version 1."""

    folder: Path
    data: Path
    run_id: str
    params: PromoteParams

    def promote(self) -> None:
        promote(self.params, self.data, self.data, *[self.folder] * 5, out=self.folder / "promote")

    def change(self, name: str, *path: str, to: object) -> None:
        """Change a value of `<name>.json`."""
        content: Any = read_json(self.folder / f"{name}.json")
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        (self.folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def candidate(
    data: Path, store: Store, make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Candidate:
    monkeypatch.chdir(store.artifacts.parent)
    run = start(store)
    carry_out(store, run, make_model(1))
    run.finish()
    folder = tmp_path / "steps"
    folder.mkdir()
    shutil.copyfile(make_model(2), folder / "model.onnx")
    facts = cases.facts(folder)
    sha256 = sha256_file(folder / "model.onnx")
    content, table = Dataset.load(data).card.content_hash, sha256_file(data / "split.csv")
    lineage = change(
        facts.train, run_id=run.run_id, dataset__name="strip", dataset__content_hash=content, split__sha256=table
    )
    parity = {"onnxruntime-cpu": examples.parity()}
    for record in (
        lineage,
        change(examples.export(("onnxruntime-cpu",)), model_sha256=sha256),
        change(facts.champion, model_name=NAME, version=1),
        change(facts.evaluation, model_sha256=sha256, runtimes=parity, champion__version=1),
        change(facts.benchmark, model_sha256=sha256, champion__version=1),
    ):
        record.save(folder)
    (folder / "history.csv").write_text("step,loss\n1,0.5\n")
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "report.html").write_text("<p>the report</p>")
    return Candidate(folder, data, run.run_id, PromoteParams.model_validate(SETTINGS))


def artifacts_of(store: Store, run_id: str) -> set[str]:
    return {file.path for file in store.client.list_artifacts(run_id)}


def assert_promoted(candidate: Candidate, store: Store) -> None:
    """Version 2 took over from version 1 in one entry, and all that tells of it is there."""
    state = registry_state(store)
    assert state["aliases"] == {"champion": 2}
    assert [(version, outcome) for version, outcome, *_ in state["ledger"]] == [(1, "promoted"), (2, "promoted")]
    out = candidate.folder / "promote"
    assert {file.name for file in out.iterdir()} == PAGES | {MARKER}
    assert not list(candidate.folder.glob(".promote*"))
    decision = read_json(out / "decision.json")
    assert (decision["promotion"]["entry"], decision["promotion"]["champion_after"]) == (2, 2)
    assert {"report.html", "metrics.json", "export.json", "benchmark.json", *PAGES} <= artifacts_of(
        store, decision["run_id"]
    )
    run = store.client.get_run(decision["run_id"])
    assert (run.info.status, run.data.tags["answer"]) == ("FINISHED", "promoted")
    assert state["2"]["description"].startswith(f"# {NAME} version 2\n\nPromoted on ")
    entered = Ledger(store, NAME).entries()[-1]
    assert entered.time is not None
    assert decision["promotion"]["time"] == entered.time.isoformat(timespec="seconds")


def test_a_model_that_cannot_be_registered_leaves_its_training_finished(candidate: Candidate, store: Store) -> None:
    model = candidate.folder / "model.onnx"
    model.write_bytes(b"no ONNX model")
    for name in ("export", "metrics", "benchmark"):
        candidate.change(name, "model_sha256", to=sha256_file(model))
    with pytest.raises(UserError, match="not a sound ONNX model"):
        candidate.promote()
    after = store.client.get_run(candidate.run_id)
    assert (after.info.status, after.data.metrics["loss"]) == ("FINISHED", 0.5)


def test_promotion_writes_pages_artifacts_and_one_ledger_entry(candidate: Candidate, store: Store) -> None:
    candidate.promote()
    assert_promoted(candidate, store)


def test_the_champions_weights_are_registered_and_a_training_starts_from_them(
    candidate: Candidate, store: Store
) -> None:
    train_params = load_params(PARAMS).train
    meta = ModelMeta(
        Dataset.load(candidate.data).card.classes, train_params.model, (0.5,) * 3, (0.2,) * 3, 1.0, normalised=False
    )
    torch.manual_seed(1)
    model, weights = meta.build(), candidate.folder / "model.pt"
    save_model(weights, model, meta)
    champion = f"models:/{NAME}@champion"
    with pytest.raises(UserError, match=r"version 1 has no model\.pt"):  # of before the weights were registered
        open_start(champion)
    candidate.promote()
    assert fetch_model(champion, candidate.folder / "fetched", store=store, file="model.pt").read_bytes() == (
        weights.read_bytes()
    )
    still = {"steps": 1, "learning_rate": 1e-9, "warmup_steps": 0, "ema_decay": None}
    small = {"crop": (32, 128), "zoom": 0.25, "workers": 0}
    again = candidate.folder / "again"
    train(
        train_params.model_copy(update={"start": champion, **still, **small}), candidate.data, candidate.data, out=again
    )
    other = candidate.folder / "other"
    other.mkdir()
    drawn = Split.load(candidate.data)
    turned = drawn.ids | {"train": drawn.ids["test"], "test": drawn.ids["train"]}
    counts = drawn.counts | {"train": drawn.counts["test"], "test": drawn.counts["train"]}
    replace(drawn, ids=turned, counts=counts).save(other)
    with pytest.raises(UserError, match=r"has learnt from \d+ images of the test split or near-duplicates"):
        train(train_params.model_copy(update={"start": champion}), candidate.data, other, out=candidate.folder / "leak")
    facts = TrainRecord.load(again).training
    assert facts.start == StartFacts(source=champion, sha256=sha256_file(weights))
    assert facts.params["start"] == champion
    for mine, theirs in zip(load_model(again / "model.pt")[0].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def ask_for_infinity(candidate: Candidate, patch: pytest.MonkeyPatch) -> None:
    candidate.params = candidate.params.model_copy(update={"max_false_positives": math.inf})  # unchecked


def fill_disk(candidate: Candidate, patch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    patch.setattr("dbrnet.steps.promote.write_atomically", full)


FAULTS: dict[str, tuple[type[Exception], Callable[[Candidate, pytest.MonkeyPatch], object]]] = {
    "decision.json": (ValueError, ask_for_infinity),
    "a record": (UserError, lambda one, _: one.change("train", "dataset", "images", to="many")),
    "the page": (NameError, lambda _, patch: patch.delattr("dbrnet.reports.decision_page._lineage")),
    "an image of the page": (JobError, lambda one, _: shutil.rmtree(one.folder / "disagreements")),
    "the model card": (NameError, lambda _, patch: patch.delattr("dbrnet.reports.decision_text._sections")),
    "the summary": (NameError, lambda _, patch: patch.delattr("dbrnet.reports.decision_text._comparison")),
    "the disk": (OSError, fill_disk),
    "the report": (JobError, lambda one, _: (one.folder / "report.html").unlink()),
    "the folder": (UserError, lambda one, _: (one.folder / "promote").write_text("a file")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_to_render_write_or_send_leaves_ledger_and_aliases_unchanged(
    fault: str, candidate: Candidate, store: Store
) -> None:
    before = registry_state(store)
    error, cause = FAULTS[fault]
    with pytest.MonkeyPatch.context() as patch:
        cause(candidate, patch)
        with pytest.raises(error):
            candidate.promote()
    after = registry_state(store)
    assert (after["ledger"], after["aliases"]) == (before["ledger"], before["aliases"])
    assert ("2" in after) == (fault not in {"decision.json", "a record"}), "these end before the model is registered"
    assert "decision" not in after.get("2", {"tags": {}})["tags"]
    assert not list(candidate.folder.glob(".promote*"))


def test_the_ledger_keeps_measured_figures_only(candidate: Candidate, store: Store) -> None:
    nothing = {"value": None, "low": None, "high": None, "unit": "share"}
    candidate.change("metrics", "figures", "miou", to=nothing)
    candidate.promote()
    entry = Ledger(store, NAME).entries()[-1]
    assert (entry.answer, set(entry.figures.estimates)) == ("rejected", {"difference", "fps"})


AFTER_THE_ENTRY = {
    "first file": (TrackedRun, "log_artifact", "decision.json"),
    "last file": (TrackedRun, "log_artifact", "summary.txt"),
    "answer": (TrackedRun, "set_tags", "answer"),
    "description": (dbrnet.steps.promote, "describe", ""),
}


@pytest.mark.parametrize("point", AFTER_THE_ENTRY)
def test_a_step_killed_after_its_entry_is_completed_by_the_next_run(
    point: str, candidate: Candidate, store: Store
) -> None:
    owner, name, when = AFTER_THE_ENTRY[point]
    call = getattr(owner, name)

    def killed(*words: Any) -> Any:
        if Ledger(store, NAME).aliases() == {"champion": 2} and when in str(words[1:]):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words)

    child = os.fork()
    if child == 0:
        try:
            setattr(owner, name, killed)
            candidate.promote()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert Ledger(store, NAME).aliases() == {"champion": 2}
    candidate.promote()
    assert_promoted(candidate, store)


def test_pages_show_the_recorded_outcome_where_another_promotion_came_first(
    candidate: Candidate, store: Store, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact = TrackedRun.log_artifact

    def overtaken(run: TrackedRun, path: Path) -> None:
        if path.name == "report.html":
            carry_out(store, start(store), make_model(3), against=1)
        log_artifact(run, path)

    monkeypatch.setattr(TrackedRun, "log_artifact", overtaken)
    candidate.promote()
    assert registry_state(store)["aliases"] == {"champion": 3}
    promotion = read_json(candidate.folder / "promote/decision.json")["promotion"]
    assert (promotion["answer"], promotion["champion_after"]) == ("rejected", 3)
    for page in ("review.html", "model-card.md", "summary.txt"):
        text = (candidate.folder / "promote" / page).read_text()
        assert "version 3 had become champion since the comparison with version 1" in text
