"""Clocks that the controller runs on: the wall's, at its speed or faster, or one moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import threading
import time
from typing import Protocol

from greencache.errors import InputError

__all__ = ["Clock", "VirtualClock", "WallClock"]

_log = logging.getLogger("greencache.control")

_OFF_S = 60.0
"""By how much the time of day may differ before that is noticed."""

_MOST_MOVES = 16
"""After which times before the oldest of them are no longer told apart."""


class Clock(Protocol):
    """Seconds since 1970 that do not go back, and a way to wait for them.

    Attributes
    ----------
    skipped_s:
        By how much it was moved forward so far: seconds that nobody lived through.
    """

    skipped_s: float

    def __call__(self) -> float:
        """What time it is."""

    def of_monotonic(self, monotonic_s: float) -> float:
        """What time it was when the host's monotonic clock said so."""

    async def sleep_until(self, at_s: float) -> None:
        """Wait until then; to return later is no fault."""


class WallClock:
    """The time of day, going on by the monotonic clock and following it forward only.

    The monotonic clock stands still while a host is suspended, and learns nothing of a wrong time
    of day that is set right. Where the time of day is more than a minute ahead, this moves there at
    once. Where it is more than a minute behind, somebody set it back, and this goes on by the
    monotonic clock, ahead, for as long as it lives: hours that come twice would be worse for
    whoever keeps books by it. That is said once.

    Parameters
    ----------
    speed:
        Its seconds in each of the monotonic clock's: 3600 puts an hour into a second.
    starts_s:
        What it says at first, if not the time of day. Then, and at another speed than 1, the time
        of day is not followed.

    Attributes
    ----------
    skipped_s:
        By how much it was moved forward so far.
    """

    def __init__(self, speed: float = 1.0, *, starts_s: float | None = None) -> None:
        if not 0 < speed < math.inf:
            raise InputError(f"a clock goes at a speed above 0, not {speed}")
        self.skipped_s = 0.0
        self._speed, self._read_s = speed, time.monotonic()
        epoch_s = time.time() if starts_s is None else starts_s
        self._since: tuple[tuple[float, float], ...] = ((self._read_s, epoch_s),)
        """What it said when on the monotonic clock, at first and whenever it was moved: the newest
        first. What was before a move stays where it was."""
        self._follows = starts_s is None and speed == 1.0
        self._said_behind = False
        self._reading = threading.Lock()

    def __call__(self) -> float:
        """What time it is; any thread may ask."""
        with self._reading:
            monotonic_s = time.monotonic()
            if self._follows:
                self._follow(monotonic_s)
            self._read_s = monotonic_s
            return self.of_monotonic(monotonic_s)

    def of_monotonic(self, monotonic_s: float) -> float:
        """What time it was when the host's monotonic clock said so."""
        since = (each for each in self._since if monotonic_s >= each[0])
        began_s, epoch_s = next(since, self._since[-1])
        return epoch_s + (monotonic_s - began_s) * self._speed

    def _follow(self, monotonic_s: float) -> None:
        """Compare with the time of day, and move there if that is ahead."""
        ahead_s = time.time() - self.of_monotonic(monotonic_s)
        if ahead_s > _OFF_S:
            # It happened at some moment since this was read last.
            moved = (self._read_s, self.of_monotonic(self._read_s) + ahead_s)
            self._since = (moved, *self._since[: _MOST_MOVES - 1])
            self.skipped_s += ahead_s
            _log.warning(
                "time goes on %.0f s later: the host was suspended, or its clock was set", ahead_s
            )
        elif ahead_s < -_OFF_S and not self._said_behind:
            self._said_behind = True
            _log.warning(
                "the host's clock was set back by %.0f s: hours and days are as they were before,"
                " until the daemon is restarted",
                -ahead_s,
            )

    async def sleep_until(self, at_s: float) -> None:
        """Wait until then."""
        while (left_s := at_s - self()) > 0:
            await asyncio.sleep(left_s / self._speed)


class VirtualClock:
    """Time that is moved by hand; who sleeps wakes in the order of time.

    Parameters
    ----------
    now_s:
        What it says at first.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s, self.skipped_s = now_s, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Set whenever somebody goes to sleep."""

    def __call__(self) -> float:
        """What time it is."""
        return self.now_s

    def of_monotonic(self, monotonic_s: float) -> float:
        """The same: there is no other time."""
        return monotonic_s

    async def sleep_until(self, at_s: float) -> None:
        """Wait until the clock is moved there; a time that has passed wakes at the next move."""
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (at_s, next(self._numbers), woken))
        self._changed.set()
        await woken

    async def advance(self, to_s: float) -> None:
        """Move to a time: who sleeps until then or earlier wakes, and is waited for.

        Each wakes by itself and has to go to sleep again, or `discard` itself, before the next.

        Raises
        ------
        InputError
            If time went back.
        """
        if to_s < self.now_s:
            raise InputError(f"time does not go back, from {self.now_s:g} s to {to_s:g} s")
        while self._sleepers and self._sleepers[0][0] <= to_s:
            at_s, _, woken = heapq.heappop(self._sleepers)
            self.now_s = max(self.now_s, at_s)
            if woken.done():
                continue  # cancelled meanwhile
            self._changed.clear()
            woken.set_result(None)
            await self._changed.wait()
        self.now_s = to_s

    def discard(self) -> None:
        """Somebody who was woken will not sleep again."""
        self._changed.set()
