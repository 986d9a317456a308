"""A training's measurements on their way to MLflow, which may be slow, away or hang without harm to it."""

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

_SAMPLED = "system/cpu_utilization_percentage"  # among what MLflow measures of any machine


class MetricLogger:
    """Sends epochs, and how busy the machine is, to a run from a thread, and ends the run with the block.

    The store may fail at any time: what it did not take is kept, tried again every `RETRY` seconds and once
    more at the end. Nothing here raises a store's failure or holds the block up; only its end may take up to
    `PATIENCE` seconds. What was not sent by then stands in `missing`.
    """

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._known = run.steps("loss") if run.resumed else set()
        self._samples = len(run.steps(_SAMPLED)) if run.resumed else 0  # of the machine, taken so far
        self._unsent: list[list[Metric]] = []  # every thread appends; the sender alone takes away
        self._failed = False
        self._news, self._closing = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send_on, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._sender.start()
        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            threading.Thread(target=self._watch, name="system metrics", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = error is not None
        self._closing.set()
        self._news.set()
        self._sender.join(PATIENCE)
        if missing := self.missing:
            log.warning(
                "the MLflow run %s at %s lacks the epochs %s; history.csv has them, and `dbrnet promote` sends them",
                self.run.run_id,
                self.run.store,
                ", ".join(map(str, missing)),
            )

    def add(self, row: Mapping[str, float]) -> None:
        """Send an epoch: `epoch`, `loss` and what else was measured. One added before is left out."""
        epoch = int(row["epoch"])
        if epoch not in self._known:
            self._known.add(epoch)
            self._unsent.append(self.run.epoch(row))
            self._news.set()

    @property
    def missing(self) -> list[int]:
        """The epochs that are not known to have arrived, ascending."""
        return sorted({metric.step for metrics in self._unsent for metric in metrics if metric.key == "loss"})

    def _send_on(self) -> None:
        sent = True
        while True:
            if sent:
                self._news.wait()
            else:
                self._closing.wait(RETRY)
            self._news.clear()
            last = self._closing.is_set()  # then nothing is added any more
            sent = self._send(failing=not sent)
            if last or (self._closing.is_set() and not sent):
                break
        if sent:
            with suppress(JobError):
                self.run.fail() if self._failed else self.run.finish()

    def _send(self, *, failing: bool) -> bool:
        """Send what there is; whether that went well. Of failures in a row, the first alone is told."""
        metrics = self._unsent[:]
        try:
            # What had arrived without an answer and is sent again bears the same time, and is not doubled.
            self.run.send(metrics)
        except JobError as error:
            if not failing:
                log.warning("%s; training goes on, and its epochs are sent when the store answers", error)
            return False
        del self._unsent[: len(metrics)]
        if failing:
            log.info("the MLflow store %s answers again, and has what was kept for it", self.run.store)
        return True

    def _watch(self) -> None:
        """Measure the machine as MLflow does. Its own sender gives up for ever at the first lost call."""
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
            for part in monitor.monitors:
                part.clear_metrics()
            self._news.set()
