"""The pipeline whole, where every address holds a secret: the source, the tracking store's, the webhook's.

What succeeds writes the most: all of it is searched, MLflow's files and DVC's lineage included.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dbrnet.cli import main
from dbrnet.cluster.training import send_job_spec
from dbrnet.config import load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.remote_dataset import send_dataset
from dbrnet.files import read_json
from dbrnet.registry.store import open_store
from dbrnet.steps import BY_NAME, STAGES
from tests.command_lines import arguments_of, is_positional, type_of
from tests.http_server import Handler, serving
from tests.registry.servers import Server
from tests.secret import ADDRESS, LOGIN, QUERY, SECRET, Told, found_in, set_alone, told
from tests.storage.s3_server import BUCKET, S3Server
from tests.workspace import Workspace, tasks_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "dbrnet-steel-strip"
# What the user gives, and what DVC makes of params.yaml.
GIVEN = ("params.yaml", "dvc.lock", ".dvc", "netrc")
DATA = ("data/dataset", "data/split")
MODEL = "artifacts/export/model.onnx"
# Of the steps, and of the tool that reads what they wrote: their words, without --out and its folder.
WORDS = {step.name: step.command_line().split()[2:-2] for step in (*STAGES[1:], BY_NAME["drift"])}
WORDS["audit"] = [DATA[0], "--split", DATA[1]]


@dataclass
class Private:
    """A file for whoever has both the signature and the login, and what a webhook was told."""

    archive: bytes
    taken: list[bytes] = field(default_factory=list)


class Gate(Handler):
    """Gives and takes what is in its server's `Private`."""

    def answer(self) -> None:
        private: Private = self.server.state
        if self.command == "POST":
            private.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.respond()
        elif SECRET in self.path and self.headers.get("Authorization") == f"Basic {LOGIN}":
            self.respond(200, private.archive, ETag='"1"')
        else:
            self.respond(403)


class World:
    """A project in which everything has run, and the servers that it asked."""

    def __init__(self, root: Path, address: str, private: Private, mlflow: Server) -> None:
        self.root, self.private, self.mlflow = root, private, mlflow
        self.space = Workspace(root / "clone")
        self.folder = self.space.folder
        self.source = f"{address}/line3.zip"
        self.space.set_params({"source: data/steel-strip": f"source: '{self.source}{QUERY}'"})
        (self.folder / "netrc").write_text(f"machine 127.0.0.1 login ann password {SECRET}\n")
        self.environment = {
            "NETRC": str(self.folder / "netrc"),
            "MLFLOW_TRACKING_URI": mlflow.address.replace("//", f"//ann:{SECRET}@"),
            "DBRNET_NOTIFY_URL": f"{address}/services/{SECRET}",
        }

    def run(self, *words: str) -> Told:
        """`dbrnet WORDS`, searched."""
        found = told(main, words, self.root / "log")
        self.search(found.text)
        return found

    def command(self, *words: str, status: int = 0) -> str:
        """Another command, in a process of its own, searched."""
        text = self.space.run(*words, status=status, **self.environment)
        self.search(text)
        return text

    def search(self, text: str) -> None:
        assert SECRET not in text, text
        assert not found_in(self.folder, GIVEN)
        assert not found_in(self.mlflow.root)


