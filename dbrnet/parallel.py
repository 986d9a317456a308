"""Mapping a function over many items by threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dbrnet.provenance import available_cores

_AHEAD = 4  # results that wait for each thread; more would only take memory
_MAX_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each of `items`, in their order, computed by threads that run a little ahead.

    There is one for each core unless `threads` says how many. Threads suffice, since decoding, hashing, encoding
    and waiting release the interpreter's lock. An exception is raised when its result is due, and cancels the rest.
    """
    threads = threads or min(available_cores(), _MAX_THREADS)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            # Executor.map would take all items at once; this holds a fixed number of results.
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
