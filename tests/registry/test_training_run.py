"""A real training of seconds, and what MLflow has of it when its server is killed, hangs or never returns."""

import getpass
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dbrnet.registry.metric_logger
from dbrnet.config import load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split, split_samples
from dbrnet.data.synthetic import generate
from dbrnet.errors import JobError, UserError
from dbrnet.records import DataRevision, TrainRecord, read_history
from dbrnet.registry.store import Store, open_store
from dbrnet.registry.tracking import TrackedRun, send_missing, start_or_resume_run
from dbrnet.steps.ingest import ingest
from dbrnet.steps.train import train
from dbrnet.training import loop
from dbrnet.training.loop import HistoryRow
from dbrnet.training.loop import train as run_training
from tests.registry.servers import Server
from tests.retrying import retry_at_once

PARAMS = Path(__file__).parents[2] / "params.yaml"
STEPS = 6  # each with a validation
PASSWORD = "correct-horse-battery"
TOKEN, KEY = "tracking-pass-5c1f", "aws-secret-77ab"


@pytest.fixture
def server(tmp_path: Path, migrated_database: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server", migrated_database)
    yield made
    made.kill()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `dataset` of 32 images and its `split`."""
    root = tmp_path_factory.mktemp("prepared")
    generate(root / "source", images=32)
    ingest(load_params(PARAMS).ingest.model_copy(update={"source": str(root / "source")}), out=root / "dataset")
    data = Dataset.load(root / "dataset")
    groups = {sample.id: sample.group for sample in data.samples}
    made = split_samples(data, groups, kind="random", fractions=(0.5, 0.25, 0.25), seed=4)
    made = replace(made, disputed=(made.ids["train"][0], made.ids["val"][0]))
    (root / "split").mkdir()
    made.save(root / "split")
    return root


class Project:
    """An empty folder to train in."""

    def __init__(self, folder: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.prepared, self.monkeypatch = folder, prepared, monkeypatch
        monkeypatch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            monkeypatch.delenv(name)
        torch.set_num_threads(1)
        monkeypatch.setattr(loop, "VALIDATION_SHARE", 1e6)  # after each step

    def after_validation(self, act: Callable[[int], None]) -> None:
        """Have `act` called with each validation's step, from within the training."""

        def run(*args: Any, on_validation: Callable[[HistoryRow], None], **rest: Any) -> Any:
            def both(row: HistoryRow) -> None:
                on_validation(row)
                act(row.step)

            return run_training(*args, on_validation=both, **rest)

        self.monkeypatch.setattr("dbrnet.steps.train.run_training", run)

    def train(self, steps: int = STEPS, checkpoints: Path | None = None, workers: int = 0) -> TrainRecord:
        """Train, and return train.json."""
        small = {"steps": steps, "crop": (32, 128), "zoom": 0.25, "batch_size": 8, "seed": 7}
        params = load_params(PARAMS).train.model_copy(update=small | {"workers": workers})
        dataset, split = self.prepared / "dataset", self.prepared / "split"
        train(params, dataset, split, out=self.folder / "train", checkpoints=checkpoints)
        return TrainRecord.load(self.folder / "train")

    @property
    def store(self) -> Store:
        return open_store(self.folder)

    @property
    def history(self) -> list[dict[str, float]]:
        return read_history(self.folder / "train")

    def steps(self, run_id: str, key: str = "loss") -> list[int]:
        """The steps that MLflow has, doubles and all."""
        return [metric.step for metric in self.store.client.get_metric_history(run_id, key)]

    def await_step(self, step: int) -> None:
        """Return when MLflow has it of the one run that there is, or after a minute."""
        client, deadline = self.store.client, time.monotonic() + 60
        experiment = client.get_experiment_by_name("steel-strip")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id])
        while step not in self.steps(run.info.run_id) and time.monotonic() < deadline:
            time.sleep(0.1)

    def joined(self, lineage: TrainRecord) -> TrackedRun:
        return start_or_resume_run(self.store, "steel-strip", run_id=lineage.run_id, name="", tags={})


@pytest.fixture
def project(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, prepared, monkeypatch)


@pytest.fixture
def filed(project: Project, migrated_database: Path) -> Project:
    """A project whose store is a file."""
    shutil.copyfile(migrated_database, project.folder / "mlflow.db")
    return project


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_folder_that_is_not_ours_is_not_used_for_checkpoints(project: Project, checkpoints: bool) -> None:
    kept = project.folder / "kept"
    project.monkeypatch.setattr("dbrnet.training.recipe.Recipe.fingerprint", lambda *_: 64 * "a")
    place = kept / (16 * "a") if checkpoints else project.folder / ".train.checkpoint"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{place.name} holds files that `dbrnet train` did not write"):
        project.train(steps=1, checkpoints=kept if checkpoints else None)
    assert [path.name for path in place.iterdir()] == ["notes.txt"]
    assert not (project.folder / "train").exists()