@pytest.fixture(scope="module")
def world(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    main(["generate", "--out", str(root / "made"), "--count", "60"])
    (root / "mlflow").mkdir()
    mlflow = Server(root / "mlflow", migrated_database)
    private = Private(Path(shutil.make_archive(str(root / "line3"), "zip", root / "made")).read_bytes())
    with serving(Gate, private) as server, pytest.MonkeyPatch.context() as patch:
        made = World(root, server.address, private, mlflow)
        set_alone(patch)
        patch.chdir(made.folder)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        made.command("dvc", "repro", "ingest")
        for step in STAGES[1:]:
            found = made.run(*step.command_line().split()[1:])
            assert found.status == 0, found
        yield made
    mlflow.kill()


def test_the_lineage_names_the_source_without_its_signature(world: World) -> None:
    assert f"{world.source}{QUERY}" in (world.folder / "dvc.lock").read_text()
    lineage = read_json(world.folder / "artifacts/train/train.json")
    assert lineage["dataset"]["dvc"]["source"] == world.source
    tags = open_store(world.folder).client.get_run(lineage["run_id"]).data.tags
    assert tags["dvc_source"] == world.source
    assert world.mlflow.address in (world.folder / "artifacts/promote/summary.txt").read_text()


def test_the_other_commands(world: World) -> None:
    assert world.run("ingest", "--out", "again/dataset").status == 0
    assert read_json(world.folder / "again/dataset/card.json") == world.space.json("data/dataset/card.json")
    assert world.run("revision").status == 0
    assert world.run("fetch-champion", "--out", "again/champion").status == 0
    assert world.run("drift", DATA[0], "again/champion", "--out", "again/drift").status == 0
    assert world.run("audit", *WORDS["audit"], "--out", "again/audit").status == 0
    assert world.run("generate", "--out", "again/made", "--count", "50").status == 0
    model = ("--model", f"models:/{NAME}@champion")
    assert world.run("predict", "again/made/train_images", *model, "--out", "again/answers").status == 0
    params = Path("params.yaml").read_text()
    found = world.run("configure", "steel-strip", "--source", f"{world.source}{QUERY}")
    assert f"from {world.source};" in found.text
    assert "commit neither" in found.text
    Path("params.yaml").write_text(params)
    world.command("python", "-m", "pipelines", "compile")


def test_what_people_decide_and_why(world: World) -> None:
    client, why = open_store(world.folder).client, ("--why", f"see {ADDRESS}, bad light")
    for _ in range(2):
        client.create_model_version(NAME, source=f"models:/{NAME}/1")
    assert world.run("registry", "approve", "2", *why).status == 0
    assert world.run("registry", "rollback", *why).status == 0
    assert world.run("registry", "reject", "3", *why).status == 0
    assert world.run("registry", "show", "2").status == 0
    assert world.run("registry", "diff", "1", "2").status == 0
    found = world.run("registry", "history", "--html", "history.html")
    assert found.status == 0
    assert "see https://data.invalid/set/raw.zip, bad light" in " ".join(found.text.split())
    assert "see https://data.invalid/set/raw.zip, bad light" in (world.folder / "history.html").read_text()
    world.private.taken.clear()
    words = ("notify", "--run", "nightly", "--state", "FAILED", "--error", f"{ADDRESS}: 403")
    assert world.run(*words).status == 0
    [message] = world.private.taken
    assert b"nightly: failed: https://data.invalid/set/raw.zip: 403" in message
    assert SECRET.encode() not in message


def test_a_scheduled_run_on_kubeflows_local_runner(world: World) -> None:
    """Nothing has changed, so that it ends with the answer no; then the source has moved away."""
    run = ("python", "-m", "pipelines", "run", "--local", "--retraining")
    assert set(tasks_run(world.command(*run))) == {"revision", "fetch-champion", "ingest", "drift", "notify"}
    params = (world.folder / "params.yaml").read_text()
    (world.folder / "params.yaml").write_text(params.replace(world.source, world.source + ".gone"))
    world.private.archive, kept = b"no archive", world.private.archive
    try:
        world.command(*run, status=1)
    finally:
        world.private.archive = kept
        (world.folder / "params.yaml").write_text(params)


def test_the_service(world: World) -> None:
    log = world.root / "service.log"
    command = [sys.executable, "-m", "dbrnet", "serve", "--model", f"models:/{NAME}@champion", "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=world.folder, stdout=file, stderr=file, env=os.environ | world.environment
        )
    try:
        while "ready: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        address = log.read_text().rpartition(" on ")[2].strip()
        for page in ("/", "/model", "/metrics", "/health/ready"):
            with urllib.request.urlopen(address + page) as answer:
                assert SECRET.encode() not in answer.read()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    world.search(log.read_text())


def test_a_node(world: World, s3: S3Server) -> None:
    address = f"s3://{BUCKET}/secrets/"
    send_dataset(Dataset.load(Path(DATA[0])), f"{address}dataset/")
    params = load_params(Path("params.yaml")).train.model_dump_json()
    send_job_spec(f"{address}job/", params, f"{address}dataset/", Path(DATA[1]))
    assert world.run("worker", f"{address}job/", "--checkpoints", "again/checkpoints").status == 0


def one_wrong() -> Iterator[Any]:
    """Each command with each of its arguments replaced by an address."""
    for command, given in WORDS.items():
        for number, word in enumerate(given):
            if not word.startswith("--"):
                words = [*given[:number], ADDRESS, *given[number + 1 :]]
                yield pytest.param([command, *words, "--out", "wrong"], id=f"{command} {word}")
    for command, given in {
        "predict": ["--out", "wrong", "--model", MODEL, "data/dataset/images"],
        "serve": ["--port", "0", "--model", MODEL],
    }.items():
        for name, argument in arguments_of(command).items():
            if not is_positional(argument) and type_of(argument) is not bool and name != "out":
                words = [command, *given, f"--{name.replace('_', '-')}", ADDRESS]
                yield pytest.param(words, id=f"{command} --{name}")


@pytest.mark.parametrize("words", one_wrong())
def test_an_address_instead_of_what_was_made(words: list[str], world: World) -> None:
    world.run(*words).failed()
