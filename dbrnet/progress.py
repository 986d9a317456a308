"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dbrnet.process_group import process_group

LINE_SECONDS = 30.0  # in a log, at most one line in this time
BAR = "{desc} {percentage:3.0f}% |{bar:30}| {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left"

Item = TypeVar("Item")
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # items, how many, what for


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield `items`, `total` of them, and show on stderr how far it is; of several processes the first does."""
    if not process_group().first:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False, bar_format=BAR)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last, elapsed = now, now - start
            left = duration(elapsed / done * (total - done))
            say(f"{label}: {done} of {total}, {duration(elapsed)} elapsed, about {left} left")


def duration(seconds: float) -> str:
    """Such as 7 s, 2 min 05 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"


def say(line: str) -> None:
    """Print one line on stderr without breaking a bar that is being drawn."""
    from tqdm import tqdm  # here, since help must not wait for it

    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
