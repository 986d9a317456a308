"""The two pipelines: compiled to the YAML that Kubeflow takes, or run on this machine.

Their steps, and which reads what another wrote, come from the registry of steps.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, redirect_stdout
from pathlib import Path

from kfp import compiler, dsl, local
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

import components
from components.from_step import IMAGE
from dbrnet.addresses import RedactedOutput
from dbrnet.cluster.trainjob import CHECKPOINTS
from dbrnet.config import Params
from dbrnet.errors import JobError, UserError
from dbrnet.steps import BY_NAME, STAGES, STEPS
from pipelines.resources import Place, here, on_cluster

Parameters = Mapping[str, PipelineChannel]  # sections of params.yaml as JSON, and the folder `checkpoints`


def training(place: Place) -> BaseComponent:
    """The pipeline of dvc.yaml: its stages in their order, the tasks placed by `place`."""

    def build(parameters: Parameters) -> None:
        _make_candidate(place, parameters, {"dataset": _read_data(place, parameters)})

    description = "Read the data, train DBRNet on it, measure it, and decide."
    return _pipeline("dbrnet-training", description, [step.section for step in STAGES], build)


def retraining(place: Place) -> BaseComponent:
    """The same for a schedule: only where the data warrants it, and with a notice of how it ended."""
    name = "dbrnet-retraining"

    def build(parameters: Parameters) -> None:
        fetched, asks = parameters["fetch_champion"], parameters["drift"]
        notice = place(components.notify(pipeline=name, params=fetched), "notify")
        with dsl.ExitHandler(notice, name="retraining"):
            dataset = _read_data(place, parameters)
            champion = place(components.fetch_champion(params=fetched), "fetch-champion").outputs["champion"]
            drift = place(components.drift(params=asks, dataset=dataset, champion=champion), "drift")
            with dsl.If(drift.outputs["Output"] == "yes", name="warranted"):
                # The champion's images stay in their splits, so that nothing that it learned is tested on.
                _make_candidate(place, parameters, {"dataset": dataset, "champion": champion})

    description = (
        "Ask whether the data has changed enough since the champion was trained; if so, train "
        "anew, measure, and decide. Tell how it ended."
    )
    return _pipeline(name, description, [step.section for step in STEPS], build)


PIPELINES: dict[str, Callable[[Place], BaseComponent]] = {"training": training, "retraining": retraining}


def _pipeline(name: str, description: str, sections: list[str], build: Callable[[Parameters], None]) -> BaseComponent:
    """A pipeline of which each of `sections` is a parameter, and `checkpoints` one with a default."""

    def pipeline(*values: PipelineChannel) -> None:
        build(dict(zip([*sections, "checkpoints"], values, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter(section, kind, annotation=str) for section in sections]
    signature.append(inspect.Parameter("checkpoints", kind, annotation=str, default=CHECKPOINTS))
    pipeline.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    made: BaseComponent = dsl.pipeline(name=name, description=description)(pipeline)
    return made


def _read_data(place: Place, parameters: Parameters) -> PipelineChannel:
    """The tasks that bring the data in; the dataset."""
    revision = place(components.revision(params=parameters["ingest"]), "revision")
    ingest = components.ingest(params=parameters["ingest"], revision=revision.output)
    return place(ingest, "ingest").outputs["dataset"]


def _make_candidate(place: Place, parameters: Parameters, folders: dict[str, PipelineChannel]) -> None:
    """The tasks from the split to the decision. Adds to `folders` (artifact name -> channel) what each step writes."""
    for step in STAGES[1:]:
        inputs = {name: folders[name] for name in (*step.inputs, *step.optional_inputs) if name in folders}
        if step.name == "train":
            inputs["checkpoints"] = parameters["checkpoints"]
        task = getattr(components, step.identifier)(params=parameters[step.section], **inputs)
        folders[step.out] = place(task, step.name).outputs[step.out]


def compile_pipeline(name: str, *, gpu: bool, image: str, path: Path) -> None:
    """Write the pipeline `name` as YAML, its tasks in `image`, which must be named by its digest.

    A tag may point to another image tomorrow, and Kubeflow's cache would not know. Raises `UserError`.
    """
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image):
        raise UserError(f"the image {image!r} must be named by its digest: REPOSITORY@sha256:<64 hex digits>")
    compiler.Compiler().compile(PIPELINES[name](on_cluster(image, gpu=gpu)), str(path))


def compile_all(root: Path) -> Iterator[Path]:
    """Write all that is kept in the repository below `root`; the files, one by one."""
    ours, whole = (root / room / "compiled" for room in ("components", "pipelines"))
    for folder in (ours, whole):
        folder.mkdir(parents=True, exist_ok=True)
    for step in BY_NAME.values():
        path = ours / f"{step.identifier}.yaml"
        compiler.Compiler().compile(getattr(components, step.identifier), str(path))
        yield path
    for name in PIPELINES:
        for variant in ("cpu", "gpu"):
            path = whole / f"{name}-{variant}.yaml"
            compile_pipeline(name, gpu=variant == "gpu", image=IMAGE, path=path)
            yield path


def sections(params: Params, names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that are sections, as JSON: texts, since Kubeflow turns the integers of an object into
    floats and takes no null."""
    return {name: getattr(params, name).model_dump_json() for name in names if name in Params.model_fields}


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
