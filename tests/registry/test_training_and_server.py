"""A real training, and what MLflow has of it when its server is killed, hangs or never returns."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

import dbrnet.registry.metric_logger
from dbrnet.registry.tracking import send_missing
from tests.registry.servers import Server
from tests.registry.training_project import PARAMS, STEPS, Project

PASSWORD = "correct-horse-battery"
TOKEN, KEY = "tracking-pass-5c1f", "aws-secret-77ab"


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
    for old, new in small.items():  # so small that there are several validations
        assert old in params
        params = params.replace(old, new)
    (project.folder / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "dbrnet", "train", str(project.prepared / "dataset")]
    command += [str(project.prepared / "split"), "--out", "train"]
    with (project.folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=log, stderr=log)
        while "validation mIoU" not in (project.folder / "log").read_text() and process.poll() is None:
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
