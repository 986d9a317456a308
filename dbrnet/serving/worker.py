"""The model's thread, the queue in front of it, and the metrics of both: the only user of Prometheus' library.

Each image takes one of a fixed number of places from its arrival to its response, so the queue is bounded.
Images wait as encoded files; only the next one is decoded while the model works. All waiting is in the event
loop, so a cancelled request takes no thread's time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

import numpy as np
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from dbrnet.data.dataset import Image
from dbrnet.inference.images import decode_image
from dbrnet.inference.runtimes.base import Answer, Model
from dbrnet.serving.responses import Timing, busy

MAX_PIXELS = 2**24  # 4096 x 4096; the network then takes about 1.4 GB
WARM_UP_SIZE = 256
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Worker:
    """Owns a model, which is opened, warmed up and used in a thread of its own.

    At most `places` images wait or are processed at a time.
    """

    def __init__(self, open_model: Callable[[], Model], places: int) -> None:
        self.places = places
        self.taken = 0
        self.accepting = True  # False: the service is about to stop
        self._ahead = asyncio.Semaphore(2)  # one image in the model, and the next one being decoded
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._image_threads = ThreadPoolExecutor(2, "images")
        self.model = self._model_thread.submit(self._open, open_model).result()

    @staticmethod
    def _open(open_model: Callable[[], Model]) -> Model:
        model = open_model()
        model.predict(np.zeros((1, WARM_UP_SIZE, WARM_UP_SIZE, 3), np.uint8))
        return model

    async def answer(self, data: bytes, bit_depth: int, finish: Callable[[Answer, Timing], Response]) -> Response:
        """Decode the image's file, run the model, and `finish` its answer, all outside the event loop.

        `bit_depth` is for 16-bit images. Raises `Refusal` where no place is free, `UserError` where the file is
        no image, or its image is too small or has more than MAX_PIXELS, and what the model raises.
        """
        if self.taken >= self.places:
            raise busy(f"{self.places} images are waiting already")
        self.taken += 1
        arrived = perf_counter()
        loop = asyncio.get_running_loop()
        decode = partial(decode_image, name="the image", bit_depth=bit_depth, max_pixels=MAX_PIXELS)
        try:
            async with self._ahead:
                image = await loop.run_in_executor(self._image_threads, decode, data)
                answer, began, ended = await loop.run_in_executor(self._model_thread, self._predict, image)
            timing = Timing(began - arrived, ended - began)
            return await loop.run_in_executor(self._image_threads, partial(finish, answer, timing))
        finally:
            self.taken -= 1

    def _predict(self, image: Image) -> tuple[Answer, float, float]:
        began = perf_counter()
        answer = self.model.predict(image[None])
        return answer, began, perf_counter()

    def close(self) -> None:
        """End the threads."""
        self._model_thread.shutdown()
        self._image_threads.shutdown()


class Metrics:
    """Requests by status, times of answered images, the queue, the model and the process."""

    def __init__(self, worker: Worker) -> None:
        self._registry = registry = CollectorRegistry()
        timed = partial(Histogram, buckets=BUCKETS, registry=registry)
        self._waiting = timed("dbrnet_waiting_seconds", "From an image's arrival to the start of its inference")
        self._inference = timed("dbrnet_inference_seconds", "An image's inference")
        by_status = "Images by the status of their response"
        self._requests = Counter("dbrnet_requests", by_status, ["status"], registry=registry)
        length = Gauge("dbrnet_queue_length", "Images waiting or being processed", registry=registry)
        length.set_function(lambda: worker.taken)
        Gauge("dbrnet_queue_places", "Images that may wait", registry=registry).set(worker.places)
        model = worker.model
        labels = {key: model.metadata.get(key, "") for key in ("dataset", "dataset_content_hash")}
        labels |= {"runtime": model.runtime, "precision": model.precision}
        Info("dbrnet_model", "The model served", registry=registry).info(labels)
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
