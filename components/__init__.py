"""The steps as Kubeflow Pipelines components. Their inputs come from the registry of steps."""

from components.steps import (
    benchmark,
    drift,
    evaluate,
    export,
    fetch_champion,
    ingest,
    notify,
    promote,
    revision,
    split,
    train,
)

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
