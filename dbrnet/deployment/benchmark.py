"""How fast a picture is answered, one at a time, as on a production line."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np

from dbrnet.deployment.runtimes.base import Images

BLOCK_SECONDS = 1.0
WARM_UP_SHARE = 0.1  # of the measuring time
WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """The time from a picture in memory to its answer in memory, in milliseconds, over `runs` runs."""

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def fps(self) -> float:
        """Frames per second: the reciprocal of the mean, so that slow runs count."""
        return 1000 / self.mean_ms

    @classmethod
    def from_seconds(cls, durations: list[float]) -> "Latency":
        """Summarise single runs' durations, in seconds."""
        times = np.array(durations) * 1000
        p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
        return cls(len(durations), float(times.mean()), p50, p90, p99)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"fps": self.fps}


def measure(
    runtimes: Mapping[str, Callable[[Images], Any]], image: Images, *, seconds: float
) -> dict[str, Latency]:
    """Time each runtime on `image`, uint8 [1, H, W, 3], for at least `seconds` of running after a warm-up.

    A runtime is a function that returns when its answer is in memory. They take turns in short blocks, so
    that what else the machine does in the meantime falls on all alike; a block's first run is not counted,
    because the threads of the one before may still be spinning.
    """
    for run in runtimes.values():
        _run_for(run, image, seconds * WARM_UP_SHARE, WARM_UP_RUNS)
    durations: dict[str, list[float]] = {name: [] for name in runtimes}
    while True:
        name = min(durations, key=lambda name: sum(durations[name]))  # the one measured least so far
        if sum(durations[name]) >= seconds:
            break
        runtimes[name](image)
        durations[name] += _run_for(runtimes[name], image, min(BLOCK_SECONDS, seconds), 1)
    return {name: Latency.from_seconds(done) for name, done in durations.items()}


def _run_for(run: Callable[[Images], Any], image: Images, seconds: float, least: int) -> list[float]:
    """The durations of runs one after the other, until both limits are reached."""
    durations: list[float] = []
    start = time.perf_counter()
    for runs in count(1):
        begin = time.perf_counter()
        run(image)
        end = time.perf_counter()
        durations.append(end - begin)
        if runs >= least and end - start >= seconds:
            break
    return durations
