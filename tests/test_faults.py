"""What ends a task ends it with one line that a person on call understands, and with nothing half-written."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbrnet.cli import main
from tests.storage.s3_server import S3Server
from tests.workspace import Workspace, tasks_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = ("python", "-m", "pipelines", "run", "--local")
WRONG = """
from pathlib import Path
from dbrnet.config import load_params
from pipelines import local
given = local.sections
local.sections = lambda *words: given(*words) | {"train": '{"epochs": "many"}'}
local.run_local("training", load_params(Path("params.yaml")), Path("artifacts/kubeflow"))
"""
FAILED = "failed: Pipeline 'dbrnet-training' finished with status FAILURE. Inner task failed: '{}'."


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "clone")
    main(["generate", "--out", str(made.folder / "data/steel-strip"), "--count", "60"])
    return made


def words_of(output: str, task: str) -> list[str]:
    """What the last try of the task itself said, without Kubeflow's own words."""
    tried = re.split(r"Executing task .*?'[\w-]+'", output)[-1]
    assert f"Inner task failed: '{task}'" in tried
    found = re.search(r"^    (?:error|failed): .*$", tried, re.M)
    assert found, tried
    return [line.strip() for line in tried[found.start() :].split("\n\n")[0].splitlines() if line.strip()]


class Expired(BaseHTTPRequestHandler):
    """S3 with credentials that were good once."""

    def do_GET(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>key s3cret</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def expired() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Expired) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_expired_credential(space: Workspace, expired: int) -> None:
    space.set_params({"source: data/steel-strip": "source: s3://steel/line3/"})
    output = space.run(*COMMAND, status=1, **S3Server(expired).environment())
    assert tasks_run(output) == ["revision"] * 3
    [line] = words_of(output, "revision")
    assert line.startswith("error: s3://steel/line3/: the credentials have expired (ExpiredToken); put new")
    assert output.rstrip().endswith(FAILED.format("revision"))
    assert "s3cret" not in output


@pytest.mark.skipif(
    not os.environ.get("DBRNET_NO_SKIPS")
    and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs unprivileged user namespaces: enable them, or run in CI's container",
)
def test_a_full_disk(space: Workspace) -> None:
    script = (
        "mkdir -p artifacts/kubeflow && mount -t tmpfs -o size=400k tmpfs artifacts/kubeflow && "
        f"{sys.executable} -m pipelines run --local; code=$?; "
        "find artifacts/kubeflow -path '*dataset*' | sed 's/^/left: /'; exit $code"
    )
    output = space.run("unshare", "-rm", "sh", "-c", script, status=1)
    assert tasks_run(output) == ["revision", *["ingest"] * 3]
    assert "left: " not in output
    assert FAILED.format("ingest") in output
    [line] = words_of(output, "ingest")
    assert line.startswith("error: No space left on device: ")


def test_a_parameter_of_the_wrong_type(space: Workspace) -> None:
    """As a person gives it who begins a run by hand; `submit` and `run` look at params.yaml before."""
    output = space.run("python", "-c", WRONG, status=1)
    assert tasks_run(output) == ["revision", "ingest", "split", *["train"] * 4]
    assert words_of(output, "train") == [
        "error: the parameter train: epochs: input should be a valid integer, unable to parse string as an "
        "integer, got 'many'"
    ]
    space.set_params({"epochs: 2 #": "epochs: many #"})
    output = space.run(*COMMAND, status=2)
    assert output.splitlines()[-1].startswith("error: ")
    assert "train.epochs: input should be a valid integer" in output
    assert not tasks_run(output)
