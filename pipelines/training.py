"""Training as a Kubeflow pipeline: the stages of dvc.yaml, in the same order."""

from dataclasses import dataclass

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

import components
from dbrnet.cluster.trainjob import CHECKPOINTS
from pipelines.resources import Place

NAME = "dbrnet-training"


@dataclass(frozen=True)
class Sections:
    """The sections of params.yaml that a candidate needs, as JSON."""

    split: str
    train: str
    export: str
    fetch_champion: str
    evaluate: str
    benchmark: str
    promote: str
    checkpoints: str


def training(place: Place) -> BaseComponent:
    """The pipeline, its tasks placed by `place`."""

    @dsl.pipeline(name=NAME, description="Read the data, train DBRNet on it, measure it, and decide.")
    def pipeline(
        ingest: str,
        split: str,
        train: str,
        export: str,
        fetch_champion: str,
        evaluate: str,
        benchmark: str,
        promote: str,
        checkpoints: str = CHECKPOINTS,
    ) -> None:
        dataset = read_data(place, ingest)
        sections = Sections(split, train, export, fetch_champion, evaluate, benchmark, promote, checkpoints)
        make_candidate(place, dataset, sections)

    return pipeline


def read_data(place: Place, ingest: str) -> PipelineChannel:
    """The tasks that bring the data in; the dataset."""
    revision = place(components.revision(params=ingest), "revision")
    return place(components.ingest(params=ingest, revision=revision.output), "ingest").outputs["dataset"]


def make_candidate(
    place: Place, dataset: PipelineChannel, sections: Sections, previous: PipelineChannel | None = None
) -> PipelineTask:
    """The tasks from the split to the decision; `previous` is the champion whose images keep their parts."""
    divided = place(
        components.split(params=sections.split, dataset=dataset, **({"champion": previous} if previous else {})),
        "split",
    )
    data = {"dataset": dataset, "split": divided.outputs["split"]}
    train = components.train(params=sections.train, checkpoints=sections.checkpoints, **data)
    trained = place(train, "train").outputs["trained"]
    export = place(components.export(params=sections.export, **data, trained=trained), "export")
    exported = export.outputs["exported"]
    baseline = place(components.fetch_champion(params=sections.fetch_champion, exported=exported), "fetch-champion")
    models = data | {"trained": trained, "exported": exported, "champion": baseline.outputs["champion"]}
    evaluate = place(components.evaluate(params=sections.evaluate, **models), "evaluate")
    measured = models | {"evaluated": evaluate.outputs["evaluated"]}
    benchmark = place(components.benchmark(params=sections.benchmark, **measured), "benchmark")
    benchmarked = benchmark.outputs["benchmarked"]
    return place(components.promote(params=sections.promote, **measured, benchmarked=benchmarked), "promote")
