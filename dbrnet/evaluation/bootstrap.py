"""Confidence intervals of figures, from resampling whole groups of images.

Images of one group are near-duplicates, so they are no independent evidence, and pixels are even less so. Groups are
drawn with replacement, as many as there are, and each figure is computed from every draw (percentile intervals; Efron
and Tibshirani 1993, "An Introduction to the Bootstrap"). Two models are compared in one call, with the counts of both
in each group's row: both are then scored on the same draws.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dbrnet.records import Estimate, Unit

# Sums of counts [R, K] in; figures by name out, each [R], NaN where undefined.
Statistic = Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]

RESAMPLES = 10_000
SEED = 0
MIN_DEFINED = 0.9  # share of the resamples in which a figure must be defined to have an interval
CHUNK = 1_000_000  # draws at a time, which take about 40 MB


def estimate(
    counts: NDArray[np.int64],
    statistic: Statistic,
    *,
    confidence: float,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    unit_of: Callable[[str], Unit] = lambda _: "share",
) -> dict[str, Estimate]:
    """Each figure of `statistic` with its interval, from `counts` [G, K], one row per group.

    The value is that of all groups together. The interval is the middle `confidence` of those resamples in which the
    figure is defined. A figure that is defined in fewer than 90 % of them, such as that of a class which only a few
    groups hold, has no interval; nor has any figure of a single group.

    The same seed gives the same bits on any number of cores: sums of whole numbers are exact in any order. Raises
    ValueError where there is no group.
    """
    if len(counts) == 0:
        raise ValueError("no group to resample")
    values = {name: float(value[0]) for name, value in statistic(counts.sum(axis=0, dtype=float)[None]).items()}
    if len(counts) == 1:
        return {name: _estimate(value, np.empty(0), 1, confidence, unit_of(name)) for name, value in values.items()}
    drawn = statistic(_resampled(counts.astype(np.float64), resamples, np.random.default_rng(seed)))
    return {name: _estimate(value, drawn[name], resamples, confidence, unit_of(name)) for name, value in values.items()}


def _resampled(counts: NDArray[np.float64], resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """The sums of `counts` [G, K] over G groups drawn with replacement, [R, K]."""
    groups = len(counts)
    rows = max(1, CHUNK // groups)
    sums = np.empty((resamples, counts.shape[1]))
    for start in range(0, resamples, rows):
        part = sums[start : start + rows]
        drawn = random.integers(0, groups, (len(part), groups))
        drawn += groups * np.arange(len(part))[:, None]
        times = np.bincount(drawn.ravel(), minlength=len(part) * groups)
        np.matmul(times.reshape(len(part), groups).astype(np.float64), counts, out=part)
    return sums


def _estimate(value: float, drawn: NDArray[np.float64], resamples: int, confidence: float, unit: Unit) -> Estimate:
    if np.isnan(value):
        return Estimate(value=None, unit=unit)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < MIN_DEFINED * resamples:
        return Estimate(value=value, unit=unit)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=float(low), high=float(high), unit=unit)
