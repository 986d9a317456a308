"""A project in which a training of seconds is run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbrnet.config import load_params
from dbrnet.records import TrainRecord, read_history
from dbrnet.registry.store import Store, open_store
from dbrnet.registry.tracking import TrackedRun, start_or_resume_run
from dbrnet.steps.train import train
from dbrnet.training import validation
from dbrnet.training.loop import HistoryRow
from dbrnet.training.loop import train as run_training

PARAMS = Path(__file__).parents[2] / "params.yaml"
STEPS = 6  # each with a validation


class Project:
    """An empty folder to train in."""

    def __init__(self, folder: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.prepared, self.monkeypatch = folder, prepared, monkeypatch
        monkeypatch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            monkeypatch.delenv(name)
        torch.set_num_threads(1)
        monkeypatch.setattr(validation, "SHARE", 1e6)  # after each step

    def after_validation(self, act: Callable[[int], None]) -> None:
        """Have `act` called with each validation's step, from within the training."""

        def run(*args: Any, on_validation: Callable[[HistoryRow], None], **rest: Any) -> Any:
            def both(row: HistoryRow) -> None:
                on_validation(row)
                act(row.step)

            return run_training(*args, on_validation=both, **rest)

        self.monkeypatch.setattr("dbrnet.steps.train.run_training", run)

    def train(self, steps: int = STEPS, checkpoints: Path | None = None, workers: int = 0) -> TrainRecord:
        """Train, and return train.json."""
        small = {"steps": steps, "crop": (32, 128), "zoom": 0.25, "batch_size": 8, "seed": 7}
        params = load_params(PARAMS).train.model_copy(update=small | {"workers": workers})
        dataset, split = self.prepared / "dataset", self.prepared / "split"
        train(params, dataset, split, out=self.folder / "train", checkpoints=checkpoints)
        return TrainRecord.load(self.folder / "train")

    @property
    def store(self) -> Store:
        return open_store(self.folder)

    @property
    def history(self) -> list[dict[str, float]]:
        return read_history(self.folder / "train")

    def steps(self, run_id: str, key: str = "loss") -> list[int]:
        """The steps that MLflow has, doubles and all."""
        return [metric.step for metric in self.store.client.get_metric_history(run_id, key)]

    def await_step(self, step: int) -> None:
        """Return when MLflow has it of the one run that there is, or after a minute."""
        client, deadline = self.store.client, time.monotonic() + 60
        experiment = client.get_experiment_by_name("steel-strip")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id])
        while step not in self.steps(run.info.run_id) and time.monotonic() < deadline:
            time.sleep(0.1)

    def joined(self, lineage: TrainRecord) -> TrackedRun:
        return start_or_resume_run(self.store, "steel-strip", run_id=lineage.run_id, name="", tags={})
