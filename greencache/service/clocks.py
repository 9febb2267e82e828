"""Clocks that the controller runs on: the wall's, at its speed or faster, or one moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from typing import Protocol

from greencache.errors import InputError

__all__ = ["Clock", "VirtualClock", "WallClock"]


class Clock(Protocol):
    """Seconds since 1970 that do not go back, and a way to wait for them."""

    def __call__(self) -> float:
        """What time it is."""

    async def sleep_until(self, at_s: float) -> None:
        """Wait until then; to return later is no fault."""


class WallClock:
    """The time of day as it was when this was made, and since then by the monotonic clock.

    So it goes on evenly where the host's clock is set.

    Parameters
    ----------
    speed:
        Its seconds in each of the monotonic clock's: 3600 puts an hour into a second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise InputError(f"a clock goes at a speed above 0, not {speed}")
        self._speed = speed
        self._began_s, self._epoch_s = time.monotonic(), time.time()

    def __call__(self) -> float:
        """What time it is."""
        return self.of_monotonic(time.monotonic())

    def of_monotonic(self, monotonic_s: float) -> float:
        """What time it was when the host's monotonic clock said so."""
        return self._epoch_s + (monotonic_s - self._began_s) * self._speed

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
        self.now_s = now_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Set whenever somebody goes to sleep."""

    def __call__(self) -> float:
        """What time it is."""
        return self.now_s

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
