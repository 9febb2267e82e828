"""When to try again after a connection could not be had."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from greencache.errors import GreenCacheError

__all__ = ["Backoff"]

FIRST_S, MOST_S = 0.05, 1.0
SPREAD = 0.25
"""By which share waits differ, so that all clients of a host do not come back at once."""


class Backoff:
    """Waits that double with every failure.

    Until the wait is over the last failure is raised again at once: to an engine, a miss that costs
    nothing. So it is to others while somebody tries again, unless that has just begun.
    """

    def __init__(self) -> None:
        self._wait_s = 0.0
        self._until_s = 0.0
        self._begun_s = 0.0
        self._fault: Callable[[], GreenCacheError] | None = None

    def check(self, now_s: float) -> None:
        """Raise the last failure, if it is too early to try again; else a try begins."""
        if self._fault is not None and now_s < self._until_s:
            raise self._fault()
        self._begun_s = now_s

    def check_trying(self, now_s: float) -> None:
        """Raise the last failure, if a try has gone on for as long as the first wait."""
        fault = self._fault
        if fault is not None and now_s >= self._begun_s + FIRST_S:
            raise fault()

    def failed(self, fault: GreenCacheError, now_s: float) -> None:
        """There was no connection to be had."""
        # Not the error itself: its traceback keeps whatever was in use where it was raised.
        self._fault = functools.partial(type(fault), *fault.args)
        self._wait_s = min(MOST_S, max(FIRST_S, 2 * self._wait_s))
        self._until_s = now_s + self._wait_s * random.uniform(1 - SPREAD, 1 + SPREAD)

    def succeeded(self) -> None:
        """There is one again."""
        self._fault, self._wait_s = None, 0.0
