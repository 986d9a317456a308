"""A Kubeflow Pipelines server, a small compiled pipeline, and the command line that talks to them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from kfp import compiler, dsl, kubernetes

from pipelines import __main__, graphs
from tests.pipelines.kfp_server import KfpServer, kfp_server
from tests.retrying import retry_at_once

PARAMS = Path(__file__).parents[2] / "params.yaml"
IMAGE = "registry.example/line@sha256:" + 64 * "1"


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    out: str
    error: str

    def is_one_line(self, status: int, words: str) -> None:
        """It ended with this status, and with one line for a person that holds `words`."""
        assert self.status == status, self
        assert self.error.startswith("error: " if status == 2 else "failed: ")
        assert words in self.error
        assert len(self.error.splitlines()) == 1
        assert "Traceback" not in self.error


Command = Callable[..., Outcome]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def step(params: str, checkpoints: str) -> None:
    """Does nothing: no test here runs it."""


@dsl.pipeline(name="small")
def small(train: str, drift: str, checkpoints: str = "/checkpoints") -> None:
    task = step(params=train, checkpoints=checkpoints)
    kubernetes.use_secret_as_env(task, "dbrnet-s3", {"key": "AWS_ACCESS_KEY_ID"})
    step(params=drift, checkpoints=checkpoints).after(task)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "small.yaml"
    compiler.Compiler().compile(small, str(path))
    return path


@cache
def _compiled(folder: Path, pipeline: str, gpu: bool, image: str) -> bytes:
    path = folder / "compiled.yaml"
    graphs.compile_pipeline(pipeline, gpu=gpu, image=image, path=path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitting compiles each pipeline once for each image: under pytest's deep stack kfp takes seconds for it."""
    folder = tmp_path_factory.getbasetemp()

    def compile_pipeline(pipeline: str, *, gpu: bool, image: str, path: Path) -> None:
        path.write_bytes(_compiled(folder, pipeline, gpu, image))

    monkeypatch.setattr("pipelines.package.compile_pipeline", compile_pipeline)


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
    """They have every image. (test_image.py has real ones.)"""
    monkeypatch.setattr("pipelines.package.in_registry", lambda image: True)


@pytest.fixture
def command(cluster: KfpServer, package: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `python -m pipelines WORDS --host ...`; PACKAGE among the words is the small pipeline."""

    def run(*words: str, host: str = cluster.address) -> Outcome:
        given = [str(package) if word == "PACKAGE" else word for word in words]
        if words[0] in {"submit", "schedule"} and "--params" not in words:
            given += ["--params", str(PARAMS)]
        status = __main__.main([*given, "--host", host])
        outcome = capsys.readouterr()
        return Outcome(status, outcome.out, outcome.err)

    return run
