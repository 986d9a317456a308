"""Sends a training's metrics to MLflow, which may be slow, unavailable or hang without harm to the training."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from mlflow.entities import Metric
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from dbrnet.errors import JobError
from dbrnet.registry.tracking import TrackedRun, metrics_of

log = logging.getLogger(__name__)

RETRY = 30.0  # seconds between two tries to send to a store that failed
PATIENCE = 20.0  # seconds that the end of a training waits for the store

_SAMPLED = "system/cpu_utilization_percentage"  # a system metric that every machine has


class MetricLogger:
    """Context manager that sends validations and system metrics to a run from a thread, and ends the run.

    The store may fail at any time. Unsent metrics are kept, and sent again every `RETRY` seconds and once at the
    end. A failure of the store is never raised and never delays the block; only its end may take up to
    `PATIENCE` seconds. `missing` lists what was not sent by then.
    """

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._known = run.steps("loss") if run.resumed else set()
        self._samples = len(run.steps(_SAMPLED)) if run.resumed else 0  # system metrics so far
        self._unsent: list[list[Metric]] = []  # every thread appends; only the sender removes
        self._failed = False
        self._added, self._closing = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._run, name="metric logger", daemon=True)

    def __enter__(self) -> Self:
        self._sender.start()
        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            threading.Thread(target=self._watch_system, name="system metrics", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = error is not None
        self._closing.set()
        self._added.set()
        self._sender.join(PATIENCE)
        if missing := self.missing:
            log.warning(
                "the MLflow run %s at %s lacks the validations of iterations %s; history.csv has them, "
                "and `dbrnet promote` sends them",
                self.run.run_id,
                self.run.store,
                ", ".join(map(str, missing)),
            )

    def add(self, row: Mapping[str, float]) -> None:
        """Send a validation: `step`, `loss` and other metrics. One that was added before is ignored."""
        step = int(row["step"])
        if step not in self._known:
            self._known.add(step)
            self._unsent.append(self.run.validation(row))
            self._added.set()

    @property
    def missing(self) -> list[int]:
        """The iterations whose validation is not known to be stored, ascending."""
        return sorted({metric.step for metrics in self._unsent for metric in metrics if metric.key == "loss"})

    def _run(self) -> None:
        sent = True
        while True:
            if sent:
                self._added.wait()
            else:
                self._closing.wait(RETRY)
            self._added.clear()
            last = self._closing.is_set()  # nothing is added after it
            sent = self._send(failing=not sent)
            if last or (self._closing.is_set() and not sent):
                break
        if sent:
            with suppress(JobError):
                self.run.finish(failed=self._failed)

    def _send(self, *, failing: bool) -> bool:
        """Send all unsent metrics; returns whether that succeeded. Only the first of failures in a row is logged."""
        metrics = self._unsent[:]
        try:
            # Metrics whose response was lost are sent again with the same time, so MLflow does not store them twice.
            self.run.send(metrics)
        except JobError as error:
            if not failing:
                log.warning("%s; training goes on, and its figures are sent when the store answers", error)
            return False
        del self._unsent[: len(metrics)]
        if failing:
            log.info("the MLflow store %s answers again, and has what was kept for it", self.run.store)
        return True

    def _watch_system(self) -> None:
        """Measure the machine as MLflow does, whose own thread stops for good at the first lost request."""
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        monitor = SystemMetricsMonitor(self.run.run_id, tracking_uri=self.run.store.uri)
        while True:
            for _ in range(monitor.samples_before_logging):
                if self._closing.wait(monitor.sampling_interval):
                    return
                monitor.collect_metrics()
            values = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            self._unsent.append(metrics_of(values, self._samples, int(time.time() * 1000)))
            self._samples += 1
            for source in monitor.monitors:
                source.clear_metrics()
            self._added.set()
