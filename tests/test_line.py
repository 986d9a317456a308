"""The life of a line on Kubeflow's local runner: data in S3, a schedule, batches good and bad."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from dbrnet.cli import main
from dbrnet.files import MARKER, read_json
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store
from tests.http_server import Handler, serving
from tests.storage.s3_server import BUCKET, S3Server
from tests.workspace import STAGES, Workspace, tasks_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

NAME = "dbrnet-steel-strip"
COMMAND = ("python", "-m", "pipelines", "run", "--local")
DRIFT_TASKS = ["revision", "fetch-champion", "ingest", "drift"]  # the first three in any order
TRAINING_TASKS = ["split", "train", "export", "fetch-champion-2", "evaluate", "benchmark", "promote"]
STEPS = 240
SETTINGS = {  # overrides of the workspace's: long enough to learn, and a gate that requires it
    "source: data/steel-strip": f"source: s3://{BUCKET}/line3/",
    "min_new_images: 50": "min_new_images: 30",
    "  steps: 10 #": f"  steps: {STEPS} #",
    "normalise_exposure: false": "normalise_exposure: true",  # the light will change
    "crop: [64, 64] #": "crop: [128, 224] #",
    "min_miou: 0.0": "min_miou: 0.5",
    "max_miou_loss: 0.05": "max_miou_loss: 0.15",  # few images, a wide interval
    "min_speed_ratio: 0.7": "min_speed_ratio: 0.01",  # other tests run beside this
}


class Line:
    """A factory's line: its images in S3, its pipelines, and the channel in which people are told."""

    def __init__(self, folder: Path, server: S3Server, webhook: str) -> None:
        self.folder, self.server = folder, server
        self.space = Workspace(folder / "clone")
        self.space.set_params(SETTINGS)
        self.environment = server.environment() | {"DBRNET_NOTIFY_URL": webhook}

    def batch(self, images: int, *, gain: float = 1, mistaken: bool = False) -> None:
        """Let the line have `images` in all; those that are new under `gain` times the light.

        Mistaken: in the new ones every defect bears the next class's name.
        """
        source, made, client = self.folder / "source", self.folder / "made", self.server.client()
        known = {path.name for path in source.rglob("*.jpg")}
        assert main(["generate", "--out", str(made), "--count", str(images)]) == 0
        for path in made.rglob("*.jpg"):
            if path.name not in known and gain != 1:
                darker = (gain * np.asarray(cv2.imread(str(path)))).astype(np.uint8)
                cv2.imwrite(str(path), darker)
        if mistaken:
            table = made / "train.csv"
            rows = [line.split(",") for line in table.read_text().splitlines()]
            for row in rows[1:]:
                row[1] = row[1] if row[0] in known else str(int(row[1]) % 4 + 1)
            table.write_text("".join(",".join(row) + "\n" for row in rows))
        for path in sorted(path for path in made.rglob("*") if path.is_file() and path.name != MARKER):
            name = path.relative_to(made)
            if path.name not in known:
                client.put_object(Bucket=BUCKET, Key=f"line3/{name}", Body=path.read_bytes())
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(source / name)

    def run(self, *words: str, status: int = 0) -> str:
        return self.space.run(*COMMAND, *words, status=status, **self.environment)

    @property
    def champion(self) -> int | None:
        return Ledger(open_store(self.space.folder), NAME).state().champion


class Channel(Handler):
    """The webhook of a chat; the server's state is what was said in it."""

    def answer(self) -> None:
        self.server.state.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.respond()


def kill_the_training(checkpoints: Path, line: subprocess.Popen[str]) -> None:
    """SIGKILL the process of the task train as soon as there is one more checkpoint."""
    known = set(checkpoints.glob("*/checkpoint.pt"))
    while known.issuperset(checkpoints.glob("*/checkpoint.pt")):
        if line.poll() is not None:
            return  # its output says why
        time.sleep(0.02)
    ours = {process.pid for process in psutil.Process().children(recursive=True)}  # others may train, too
    [task] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in ours
        and "kfp.dsl.executor_main" in (words := process.info["cmdline"] or [])
        and "train" in words
    ]
    task.send_signal(signal.SIGKILL)