def test_a_training_as_mlflow_shows_it(filed: Project) -> None:
    filed.monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    lineage = filed.train(steps=3)
    client, run_id = filed.store.client, lineage.run_id
    run = client.get_run(run_id)
    assert (client.get_experiment(run.info.experiment_id).name, run.info.status) == ("steel-strip", "FINISHED")
    assert run.info.run_name.startswith("steel-strip random seed 7 ")
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.name"] == sys.argv[0]
    assert run.data.tags["mlflow.source.git.commit"] == (lineage.provenance.code_revision or "")
    assert run.data.params["train.crop"] == "[32, 128]"
    assert run.data.params["split.kind"] == "random"
    assert not [name for name in run.data.params if "counts" in name]
    for row in filed.history:
        for key, value in row.items():
            if key != "step":
                found = {one.step: one.value for one in client.get_metric_history(run_id, key)}
                assert found[int(row["step"])] == value, key
    assert filed.steps(run_id) == [1, 2, 3]
    inputs = {{tag.key: tag.value for tag in one.tags}["mlflow.data.context"]: one for one in run.inputs.dataset_inputs}
    assert set(inputs) == {"training", "validation", "testing"}
    card = Dataset.load(filed.prepared / "dataset").card
    assert {one.dataset.digest for one in inputs.values()} == {card.content_hash[:36]}
    assert {tag.key: tag.value for tag in inputs["training"].tags}["images"] == "16"
    assert filed.steps(run_id, "system/cpu_utilization_percentage")[:2] == [0, 1]
    assert lineage.dataset.images == 32
    assert lineage.dataset.images_by_class == card.images_by_class
    assert lineage.split.counts["test"].images == 8
    assert lineage.missing_steps == ()


def test_disputed_images_are_seen_by_no_training_and_still_validated(
    filed: Project, caplog: pytest.LogCaptureFixture
) -> None:
    split, seen = Split.load(filed.prepared / "split"), []

    def run(dataset: Dataset, train_ids: list[str], val_ids: list[str], *rest: Any, **named: Any) -> Any:
        seen.append((tuple(train_ids), tuple(val_ids)))
        return run_training(dataset, train_ids, val_ids, *rest, **named)

    filed.monkeypatch.setattr("dbrnet.steps.train.run_training", run)
    with caplog.at_level(logging.INFO):
        assert filed.train(steps=1).training.left_out == 1
    assert seen == [(split.ids["train"][1:], split.ids["val"])]
    assert "1 of 16 training images are left out: the audit disputes their labels" in caplog.text


def test_a_training_joins_the_run_it_is_given_and_tags_the_datas_revision(filed: Project) -> None:
    revision = DataRevision(source="https://store.example/raw.zip", source_revision="https://git.example/data@0123abc")
    filed.monkeypatch.setattr("dbrnet.steps.train.data_revision", lambda *_: revision)
    given = start_or_resume_run(filed.store, "of the cluster", run_id=None, name="its name", tags={})
    filed.monkeypatch.setenv("MLFLOW_RUN_ID", given.run_id)
    filed.monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    filed.monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    lineage = filed.train(steps=1)
    assert (lineage.run_id, lineage.dataset.dvc) == (given.run_id, revision)
    run = filed.store.client.get_run(given.run_id)
    assert run.info.run_name == "its name"
    assert not [name for name in run.data.metrics if name.startswith("system/")]
    assert filed.steps(given.run_id) == [1]
    assert {name: run.data.tags[f"dvc_{name}"] for name in revision.known} == revision.known
    assert "dvc_dataset" not in run.data.tags


