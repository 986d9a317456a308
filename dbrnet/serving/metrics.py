"""The service's metrics, for Prometheus: the only module that uses its library."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from dbrnet.serving.responses import Timing
from dbrnet.serving.worker import Worker

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Requests by status, times of answered images, the queue, the model and the process."""

    def __init__(self, worker: Worker) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "dbrnet_requests", "Images by the status of their response", ["status"], registry=registry
        )
        self._waiting = Histogram(
            "dbrnet_waiting_seconds",
            "From an image's arrival to the start of its inference",
            buckets=SECONDS,
            registry=registry,
        )
        self._inference = Histogram(
            "dbrnet_inference_seconds", "An image's inference", buckets=SECONDS, registry=registry
        )
        length = Gauge("dbrnet_queue_length", "Images waiting or being processed", registry=registry)
        length.set_function(lambda: worker.taken)
        Gauge("dbrnet_queue_places", "Images that may wait", registry=registry).set(worker.places)
        model = worker.model
        Info("dbrnet_model", "The model served", registry=registry).info(
            {
                "runtime": model.runtime,
                "precision": model.precision,
                "dataset": model.metadata.get("dataset", ""),
                "dataset_content_hash": model.metadata.get("dataset_content_hash", ""),
            }
        )
        ProcessCollector(registry=registry)

    def count(self, status: int) -> None:
        """Count a request by the `status` of its response."""
        self._requests.labels(str(status)).inc()

    def observe(self, timing: Timing) -> None:
        """Record the times of an answered image."""
        self._waiting.observe(timing.waiting)
        self._inference.observe(timing.inference)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
