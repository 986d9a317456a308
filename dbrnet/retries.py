"""Retries: what is tried again, for how long, and one log line before each new try.

The packages turn what their libraries raise into `UnavailableError` where waiting can help, and into another
error where it cannot. Only the first is tried again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from math import inf
from typing import ParamSpec, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random_exponential,
)

from dbrnet.errors import BusyError, JobError, UnavailableError

log = logging.getLogger(__name__)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # at each try it has a line that says less

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class RetryPolicy:
    """Which error is retried, and for how long.

    Pauses begin at `first` seconds and double up to `longest`. A random half is taken off each, so that many
    workers do not come back at once. The last try is number `attempts`, or the first to end after `seconds`.
    """

    first: float
    longest: float
    attempts: int = 1_000_000
    seconds: float = inf
    error: type[JobError] = UnavailableError
    level: int = logging.INFO

    def retried(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorator for a function that may be repeated without harm; the last error is raised."""

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            half, longest = self.first / 2, self.longest / 2
            retrying = Retrying(
                retry=retry_if_exception_type(self.error),
                # tenacity has no exponential pause of which a part only is random: this is the sum of two.
                wait=wait_exponential(half, longest) + wait_random_exponential(half, longest),
                stop=stop_after_attempt(self.attempts) | stop_after_delay(self.seconds),
                before_sleep=self._log,
                reraise=True,
            )
            return retrying(function, *args, **kwargs)

        return call

    def _log(self, state: RetryCallState) -> None:
        # tenacity's own line begins with the function's name, and lacks nothing else.
        error = state.outcome and state.outcome.exception()
        log.log(self.level, "%s; trying again in %.0f s", getattr(error, "cause", error), state.upcoming_sleep)


# A minute's outage is outlasted by all, however the pauses are drawn, but by DATABASE, which waits for a lock, and
# WEBHOOK: nobody waits for a message.
S3 = RetryPolicy(first=1, longest=32, attempts=9)  # on top of boto3's own three tries within seconds
HTTP = RetryPolicy(first=1, longest=32, attempts=9)
MLFLOW = RetryPolicy(first=2, longest=32, attempts=9, seconds=240)  # a try that hangs takes two minutes
DATABASE = RetryPolicy(first=0.1, longest=6.4, attempts=8, error=BusyError, level=logging.DEBUG)
KUBERNETES = RetryPolicy(first=1, longest=30, seconds=600)  # a control plane may be upgraded
KUBEFLOW = RetryPolicy(first=1, longest=30, attempts=9)
WEBHOOK = RetryPolicy(first=2, longest=8, attempts=4)