@pytest.mark.slow
@pytest.mark.parametrize("sent", [True, False], ids=["sent", "not sent, instead of a run that is not there"])
def test_a_training_that_goes_on_has_every_validation_once(filed: Project, *, sent: bool) -> None:
    if not sent:
        filed.monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    def interrupt(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with filed.monkeypatch.context() as patch:
        if not sent:
            patch.setattr(TrackedRun, "send", lambda run, steps: None)
        filed.after_validation(interrupt)  # before its checkpoint: the step is done again
        with pytest.raises(KeyboardInterrupt):
            filed.train(steps=3)
    filed.after_validation(lambda step: None)
    [begun] = filed.store.client.search_runs([filed.store.client.get_experiment_by_name("steel-strip").experiment_id])
    assert begun.info.status == "FAILED"
    lineage = filed.train(steps=3)
    assert lineage.run_id == begun.info.run_id
    assert sorted(filed.steps(lineage.run_id)) == [1, 2, 3]
    assert filed.store.client.get_run(lineage.run_id).info.status == "FINISHED"


def test_a_finished_training_whose_task_is_tried_again_is_not_done_again(filed: Project) -> None:
    kept = filed.folder / "kept"
    first = filed.train(steps=2, checkpoints=kept)
    weights = (filed.folder / "train/model.pt").read_bytes()
    shutil.rmtree(filed.folder / "train")
    trained: list[int] = []
    filed.after_validation(trained.append)
    again = filed.train(steps=2, checkpoints=kept)
    assert not trained
    assert (filed.folder / "train/model.pt").read_bytes() == weights
    assert again.run_id == first.run_id
    assert again.training == first.training.model_copy(update={"seconds": again.training.seconds})
    assert filed.steps(first.run_id) == [1, 2]
    others = filed.train(steps=2, checkpoints=kept, workers=1)  # which MLflow does not take in the same run
    assert not trained
    assert others.run_id != first.run_id
    assert filed.steps(others.run_id) == [1, 2]
    filed.monkeypatch.setattr("dbrnet.steps.train.computing_digest", lambda: "of other code")
    filed.train(steps=2, checkpoints=kept)
    assert trained == [1, 2]


def test_a_store_that_is_away_at_the_start_stops_before_training(project: Project, away_address: str) -> None:
    project.monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{away_address}")
    project.monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    retry_at_once(project.monkeypatch, "MLFLOW")
    project.after_validation(lambda step: pytest.fail("it trained"))
    with pytest.raises(JobError, match="cannot be reached"):
        project.train()
    assert not (project.folder / "train").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_killed_and_started_again_has_every_validation_once(
    project: Project, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    project.monkeypatch.setattr(dbrnet.registry.metric_logger, "RETRY", 0.5)
    project.monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)

    def said(words: str) -> bool:
        deadline = time.monotonic() + 60
        while words not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        return words in caplog.text

    def trouble(step: int) -> None:
        if step == 2:
            server.kill()
        elif step == 5:
            during.append(said("cannot be reached"))  # MLflow's client tries for seconds before it says so
            server.start()
            during.append(said("answers again"))

    during: list[bool] = []
    project.after_validation(trouble)
    lineage = project.train()
    assert project.steps(lineage.run_id) == list(range(1, STEPS + 1))
    assert project.store.client.get_run(lineage.run_id).info.status == "FINISHED"
    assert lineage.missing_steps == ()
    assert caplog.text.count("cannot be reached") == 1
    assert during == [True, True]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_server_that_is_lost_costs_the_training_nothing(
    project: Project, server: Server, way: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")  # whatever the tests before left
    project.monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    project.monkeypatch.setattr(dbrnet.registry.metric_logger, "PATIENCE", 2.0)

    def trouble(step: int) -> None:
        if step == 3:
            project.await_step(3)
            server.signal(way)

    project.after_validation(trouble)
    lineage = project.train()
    assert (project.folder / "train" / "model.pt").exists()
    assert lineage.missing_steps == (4, 5, 6)
    assert "lacks the validations of iterations 4, 5, 6" in caplog.text
    if way == signal.SIGKILL:
        server.kill()
        server.start()
        assert project.steps(lineage.run_id) == [1, 2, 3]
    else:
        server.signal(signal.SIGCONT)
    sent = send_missing(project.joined(lineage), project.history)
    assert sent == 3 or way == signal.SIGSTOP
    time.sleep(0 if way == signal.SIGKILL else 3)  # what it was sent while it hung is taken in
    assert send_missing(project.joined(lineage), project.history) == 0
    for key in ("loss", "val_miou", "learning_rate"):
        found = project.store.client.get_metric_history(lineage.run_id, key)
        assert [(one.step, one.value) for one in found] == [(row["step"], row[key]) for row in project.history]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_whose_server_dies_writes_no_secret(project: Project, server: Server) -> None:
    """Run as a user does, through the command line, so that all that is printed is searched too."""
    environment = dict(os.environ) | {
        "MLFLOW_TRACKING_URI": server.address.replace("//", f"//trainer:{PASSWORD}@"),
        "MLFLOW_TRACKING_USERNAME": "trainer",
        "MLFLOW_TRACKING_PASSWORD": TOKEN,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.2",
        "OMP_NUM_THREADS": "1",
    }
    params = PARAMS.read_text()
    small = {"  steps: ": "  steps: 32 #", "  zoom: ": "  zoom: 0.25 #", "  crop: ": "  crop: [32, 128] #"}
    for old, new in small.items():  # so small that there is a validation every four steps
        assert old in params
        params = params.replace(old, new)
    (project.folder / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "dbrnet", "train", str(project.prepared / "dataset")]
    command += [str(project.prepared / "split"), "--out", "train"]
    with (project.folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=log, stderr=log)
        while "iteration 12 of" not in (project.folder / "log").read_text() and process.poll() is None:
            time.sleep(0.05)
        server.kill()
        assert process.wait(120) == 0, (project.folder / "log").read_text()
    assert "cannot be reached" in (project.folder / "log").read_text()
    files = [file for root in (project.folder, server.root) for file in root.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"train.json", "history.csv", "model.pt", "log", "mlflow.db"}
    for file in files:
        content = file.read_bytes()
        for secret in (PASSWORD, TOKEN, KEY):
            assert secret.encode() not in content, file
