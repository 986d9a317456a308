"""Load as MLPerf's LoadGen makes it: images one after the other, as on a production line, and in batches.

Single stream: each image is sent when the one before it is predicted. Offline: all images are there at once, and the
batch size is the one with the best throughput.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter as clock
from typing import NamedTuple

import cv2
import numpy as np
from scipy.stats import binom

from dbrnet.data.dataset import decode_image
from dbrnet.inference.runtimes.base import Answer, Images
from dbrnet.progress import progress
from dbrnet.records import Estimate, LatencyFacts, OfflineFacts, WarmUpFacts

ROUNDS = 10  # at least: enough pairs of blocks for an interval
BLOCK_SECONDS = 1.0  # at most
WINDOW = 5  # runs
STEADY = 0.05  # relative difference of two windows' medians below which durations have settled
BATCHES = (1, 2, 4, 8, 16)


class Run(NamedTuple):
    """One image's durations, in seconds."""

    predict: float  # from the image in memory to the mask in memory
    whole: float  # from the encoded image's bytes to the mask's as a PNG


Stream = Callable[[], Run]  # predicts its next image
Predict = Callable[[Images], Answer]


@dataclass(frozen=True)
class Series:
    """Every run of a stream, in the blocks of its turns."""

    warm_up: WarmUpFacts
    blocks: tuple[tuple[Run, ...], ...]

    @property
    def runs(self) -> list[Run]:
        """All runs in order."""
        return [run for block in self.blocks for run in block]

    @property
    def medians(self) -> list[float]:
        """Each block's median of `predict`, in seconds."""
        return [median(run.predict for run in block) for block in self.blocks]


def single_stream(predict: Predict, files: Sequence[bytes]) -> Stream:
    """A stream of the encoded images `files` in turn: decoded, predicted, the mask encoded as PNG."""
    turn = cycle(files)

    def run() -> Run:
        data = next(turn)
        start = clock()
        image = decode_image(data, "the image")[None]
        decoded = clock()
        masks, _ = predict(image)  # returns when the mask is in memory
        predicted = clock()
        cv2.imencode(".png", masks[0])
        return Run(predicted - decoded, clock() - start)

    return run


def take_turns(streams: Mapping[str, Stream], *, seconds: float) -> dict[str, Series]:
    """Run each stream for `seconds` or a little more, in blocks that take turns, after a warm-up of each.

    Turns spread other load on the machine evenly over the streams. Every other round goes backwards, so that a drift
    is spread evenly too. A block's first run does not count, because the threads of the block before may still spin.
    """
    rounds = max(ROUNDS, math.ceil(seconds / BLOCK_SECONDS))
    warm_ups = {
        name: warm_up(stream, least=0.1 * seconds, most=0.5 * seconds)
        for name, stream in progress(streams.items(), len(streams), "warm-up")
    }
    blocks: dict[str, list[tuple[Run, ...]]] = {name: [] for name in streams}
    for number in progress(range(rounds), rounds, "benchmark"):
        for name in list(streams)[:: -1 if number % 2 else 1]:
            stream = streams[name]
            stream()
            block = [stream()]
            while sum(run.whole for run in block) < seconds / rounds:
                block.append(stream())
            blocks[name].append(tuple(block))
    return {name: Series(warm_ups[name], tuple(blocks[name])) for name in streams}


def warm_up(stream: Stream, *, least: float, most: float) -> WarmUpFacts:
    """Run until steady: the medians of the last two windows of 5 runs differ by less than 5 %.

    It takes at least `least` and at most `most` seconds. The first run, which may compile, does not count.
    """
    stream()
    durations: list[float] = []
    while True:
        durations.append(stream().predict)
        spent = sum(durations)
        before, now = durations[-2 * WINDOW : -WINDOW], durations[-WINDOW:]
        settled = len(before) == WINDOW and abs(median(now) - median(before)) < STEADY * median(before)
        steady = spent >= least and settled
        if steady or spent >= most:
            return WarmUpFacts(runs=len(durations) + 1, seconds=spent, steady=steady)


def latency(durations: Sequence[float]) -> LatencyFacts:
    """Summarise single runs' durations, in seconds."""
    times = 1000 * np.array(durations)
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    mean, least, most = float(times.mean()), float(times.min()), float(times.max())
    return LatencyFacts(
        runs=len(times), mean_ms=mean, p50_ms=p50, p90_ms=p90, p99_ms=p99, min_ms=least, max_ms=most, fps=1000 / mean
    )


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


def offline(predict: Predict, images: Images, *, seconds: float, image_bytes: int) -> OfflineFacts:
    """The throughput of `predict` at the best batch of 1, 2, 4, 8 and 16 images of `images`, [N, H, W, 3].

    Each batch runs for `seconds`. The search ends where throughput falls, where the device's memory is too small, or
    where a batch at `image_bytes` per image might take more than half of the free memory.
    """
    tried: dict[int, float] = {}
    ended = "all were tried"
    for batch in BATCHES:
        if tried and batch * image_bytes > _free_memory() / 2:
            ended = f"a batch of {batch} might need more than half of the free memory"
            break
        try:
            tried[batch] = _throughput(predict, np.resize(images, (batch, *images.shape[1:])), seconds)
        except Exception as error:  # each runtime raises its own for lack of memory
            if not tried:
                raise
            ended = f"a batch of {batch} could not be run ({str(error).strip().splitlines()[0]})"
            break
        if tried[batch] < max(tried.values()):
            ended = f"a batch of {batch} was slower"
            break
    best = max(tried, key=lambda batch: tried[batch])
    return OfflineFacts(batch=best, images_per_second=tried[best], tried=tried, ended=ended)


def _throughput(predict: Predict, images: Images, seconds: float) -> float:
    predict(images)
    durations: list[float] = []
    while sum(durations) < seconds or len(durations) < 2:
        start = clock()
        predict(images)
        durations.append(clock() - start)
    return len(images) * len(durations) / sum(durations)


def _free_memory() -> float:
    """Bytes; infinite where the system does not offer the figure."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), math.inf)
