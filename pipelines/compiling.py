"""From the pipelines and components to the YAML that Kubeflow takes, and what that asks for; runs on this machine."""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import compiler, local
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import components
from components.from_step import IMAGE
from dbrnet.addresses import RedactedOutput, redact
from dbrnet.config import Params, load_params
from dbrnet.errors import JobError, UserError
from pipelines.graphs import PIPELINES
from pipelines.resources import here, on_cluster

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
    for folder in ("components", "pipelines"):
        (root / folder / "compiled").mkdir(parents=True, exist_ok=True)
    for name in components.__all__:
        path = root / "components" / "compiled" / f"{name}.yaml"
        compiler.Compiler().compile(getattr(components, name), str(path))
        yield path
    for name in PIPELINES:
        for variant in ("cpu", "gpu"):
            path = root / "pipelines" / "compiled" / f"{name}-{variant}.yaml"
            compile_pipeline(name, gpu=variant == "gpu", image=IMAGE, path=path)
            yield path


@contextmanager
def compiled(pipeline: str, *, image: str | None, gpu: bool) -> Iterator[Path]:
    """The file `pipeline`, or the pipeline of that name compiled for `image`. Raises `UserError`."""
    if pipeline not in PIPELINES:
        if not pipeline.endswith(".yaml") or not Path(pipeline).is_file():
            raise UserError(f"{pipeline!r} is neither {' nor '.join(PIPELINES)} nor a compiled .yaml")
        if image or gpu:
            raise UserError(f"{pipeline} is compiled already: --image and --gpu are for {' and '.join(PIPELINES)}")
        yield Path(pipeline)
        return
    if image is None:
        raise UserError(f"{pipeline} needs --image: the image that its tasks run in")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        compile_pipeline(pipeline, gpu=gpu, image=image, path=path)
        yield path


def parameters(package: Path, params: Path) -> dict[str, str]:
    """What the compiled pipeline asks for, from params.yaml. What is not there must have a default."""
    with _specification(package) as spec:
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        optional = {name: bool(parameter.get("isOptional")) for name, parameter in declared.items()}
    loaded = load_params(params)
    values = sections(loaded, optional)
    if "ingest" in values and redact(loaded.ingest.source) != loaded.ingest.source:
        raise UserError(
            f"{params}: ingest.source has a query, which may be a signature, and Kubeflow shows a run's "
            "parameters to whoever sees the run; give an s3:// address, whose credentials are in a Secret"
        )
    if missing := [name for name in optional if not optional[name] and name not in values]:
        raise UserError(f"{package.name} asks for {', '.join(missing)}, and {params} has no such section")
    return values


def sections(params: Params, names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that are sections, as JSON: texts, since Kubeflow turns the integers of an object into
    floats and takes no null."""
    return {name: getattr(params, name).model_dump_json() for name in names if name in Params.model_fields}


def images(package: Path) -> list[str]:
    """The images that the compiled pipeline's tasks run in."""
    with _specification(package) as spec:
        executors = spec["deploymentSpec"]["executors"].values()
        return sorted({executor["container"]["image"] for executor in executors if "container" in executor})


@contextmanager
def _specification(package: Path) -> Iterator[dict[str, Any]]:
    """The pipeline's specification; what is not as one should be is a `UserError`."""
    try:
        yield next(iter(YAML(typ="safe").load_all(package)))
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{package} is not a compiled pipeline") from None


def run_local(name: str, params: Params, root: Path) -> None:
    """Run the pipeline `name` in this Python environment, a process a task, artifacts below `root`.

    Runs go to the store that MLFLOW_TRACKING_URI names, or to mlflow.db in this folder, as with the command
    line. Raises `JobError` where a task failed.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    with (
        closing(RedactedOutput(sys.stdout)) as output,  # Kubeflow shows each task's parameters
        redirect_stdout(output),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # that resources and images mean nothing here
        pipeline = PIPELINES[name](here)
        inputs = pipeline.component_spec.inputs or {}
        try:
            pipeline(**sections(params, inputs), checkpoints=str((root / "checkpoints").absolute()))
        except RuntimeError as error:  # the runner's only word; what went wrong is in the task's log above
            raise JobError(re.sub(r"\x1b\[[0-9;]*m", "", str(error))) from None  # without its colours
