"""The steps as Kubeflow Pipelines components: each a few lines round the step function that the CLI runs."""

from components.benchmark import benchmark
from components.drift import drift
from components.evaluate import evaluate
from components.export import export
from components.fetch_champion import fetch_champion
from components.ingest import ingest
from components.notify import notify
from components.promote import promote
from components.revision import revision
from components.split import split
from components.train import train

__all__ = [
    "benchmark",
    "drift",
    "evaluate",
    "export",
    "fetch_champion",
    "ingest",
    "notify",
    "promote",
    "revision",
    "split",
    "train",
]
