"""Runs in MLflow: which store, and one run that can be continued after a kill without doubled values."""

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from dbrnet.errors import JobError, UserError

_SERVERS = ("http://", "https://")
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
_BATCH = 100  # parameters or tags that MLflow takes in one call

# A server that is away is reported in seconds, not minutes, and no bars are drawn; the user's settings win.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Store:
    """Where runs and model versions are kept: an MLflow server, or a database with a folder for artifacts."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        self.uri = uri
        self.artifacts = artifacts.absolute()

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server answers, which then decides where artifacts lie."""
        return self.uri.startswith(_SERVERS)

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: the server's choice."""
        return None if self.is_server else self.artifacts.as_uri()

    def __str__(self) -> str:
        return _without_credentials(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; the first use of a new SQLite file creates its tables (about 3 s)."""
        for logger in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        if self.uri.startswith("sqlite:///"):
            self._prepare_sqlite(Path(unquote(self.uri.removeprefix("sqlite:///").partition("?")[0])))
        return MlflowClient(self.uri, self.uri)

    def _prepare_sqlite(self, path: Path) -> None:
        """Create the tables beside `path` and move them there whole: MLflow cannot mend half a schema.

        A file that cannot be written fails at once, where SQLAlchemy would retry for minutes.
        """
        try:
            if path.exists():
                _probe_sqlite(path)
                return
            fresh = path.with_name(f".{path.name}.{os.getpid()}.partial")
            try:
                _probe_sqlite(fresh)
                MlflowClient(f"sqlite:///{fresh}", f"sqlite:///{fresh}")
                with suppress(FileExistsError):  # another process was quicker
                    os.link(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        except sqlite3.Error as error:
            raise JobError(f"the MLflow store {self} cannot be written: {error}") from None

    @contextmanager
    def asked(self) -> Iterator[MlflowClient]:
        """Yield the client; whatever goes wrong with the store inside the block is a one-line `JobError`."""
        try:
            yield self.client
        except MlflowException as error:
            message = _without_credentials(error.message)
            if re.search(r"failed with (timeout )?exception", message):
                raise self._away() from None
            raise JobError(f"the MLflow store {self} refused: {' '.join(message.split())[:500]}") from None
        except ConnectionError:
            raise self._away() from None
        except OSError as error:
            detail = " ".join(_without_credentials(str(error)).split())[:500]
            raise JobError(f"the MLflow store {self} failed: {detail}") from None

    def _away(self) -> JobError:
        return JobError(
            f"the MLflow store {self} cannot be reached; "
            "start its server, or correct MLFLOW_TRACKING_URI, or unset it to use a local file"
        )


def _probe_sqlite(path: Path) -> None:
    connection = sqlite3.connect(path, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.close()


def open_store(root: Path) -> Store:
    """The store MLFLOW_TRACKING_URI names, else `<root>/mlflow.db` with artifacts in `<root>/mlartifacts`.

    Nothing is contacted or created yet. Raises `UserError` for an address of an unknown kind.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    root = root.absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if not uri.startswith((*_SERVERS, *_DATABASES)):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {_without_credentials(uri)!r}; "
            "it must be an http(s):// address of an MLflow server or a database such as sqlite:///mlflow.db"
        )
    return Store(uri, root / "mlartifacts")


class TrackedRun:
    """One MLflow run. As a context manager it finishes the run, or marks it failed when the block raises."""

    def __init__(self, store: Store, run_id: str, experiment_id: str, *, resumed: bool) -> None:
        self.store = store
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._resumed = resumed
        self._known_steps: dict[str, set[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        with suppress(JobError):  # what went wrong in the block is the news, not the store
            self.fail()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; nested sections are flattened to `section.key`, other values are JSON."""
        flat = [Param(key, text) for key, text in _flatten(params)]
        with self.store.asked() as client:
            for start in range(0, len(flat), _BATCH):
                client.log_batch(self.run_id, params=flat[start : start + _BATCH])

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all values of a step (an epoch) in one call.

        A continued run skips what it has logged for that step already, so that epochs done again after a
        kill appear once.
        """
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, step)
            for key, value in values.items()
            if not (self._resumed and step in self._steps_of(key))
        ]
        if metrics:
            with self.store.asked() as client:
                client.log_batch(self.run_id, metrics=metrics)

    def _steps_of(self, key: str) -> set[int]:
        if key not in self._known_steps:
            with self.store.asked() as client:
                history = client.get_metric_history(self.run_id, key)
            self._known_steps[key] = {metric.step for metric in history}
        return self._known_steps[key]

    def log_artifact(self, path: Path, into: str | None = None) -> None:
        """Copy a file or a folder, under its own name, to the run's artifacts (into the folder `into`)."""
        with self.store.asked() as client:
            client.log_artifact(self.run_id, str(path), into)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; a tag that was there is replaced."""
        entries = [RunTag(key, str(value)) for key, value in tags.items()]
        with self.store.asked() as client:
            for start in range(0, len(entries), _BATCH):
                client.log_batch(self.run_id, tags=entries[start : start + _BATCH])

    def finish(self) -> None:
        """Mark the run as finished."""
        self._end("FINISHED")

    def fail(self) -> None:
        """Mark the run as failed; it can be continued all the same."""
        self._end("FAILED")

    def _end(self, status: str) -> None:
        with self.store.asked() as client:
            client.set_terminated(self.run_id, status)


def start_or_resume_run(
    store: Store, experiment: str, *, run_id: str | None, name: str, tags: Mapping[str, object]
) -> TrackedRun:
    """Continue the run `run_id`, or start a fresh one in `experiment` when it is None or not in the store.

    A fresh run that stands in for one the store does not know carries that one's id in the tag `missed_run`.
    Raises `JobError` when the store cannot be reached.
    """
    with store.asked() as client:
        if run_id is not None and (experiment_id := _living_run(client, run_id)) is not None:
            client.update_run(run_id, status="RUNNING")
            run = TrackedRun(store, run_id, experiment_id, resumed=True)
            run.set_tags(tags)
            return run
        experiment_id = _experiment(store, client, experiment)
        missed = {} if run_id is None else {"missed_run": run_id}
        texts = {key: str(value) for key, value in {**tags, **missed}.items()}
        created = client.create_run(experiment_id, run_name=name, tags=texts)
        return TrackedRun(store, created.info.run_id, experiment_id, resumed=False)


def _living_run(client: MlflowClient, run_id: str) -> str | None:
    """The experiment of the run, or None when the store does not know the run or has it deleted."""
    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return str(info.experiment_id) if info.lifecycle_stage == "active" else None


def _experiment(store: Store, client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=store.artifact_location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _without_credentials(text: str) -> str:
    """`text` without the user:password@ of any address in it, and without what follows a question mark."""
    return re.sub(r"\?\S+", "", re.sub(r"//[^/\s]*@", "//", text))
