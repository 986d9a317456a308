"""Retraining as a Kubeflow pipeline, for a schedule: only where the data warrants it, never in silence."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

import components
from dbrnet.cluster.trainjob import CHECKPOINTS
from pipelines.resources import Place
from pipelines.training import Sections, make_candidate, read_data

NAME = "dbrnet-retraining"


def retraining(place: Place) -> BaseComponent:
    """The pipeline, its tasks placed by `place`."""

    @dsl.pipeline(
        name=NAME,
        description="Ask whether the data has changed enough since the champion was trained; if so, train "
        "anew, measure, and decide. Tell how it ended.",
    )
    def pipeline(
        ingest: str,
        split: str,
        train: str,
        export: str,
        fetch_champion: str,
        evaluate: str,
        benchmark: str,
        promote: str,
        drift: str,
        checkpoints: str = CHECKPOINTS,
    ) -> None:
        notice = place(components.notify(pipeline=NAME, params=fetch_champion), "notify")
        with dsl.ExitHandler(notice, name="retraining"):
            dataset = read_data(place, ingest)
            present = place(components.fetch_champion(params=fetch_champion), "fetch-champion").outputs["champion"]
            asked = place(components.drift(params=drift, dataset=dataset, champion=present), "drift")
            with dsl.If(asked.outputs["Output"] == "yes", name="warranted"):
                sections = Sections(split, train, export, fetch_champion, evaluate, benchmark, promote, checkpoints)
                make_candidate(place, dataset, sections, previous=present)

    return pipeline
