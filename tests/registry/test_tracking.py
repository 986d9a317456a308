import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from dbrnet.errors import JobError, UserError
from dbrnet.registry.store import Store, open_store
from dbrnet.registry.tracking import TrackedRun, decision_run, send_missing, start_or_resume_run


def start(store: Store, run_id: str | None = None) -> TrackedRun:
    return start_or_resume_run(store, "strip", run_id=run_id, name="train seed 0", tags={"commit": "abc"})


def history(run: TrackedRun, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in run.store.client.get_metric_history(run.run_id, key)]


def test_the_store_is_the_one_that_the_environment_names_else_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(tmp_path)
    assert (store.uri, store.is_server) == (f"sqlite:///{tmp_path}/mlflow.db", False)
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is used
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    store = open_store(tmp_path)
    assert (store.uri, store.is_server, store.artifact_location) == ("https://tracking.example", True, None)


@pytest.mark.parametrize("uri", ["mlruns", "file:///somewhere", "ftp://user:secret@host/x"])
def test_a_tracking_uri_of_an_unknown_kind_is_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as caught:
        open_store(tmp_path)
    assert "secret" not in str(caught.value)


def test_a_run_holds_what_was_logged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>")
    (tmp_path / "card.md").write_text("#")
    with start(store) as run:
        run.log_params({"train": {"steps": 3, "model": {"lfem": True}}, "crop": (64, 64), "kind": "groups", "x": None})
        run.log_metrics({"loss": 1.5, "val/miou": 0.25}, step=0)
        run.log_metrics({"loss": math.nan, "val/miou": 0.5}, step=1)
        run.log_artifact(tmp_path / "report")
        run.log_artifact(tmp_path / "card.md", "docs")
        run.set_tags({"decision": "promoted", "version": 3})
    found = store.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train seed 0"
    nested = {"train.steps": "3", "train.model.lfem": "true"}
    assert found.data.params == nested | {"crop": "[64, 64]", "kind": "groups", "x": "null"}
    assert history(run, "val/miou") == [(0, 0.25), (1, 0.5)]
    assert math.isnan(history(run, "loss")[1][1])
    assert found.data.tags.items() >= {"commit": "abc", "decision": "promoted", "version": "3"}.items()
    files = {item.path for item in store.client.list_artifacts(run.run_id, "report")}
    files |= {item.path for item in store.client.list_artifacts(run.run_id, "docs")}
    assert files == {"report/index.html", "docs/card.md"}
    assert any(store.artifacts.rglob("card.md"))


def test_more_parameters_than_mlflow_takes_at_once(store: Store) -> None:
    run = start(store)
    run.log_params({str(number): number for number in range(230)})
    run.set_tags({f"tag{number}": number for number in range(130)})
    data = store.client.get_run(run.run_id).data
    assert len(data.params) == 230
    assert data.tags["tag129"] == "129"


def test_a_killed_run_goes_on_without_doubled_steps(store: Store) -> None:
    killed = start(store)
    killed.log_params({"steps": 3})
    for step in range(2):
        killed.log_metrics({"loss": 1.0 - step / 10, "miou": step / 10}, step)
    with start(store, killed.run_id) as again:
        again.log_params({"steps": 3})
        for step in range(1, 3):  # the checkpoint was older than the last curve point
            again.log_metrics({"loss": 1.0 - step / 10, "miou": step / 10, "new": 7.0}, step)
    assert again.run_id == killed.run_id
    assert history(again, "loss") == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert history(again, "new") == [(1, 7.0), (2, 7.0)]
    assert store.client.get_run(again.run_id).info.status == "FINISHED"


HISTORY = [{"step": 10.0 * row, "loss": 1 / row, "val_miou": row / 9, "seconds": row * 1.5} for row in range(1, 5)]


def test_the_validations_that_a_run_lacks_are_sent_once(store: Store) -> None:
    run = start(store)
    run.send([run.validation(HISTORY[1])])
    assert send_missing(run, HISTORY) == 3
    assert send_missing(start(store, run.run_id), HISTORY) == 0
    found = store.client.get_metric_history(run.run_id, "val_miou")
    assert sorted((one.step, one.value) for one in found) == [(row["step"], row["val_miou"]) for row in HISTORY]
    assert "step" not in store.client.get_run(run.run_id).data.metrics


def test_a_validation_that_two_processes_send_stands_once(store: Store) -> None:
    run = start(store)
    for one in (run, start(store, run.run_id)):  # neither knows of the other
        one.send([one.validation(row) for row in HISTORY])
    assert history(run, "loss") == [(row["step"], row["loss"]) for row in HISTORY]


