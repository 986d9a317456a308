"""Runs in MLflow that can be continued after a kill without doubled values."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from dbrnet.errors import JobError
from dbrnet.records import flatten
from dbrnet.registry.store import Store

# What MLflow takes in one request, and of a dataset's digest.
_METRICS = 1000
_DIGEST = 36


class TrackedRun:
    """One MLflow run. As a context manager it finishes the run, or marks it failed when the block raises."""

    def __init__(self, store: Store, info: RunInfo, *, resumed: bool) -> None:
        self.store = store
        self.run_id = str(info.run_id)
        self.experiment_id = str(info.experiment_id)
        self.started = int(info.start_time)  # milliseconds since 1970
        self.resumed = resumed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong in the block is the news, not the store.
        with suppress(JobError) if error else nullcontext():
            self.finish(failed=error is not None)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; nested sections are flattened to `section.key`, other values are JSON."""
        flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flatten(params).items()}
        with self.store.client_session() as client:
            client.log_batch(self.run_id, params=[Param(key, text) for key, text in flat.items()])

    def log_dataset(
        self, name: str, content_hash: str, source: Path, splits: Mapping[str, Mapping[str, object]]
    ) -> None:
        """Log a dataset's splits, by context (training, validation, testing), as the run's inputs.

        A split's facts become the input's tags. The digest is the start of the content hash.
        """
        inputs = []
        for context, facts in splits.items():
            dataset = Dataset(f"{name} {context}", content_hash[:_DIGEST], "local", json.dumps({"uri": str(source)}))
            tags = {"mlflow.data.context": context, **facts}
            inputs.append(DatasetInput(dataset, [InputTag(key, str(value)) for key, value in tags.items()]))
        with self.store.client_session() as client:
            client.log_inputs(self.run_id, inputs)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step in one call; of a resumed run only those that it does not have for the step."""
        new = {key: value for key, value in values.items() if not (self.resumed and step in self.steps(key))}
        self.send([metrics_of(new, step, int(time.time() * 1000))])

    def send(self, steps: Sequence[Sequence[Metric]]) -> None:
        """Send the metrics of some steps in few calls; those of one step arrive all or none.

        A metric that the run has with the same time, step and value is not doubled.
        """
        calls: list[list[Metric]] = [[]]
        for metrics in steps:
            if len(calls[-1]) + len(metrics) > _METRICS:
                calls.append([])
            calls[-1].extend(metrics)
        with self.store.client_session() as client:
            for call in filter(None, calls):
                client.log_batch(self.run_id, metrics=call)

    def validation(self, row: Mapping[str, float]) -> list[Metric]:
        """A training's validation as metrics, at the training's `step`.

        Its time is the run's start plus the `seconds` since, so that one sent twice, from any process,
        is the same to MLflow.
        """
        values = {key: value for key, value in row.items() if key != "step"}
        return metrics_of(values, int(row["step"]), self.started + round(1000 * row.get("seconds", 0)))

    def steps(self, key: str) -> set[int]:
        """The steps for which the run has the metric `key`."""
        with self.store.client_session() as client:
            return {metric.step for metric in client.get_metric_history(self.run_id, key)}

    def log_artifact(self, path: Path, into: str | None = None) -> None:
        """Copy a file or a folder, under its own name, to the run's artifacts (into the folder `into`)."""
        with self.store.client_session() as client:
            client.log_artifact(self.run_id, str(path), into)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; a tag that was there is replaced."""
        with self.store.client_session() as client:
            client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def finish(self, *, failed: bool = False) -> None:
        """Mark the run as finished, or as failed; it can be continued all the same."""
        with self.store.client_session() as client:
            client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def start_or_resume_run(
    store: Store, experiment: str, *, run_id: str | None, name: str, tags: Mapping[str, object]
) -> TrackedRun:
    """Continue the run `run_id`, or start a fresh one in `experiment` when it is None or not in the store.

    A fresh run that stands in for one the store does not know carries that one's id in the tag `missed_run`.
    Raises `JobError` when the store cannot be reached.
    """
    missed = {} if run_id is None else {"missed_run": run_id}
    if run_id is not None and (run := _continued(store, run_id, tags)):
        return run
    with store.client_session() as client:
        known = client.get_experiment_by_name(experiment)
        try:
            id_ = known.experiment_id if known else client.create_experiment(experiment, store.artifact_location)
        except MlflowException as error:
            known = client.get_experiment_by_name(experiment)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or known is None:
                raise
            id_ = known.experiment_id  # another process was quicker
    return _fresh(store, str(id_), name, {**tags, **missed})


def decision_run(store: Store, parent: TrackedRun, *, key: str, name: str, tags: Mapping[str, object]) -> TrackedRun:
    """The run of the decision `key`, shown beneath `parent`: a new one, or the one that was begun before.

    `key` holds letters and digits. Raises `JobError` when the store cannot be reached.
    """
    with store.client_session() as client:
        found = client.search_runs(
            [parent.experiment_id], f"tags.decision = '{key}'", order_by=["start_time ASC"], max_results=1
        )
    if found and (run := _continued(store, found[0].info.run_id, tags)):
        return run
    nested = {**tags, "decision": key, "mlflow.parentRunId": parent.run_id}
    return _fresh(store, parent.experiment_id, name, nested)


def send_missing(run: TrackedRun, history: Sequence[Mapping[str, float]]) -> int:
    """Log the validations of a training's history that the run lacks; returns their number.

    A row holds `step`, `loss` and other metrics. Raises `JobError` when the store cannot
    be reached; a second call then sends what is still missing.
    """
    logged = run.steps("loss")
    missing = [row for row in history if row["step"] not in logged]
    run.send([run.validation(row) for row in missing])
    return len(missing)


def metrics_of(values: Mapping[str, float], step: int, when: int) -> list[Metric]:
    """The metrics of a step, measured at a time in milliseconds since 1970."""
    return [Metric(key, float(value), when, step) for key, value in values.items()]


def _continued(store: Store, run_id: str, tags: Mapping[str, object]) -> TrackedRun | None:
    """The run, resumed; None when the store does not know it or has deleted it."""
    with store.client_session() as client:
        try:
            info = client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if info.lifecycle_stage != "active":
            return None
        client.update_run(run_id, status="RUNNING")
    run = TrackedRun(store, info, resumed=True)
    run.set_tags(tags)
    return run


def _fresh(store: Store, experiment_id: str, name: str, tags: Mapping[str, object]) -> TrackedRun:
    # User and source, as in MLflow's own runs. The code's revision is the caller's to set.
    texts = resolve_tags({key: str(value) for key, value in tags.items()}, ignore=[GitRunContext])
    with store.client_session() as client:
        return TrackedRun(store, client.create_run(experiment_id, run_name=name, tags=texts).info, resumed=False)
