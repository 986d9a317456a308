"""What a person should know of a training that runs badly, each thing once and in one line."""

import os
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch

from dbrnet.provenance import available_cores

FIRST_LOOK = 0.25  # share of the iterations after which something should have been found
FOUND = 0.01  # IoU below which a class counts as not found: a pixel hit by chance has more than 0
WINDOW = 10  # iterations that a pace is taken over
SLOWER = 4  # times the usual pace
BUSY = 1.5  # processes that want to run, for each core


def nothing_found(iou: Mapping[str, float | None], step: int, steps: int) -> str | None:
    """A line for a training that has found no defect of any class on validation.

    `iou`: the background first; None: a class that validation does not show.
    """
    known = [value for value in list(iou.values())[1:] if value is not None]
    if step < FIRST_LOOK * steps or not known or max(known) >= FOUND:
        return None
    return (
        f"no defect of any class was found on validation after {step} of {steps} iterations: start from weights that "
        "have seen defects (train.start: generated), raise train.zoom where defects are thin, or look at the labels"
    )


class Pace:
    """Notices iterations that take a multiple of their usual time, as on a machine that others use too."""

    def __init__(self, helpers: int = 0) -> None:
        self._helpers = helpers  # processes of this training beside the one that computes
        self._latest: deque[float] = deque(maxlen=WINDOW)
        self._usual = float("inf")

    def add(self, seconds: float) -> str | None:
        """Count an iteration; a line where it has become slow."""
        self._latest.append(seconds)
        if len(self._latest) < WINDOW:
            return None
        now = median(self._latest)
        self._usual = min(self._usual, now)
        threads, cores = torch.get_num_threads(), available_cores()
        busy = threads > 1 and os.getloadavg()[0] - self._helpers > BUSY * cores
        slower = now >= SLOWER * self._usual
        if not slower and not busy:
            return None
        before = f" (at best {self._usual:.1f} s)" if slower else ""
        return (
            f"this machine is busy: an iteration takes {now:.1f} s{before}; beside other work one thread is often "
            "faster than several: OMP_NUM_THREADS=1"
        )
