"""What is submitted: a compiled pipeline, and its parameters from params.yaml."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dbrnet.config import load_params
from dbrnet.errors import UserError
from pipelines.sections import sections

NAMES = ("training", "retraining")


@contextmanager
def compiled(pipeline: str, *, image: str | None, gpu: bool) -> Iterator[Path]:
    """The file `pipeline`, or the pipeline of that name compiled for `image`. Raises `UserError`."""
    if pipeline not in NAMES:
        if not pipeline.endswith(".yaml") or not Path(pipeline).is_file():
            raise UserError(f"{pipeline!r} is neither {' nor '.join(NAMES)} nor a compiled .yaml")
        if image or gpu:
            raise UserError(f"{pipeline} is compiled already: --image and --gpu are for {' and '.join(NAMES)}")
        yield Path(pipeline)
        return
    if image is None:
        raise UserError(f"{pipeline} needs --image: the image that its tasks run in")
    from pipelines.compiling import compile_pipeline

    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        compile_pipeline(pipeline, gpu=gpu, image=image, path=path)
        yield path


def parameters(package: Path, params: Path) -> dict[str, str]:
    """What the compiled pipeline asks for, from params.yaml. What is not there must have a default."""
    declared = _declared(package)
    given = sections(load_params(params), declared)
    if missing := [name for name, optional in declared.items() if not optional and name not in given]:
        raise UserError(f"{package.name} asks for {', '.join(missing)}, and {params} has no such section")
    return given


def images(package: Path) -> list[str]:
    """The images that the compiled pipeline's tasks run in."""
    with _understood(package) as spec:
        executors = spec["deploymentSpec"]["executors"].values()
        return sorted({one["container"]["image"] for one in executors if "container" in one})


def _declared(package: Path) -> dict[str, bool]:
    """The pipeline's parameters, and whether each has a default."""
    with _understood(package) as spec:
        found = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        return {name: bool(one.get("isOptional")) for name, one in found.items()}


@contextmanager
def _understood(package: Path) -> Iterator[dict[str, Any]]:
    """The pipeline's specification; what is not as one should be is a `UserError`."""
    try:
        yield next(iter(YAML(typ="safe").load_all(package)))
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{package} is not a compiled pipeline") from None
