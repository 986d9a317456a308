"""Statistics of measured durations: their distribution, their steadiness, and the ratio of two series."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from dbrnet.records import Estimate

NOISY = 0.10  # a spread of the blocks above it is a warning


@dataclass(frozen=True)
class Latency:
    """The time of one image in milliseconds, over `runs` runs."""

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float

    @property
    def fps(self) -> float:
        """Frames per second: the reciprocal of the mean, so that slow runs count."""
        return 1000 / self.mean_ms

    @classmethod
    def from_seconds(cls, durations: Sequence[float]) -> "Latency":
        """Summarise single runs' durations, in seconds."""
        times = 1000 * np.array(durations)
        p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
        return cls(len(times), float(times.mean()), p50, p90, p99, float(times.min()), float(times.max()))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"fps": self.fps}


def times_as_fast(own: Sequence[float], other: Sequence[float]) -> Estimate:
    """How many times as fast `own` is as `other`, from the median durations of blocks measured side by side.

    Each pair of blocks gives one ratio of their medians, and the value is the median of these ratios. The interval
    covers it with a confidence of 95 % or more: its ends are order statistics of the ratios, by the sign test, which
    assumes nothing about their distribution. Below 6 pairs it is the whole range of the ratios.
    """
    ratios = sorted(theirs / ours for ours, theirs in zip(own, other, strict=True))
    rank = max(int(binom.ppf(0.025, len(ratios), 0.5)), 1)  # from either end
    return Estimate(value=float(np.median(ratios)), low=ratios[rank - 1], high=ratios[-rank], unit="ratio")


def spread(blocks: Sequence[float]) -> float:
    """The relative spread of the blocks' durations: from the 10th to the 90th percentile, over the median."""
    low, middle, high = np.percentile(blocks, [10, 50, 90])
    return float((high - low) / middle)
