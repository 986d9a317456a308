"""A Kubeflow Pipelines server, a small compiled pipeline, and the command line that talks to them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import compiler

from pipelines import __main__
from tests.pipelines.command import PARAMS, Command, Outcome, small
from tests.pipelines.kfp_server import KfpServer, kfp_server
from tests.retrying import retry_at_once


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "small.yaml"
    compiler.Compiler().compile(small, str(path))
    return path


@pytest.fixture
def cluster() -> Iterator[KfpServer]:
    with kfp_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine's user, and no minutes of waiting."""
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "none.json"))
    retry_at_once(monkeypatch, "KUBEFLOW", attempts=4)


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have every image. (test_image.py has a real one.)"""
    monkeypatch.setattr("pipelines.image.in_registry", lambda image: True)


@pytest.fixture
def command(cluster: KfpServer, package: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `python -m pipelines WORDS --host ...`; PACKAGE among the words is the small pipeline."""

    def run(*words: str, host: str = cluster.address) -> Outcome:
        given = [str(package) if word == "PACKAGE" else word for word in words]
        if "PACKAGE" in words and "--params" not in words:
            given += ["--params", str(PARAMS)]
        status = __main__.main([*given, "--host", host])
        outcome = capsys.readouterr()
        return Outcome(status, outcome.out, outcome.err)

    return run
