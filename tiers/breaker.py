"""``Breaker``: after failures in a row, ask a server no more until it has had time to recover.

Closed, everything is tried. After ``limit`` failures in a row it opens: nothing is tried, which
costs nobody a deadline. When its wait is over it is half open: one attempt is let through. If that
succeeds it closes; if not it opens again for twice as long, up to a limit. Waits are drawn from
half to one and a half times their length, so that hosts do not all come back at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

__all__ = ["Attempt", "Breaker", "BreakerState"]

FAILURES = 5
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


class BreakerState(StrEnum):
    """Whether attempts are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Attempt:
    """One thing that is tried; it succeeded unless somebody says why it failed."""

    def __init__(self, *, probe: bool) -> None:
        self.probe = probe
        self.fault: str | None = None

    def failed(self, why: str) -> None:
        """It failed; the first reason is kept."""
        self.fault = self.fault or why


class Breaker:
    """Decides whether something is to be tried.

    Parameters
    ----------
    clock:
        Seconds that do not go back.
    draw:
        A random number from 0 to 1.
    changed:
        Called with the new state and the reason whenever it opens for the first time, or closes.
    limit:
        Failures in a row after which it opens.
    first_wait_s, longest_wait_s:
        How long it stays open at first, and at the most, half as much again by chance.

    Attributes
    ----------
    state:
        Now, as of the last attempt.
    opened:
        How often it opened, after half-open attempts as well.
    refused:
        Attempts that were not let through.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[], float],
        changed: Callable[[BreakerState, str], None],
        *,
        limit: int = FAILURES,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._clock, self._draw, self._changed = clock, draw, changed
        self._limit = limit
        self._first_wait_s, self._longest_wait_s = first_wait_s, longest_wait_s
        self._wait_s = first_wait_s
        self._again_s = 0.0
        self._failures = 0
        self.state = BreakerState.CLOSED
        self.opened = self.refused = 0

    @property
    def would_allow(self) -> bool:
        """Whether an attempt would be let through now."""
        if self.state is BreakerState.OPEN:
            return self._clock() >= self._again_s
        return self.state is BreakerState.CLOSED

    @contextmanager
    def attempt(self, *, decides: bool = True) -> Iterator[Attempt | None]:
        """Something to be tried; None if it is not to be.

        If it ``decides`` not, there is more to come before it is a success.
        """
        if not self.would_allow:
            self.refused += 1
            yield None
            return
        mine = Attempt(probe=self.state is BreakerState.OPEN)
        if mine.probe:
            self.state = BreakerState.HALF_OPEN
        try:
            yield mine
        except BaseException:  # cancelled, say: unless it had failed, nothing was learnt
            if mine.fault is not None:
                self._failed(mine)
            elif mine.probe:
                self.state = BreakerState.OPEN  # and the next one may try at once
            raise
        if mine.fault is not None:
            self._failed(mine)
        elif decides:
            self._succeeded(mine)
        elif mine.probe:
            self.state = BreakerState.OPEN

    def _succeeded(self, attempt: Attempt) -> None:
        self._failures = 0
        if attempt.probe:
            self.state = BreakerState.CLOSED
            self._changed(self.state, "it answers again")

    def _failed(self, attempt: Attempt) -> None:
        self._failures += 1
        if attempt.probe:
            self._open(min(2 * self._wait_s, self._longest_wait_s))
        elif self.state is BreakerState.CLOSED and self._failures >= self._limit:
            self._open(self._first_wait_s)
            why = f"{self._failures} failures in a row, the last: {attempt.fault}"
            self._changed(self.state, why)

    def _open(self, wait_s: float) -> None:
        self.state = BreakerState.OPEN
        self.opened += 1
        self._wait_s = wait_s
        self._again_s = self._clock() + wait_s * (0.5 + self._draw())