def test_the_life_of_a_line(tmp_path: Path, s3_server: S3Server, migrated_database: Path) -> None:
    said: list[str] = []
    with serving(Channel, said) as channel:
        line = Line(tmp_path, s3_server, f"{channel.address}/")
        shutil.copyfile(migrated_database, line.space.folder / "mlflow.db")
        live(line, said)


def live(line: Line, said: list[str]) -> None:

    # The first training, by hand.
    line.batch(120)
    assert tasks_run(line.run()) == ["revision", *STAGES]
    assert line.champion == 1
    assert not said

    # The schedule finds nothing new, and ends with the reason.
    output = line.run("--retraining")
    assert sorted(tasks_run(output)) == sorted([*DRIFT_TASKS, "notify"])
    assert "is retraining warranted? no" in output
    reasons = line.space.artifact("drift/reasons").read_text()
    assert "0 new labelled images" in reasons
    assert said[-1].startswith("dbrnet-retraining: succeeded\n")
    assert "version 1 is champion" in said[-1]

    # A new batch under a third of the light. The training is killed, and goes on where it was.
    line.batch(160, gain=0.3)
    process = line.space.start(*COMMAND, "--retraining", **line.environment)
    checkpoints = line.space.folder / "artifacts/kubeflow/checkpoints"
    killer = threading.Thread(target=kill_the_training, args=(checkpoints, process))
    killer.start()
    output, _ = process.communicate()
    killer.join()
    assert process.returncode == 0, output
    assert tasks_run(output).count("train") == 2
    validated = re.findall(rf"iteration (\d+) of {STEPS}: loss", output)
    assert len(validated) == len(set(validated)) > 1  # none was done again
    assert f"resuming at iteration {validated[0]} of {STEPS}" in output
    tried_twice = [*TRAINING_TASKS, "notify"]
    tried_twice.insert(TRAINING_TASKS.index("train"), "train")
    assert [one for one in tasks_run(output) if one not in DRIFT_TASKS] == tried_twice
    assert "is retraining warranted? yes" in output
    assert any(check["warrants"] for check in drift_checks(line) if check["name"] == "brightness")
    metrics = read_json(line.space.artifact("evaluate/evaluated") / "metrics.json")
    assert metrics["champion"]["version"] == 1
    assert metrics["champion"]["compared"]["seen"] == 0  # no test image was in the champion's training split
    criteria = {one["name"]: one for one in decision(line)["criteria"]}
    assert criteria["champion/miou"]["verdict"] == "passed"  # by its whole interval
    assert line.champion == 2
    assert "version 2 promoted" in said[-1]

    # A bad batch: whoever labelled it took one class for the next. It is trained on, and rejected.
    line.batch(300, mistaken=True)
    output = line.run("--retraining")
    assert [one for one in tasks_run(output) if one not in DRIFT_TASKS] == [*TRAINING_TASKS, "notify"]
    assert "is retraining warranted? yes" in output
    rejected = decision(line)
    assert rejected["answer"] == "rejected"
    assert [one["name"] for one in rejected["criteria"] if one["verdict"] == "failed"] == ["miou"]
    assert line.champion == 2
    assert "version 2 is champion; latest decision" in said[-1]
    assert re.search(r"version 3 rejected: mIoU \d+\.\d+ % .*is below 50\.0+ %", said[-1])

    # Another one: an image cut short on its way. Nothing of it is taken, and it is said.
    whole = next(path for path in sorted((line.folder / "source").rglob("*.jpg")))
    key = f"line3/{whole.relative_to(line.folder / 'source')}"
    line.server.client().put_object(Bucket=BUCKET, Key=key, Body=whole.read_bytes()[:2000])
    output = line.run("--retraining", status=1)
    assert set(tasks_run(output)) - {"fetch-champion"} == {"revision", "ingest", "notify"}
    assert f"error: s3://{BUCKET}/line3/" in output
    assert whole.name in output
    assert "Traceback" not in output
    assert said[-1].startswith("dbrnet-retraining: failed")
    assert line.champion == 2


def drift_checks(line: Line) -> list[dict[str, object]]:
    checks: list[dict[str, object]] = read_json(line.space.artifact("drift/drifted") / "drift.json")["checks"]
    return checks


def decision(line: Line) -> dict[str, Any]:
    return dict(read_json(line.space.artifact("promote/decision") / "decision.json"))
