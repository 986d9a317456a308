"""A task that fails prints one clear line and leaves nothing half-written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dbrnet.cli import main
from tests.http_server import Handler, serving
from tests.storage.s3_server import S3Server
from tests.workspace import Workspace, tasks_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = ("python", "-m", "pipelines", "run", "--local")
WRONG = """
import json
from pathlib import Path
from dbrnet.config import load_params
from pipelines import graphs

given = graphs.sections

def sections(*words):
    values = given(*words)
    return values | {"train": json.dumps(json.loads(values["train"]) | {"steps": "many"})}

graphs.sections = sections
graphs.run_local("training", load_params(Path("params.yaml")), Path("artifacts/kubeflow"))
"""
FAILED = "failed: Pipeline 'dbrnet-training' finished with status FAILURE. Inner task failed: '{}'."


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "clone")
    main(["generate", "--out", str(made.folder / "data/steel-strip"), "--count", "60"])
    return made


def failure_lines(output: str, task: str) -> list[str]:
    """What the last try of the task printed, without Kubeflow's own lines."""
    last_try = re.split(r"Executing task .*?'[\w-]+'", output)[-1]
    assert f"Inner task failed: '{task}'" in last_try
    found = re.search(r"^    (?:error|failed): .*$", last_try, re.M)
    assert found, last_try
    return [line.strip() for line in last_try[found.start() :].split("\n\n")[0].splitlines() if line.strip()]


class Expired(Handler):
    """S3 with credentials that have expired."""

    def answer(self) -> None:
        self.respond(400, b"<Error><Code>ExpiredToken</Code><Message>key s3cret</Message></Error>")


def test_expired_credentials_are_one_line(space: Workspace) -> None:
    space.set_params({"source: data/steel-strip": "source: s3://steel/line3/"})
    with serving(Expired) as server:
        output = space.run(*COMMAND, status=1, **S3Server(server.server_port).environment())
    assert tasks_run(output) == ["revision"] * 3
    [line] = failure_lines(output, "revision")
    assert line.startswith("error: s3://steel/line3/: the credentials have expired (ExpiredToken); put new")
    assert output.rstrip().endswith(FAILED.format("revision"))
    assert "s3cret" not in output


@pytest.mark.skipif(
    not os.environ.get("DBRNET_NO_SKIPS")
    and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs unprivileged user namespaces: enable them, or run in CI's container",
)
def test_a_full_disk_is_one_line(space: Workspace) -> None:
    script = (
        "mkdir -p artifacts/kubeflow && mount -t tmpfs -o size=400k tmpfs artifacts/kubeflow && "
        f"{sys.executable} -m pipelines run --local; code=$?; "
        "find artifacts/kubeflow -path '*dataset*' | sed 's/^/left: /'; exit $code"
    )
    output = space.run("unshare", "-rm", "sh", "-c", script, status=1)
    assert tasks_run(output) == ["revision", *["ingest"] * 3]
    assert "left: " not in output
    assert FAILED.format("ingest") in output
    [line] = failure_lines(output, "ingest")
    assert line.startswith("error: No space left on device: ")


def test_a_parameter_of_the_wrong_type_is_one_line(space: Workspace) -> None:
    """As in a run started by hand; `submit` and `run` check params.yaml first."""
    output = space.run("python", "-c", WRONG, status=1)
    assert tasks_run(output) == ["revision", "ingest", "split", *["train"] * 4]
    assert failure_lines(output, "train") == [
        "error: the parameter train: steps: input should be a valid integer, unable to parse string as an "
        "integer, got 'many'"
    ]
    space.set_params({"  steps: 10 #": "  steps: many #"})
    output = space.run(*COMMAND, status=2)
    assert output.splitlines()[-1].startswith("error: ")
    assert "train.steps: input should be a valid integer" in output
    assert not tasks_run(output)
