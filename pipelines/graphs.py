"""The two pipelines. Their steps, and which reads what another wrote, come from the registry of steps."""

import inspect
from collections.abc import Callable, Mapping

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

import components
from dbrnet.cluster.trainjob import CHECKPOINTS
from dbrnet.steps import STAGES, STEPS
from pipelines.resources import Place

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
