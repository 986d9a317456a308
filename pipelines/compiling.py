"""From the pipelines and components to the YAML that Kubeflow takes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

import components
from components.component import IMAGE
from dbrnet.errors import UserError
from pipelines.resources import Place, on_cluster
from pipelines.retraining import retraining
from pipelines.training import training

PIPELINES: dict[str, Callable[[Place], BaseComponent]] = {"training": training, "retraining": retraining}
_BY_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def compile_pipeline(name: str, *, gpu: bool, image: str, path: Path) -> None:
    """Write the pipeline `name` as YAML, its tasks in `image`, which must be named by its digest.

    A tag may point to another image tomorrow, and Kubeflow's cache would not know. Raises `UserError`.
    """
    if not _BY_DIGEST.fullmatch(image):
        raise UserError(f"the image {image!r} must be named by its digest: REPOSITORY@sha256:<64 hex digits>")
    compiler.Compiler().compile(PIPELINES[name](on_cluster(image, gpu=gpu)), str(path))


def compile_all(root: Path) -> Iterator[Path]:
    """Write all that is kept in the repository below `root`; the files, one by one."""
    for name in components.__all__:
        path = _prepared(root / "components" / "compiled" / f"{name}.yaml")
        compiler.Compiler().compile(getattr(components, name), str(path))
        yield path
    for name in PIPELINES:
        for variant in ("cpu", "gpu"):
            path = _prepared(root / "pipelines" / "compiled" / f"{name}-{variant}.yaml")
            compile_pipeline(name, gpu=variant == "gpu", image=IMAGE, path=path)
            yield path


def _prepared(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
