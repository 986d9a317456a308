"""The command line as the tests run it, and the small pipeline that it submits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kfp import dsl, kubernetes

PARAMS = Path(__file__).parents[2] / "params.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    out: str
    error: str


Command = Callable[..., Outcome]


@dsl.component(base_image="registry.example/dbrnet@sha256:" + "1" * 64, install_kfp_package=False)
def step(params: str, checkpoints: str) -> None:
    """Does nothing: no test here runs it."""


@dsl.pipeline(name="small")
def small(train: str, drift: str, checkpoints: str = "/checkpoints") -> None:
    task = step(params=train, checkpoints=checkpoints)
    kubernetes.use_secret_as_env(task, "dbrnet-s3", {"key": "AWS_ACCESS_KEY_ID"})
    step(params=drift, checkpoints=checkpoints).after(task)
