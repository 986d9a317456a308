"""A real training of seconds, and what MLflow has of it when its server is killed, hangs or never returns."""

import getpass
import logging
import shutil
import sys
from typing import Any

import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split
from dbrnet.errors import JobError, UserError
from dbrnet.records import DataRevision
from dbrnet.registry.tracking import TrackedRun, start_or_resume_run
from dbrnet.training.loop import train as run_training
from tests.registry.training_project import Project
from tests.retrying import retry_at_once


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
