"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from dbrnet.process_group import process_group

LINE_SECONDS = 30.0  # in a log, at most one line in this time

Item = TypeVar("Item")
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # items, how many, what for


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield `items`, `total` of them, and tell on stderr how far it is; of several processes one does."""
    if not process_group().first:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            say(f"{label}: {done} of {total}")


def say(line: str) -> None:
    """Print one line on stderr without breaking a bar that is being drawn."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