def test_a_validation_arrives_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log_batch, requests = SqlAlchemyStore.log_batch, itertools.count(1)

    def breaks_off(this: SqlAlchemyStore, *args: Any, **rest: Any) -> None:
        if next(requests) > 1:
            raise ConnectionError
        log_batch(this, *args, **rest)

    run = start(store)
    rows = [{"step": float(step), "loss": 0.5, "val_miou": 0.5, "lr": 0.1} for step in range(700)]
    with monkeypatch.context() as patch, pytest.raises(JobError):
        patch.setattr(SqlAlchemyStore, "log_batch", breaks_off)
        send_missing(run, rows)
    arrived = len(history(run, "loss"))
    assert len(history(run, "lr")) == arrived > 300
    assert send_missing(run, rows) == 700 - arrived
    assert history(run, "lr") == [(step, 0.1) for step in range(700)]


def test_a_decision_has_a_run_of_its_own_that_goes_on(store: Store) -> None:
    parent = start(store)
    with decision_run(store, parent, key="a1b2", name="decide-v1", tags={"leaks": "no"}) as first:
        first.set_tags({"answer": "promoted"})
    found = store.client.get_run(first.run_id)
    assert found.info.run_name == "decide-v1"
    assert found.info.experiment_id == parent.experiment_id
    tags = {"mlflow.parentRunId": parent.run_id, "decision": "a1b2", "leaks": "no", "answer": "promoted"}
    assert found.data.tags.items() >= tags.items()
    again = decision_run(store, parent, key="a1b2", name="decide-v1", tags={"leaks": "yes"})
    assert again.run_id == first.run_id
    assert store.client.get_run(again.run_id).data.tags["leaks"] == "yes"
    other = decision_run(store, parent, key="c3d4", name="decide-v2", tags={})
    assert other.run_id not in {first.run_id, parent.run_id}
    store.client.delete_run(first.run_id)
    assert decision_run(store, parent, key="a1b2", name="decide-v1", tags={}).run_id != first.run_id


def test_a_failed_run_can_be_continued(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), start(store) as run:
        _ = 1 / 0
    assert store.client.get_run(run.run_id).info.status == "FAILED"
    assert start(store, run.run_id).run_id == run.run_id
    assert store.client.get_run(run.run_id).info.status == "RUNNING"


def test_an_unknown_or_deleted_run_gives_a_fresh_one_that_says_so(store: Store) -> None:
    deleted = start(store)
    store.client.delete_run(deleted.run_id)
    for run_id in ("0" * 32, deleted.run_id):
        fresh = start(store, run_id)
        assert fresh.run_id != run_id
        assert store.client.get_run(fresh.run_id).data.tags["missed_run"] == run_id
        fresh.log_metrics({"loss": 1.0}, 0)


def test_parameters_that_contradict_the_run_are_one_line(store: Store) -> None:
    run = start(store)
    run.log_params({"steps": 3})
    with pytest.raises(JobError, match="steps") as caught:
        run.log_params({"steps": 4})
    assert "\n" not in str(caught.value)


def test_a_server_that_is_away_is_one_line_without_the_password(
    away_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://trainer:s3cret@{away_address}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(JobError, match="cannot be reached") as caught:
        start(open_store(tmp_path))
    message = str(caught.value)
    assert f"http://{away_address}" in message
    assert not [text for text in ("s3cret", "trainer", "\n") if text in message]


@pytest.mark.parametrize("trouble", ["not a database", "no folder", "a folder"])
def test_a_file_that_cannot_be_the_store_fails_at_once(trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    if trouble == "not a database":
        path.write_text("not a database, and longer than the header of one" * 10)
    elif trouble == "a folder":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "mlflow.db"
    with pytest.raises(JobError, match="MLflow store sqlite:///") as caught:
        start(Store(f"sqlite:///{path}", tmp_path / "mlartifacts"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_kill_while_the_tables_are_made_leaves_no_half_made_store(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        "from dbrnet.registry.store import Store\n"
        "root = Path(sys.argv[1])\n"
        "fresh = root / f'.mlflow.db.{os.getpid()}.partial'\n"
        "def kill():\n"
        "    while not fresh.exists() or fresh.stat().st_size < 100_000:\n"
        "        time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "Store(f'sqlite:///{root}/mlflow.db', root).client\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=120)
    assert killed.returncode == -9
    assert not (tmp_path / "mlflow.db").exists()
    with start(Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts")) as run:
        run.log_metrics({"loss": 1.0}, 0)
    assert history(run, "loss") == [(0, 1.0)]
