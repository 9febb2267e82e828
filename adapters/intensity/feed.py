"""Carbon intensity for the control loop: asked for in the background, answered from memory."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from greencache.adapters.intensity.base import Label, Provider
from greencache.adapters.intensity.cache import read_cache, write_cache
from greencache.controller.forecasts import Forecast
from greencache.controller.intensity import IntensityBook
from greencache.controller.telemetry import Window
from greencache.errors import SourceError
from greencache.quantities import DAY_S, HOUR_S
from greencache.waiting import stopped

__all__ = ["FeedReport", "IntensityFeed"]

_LOG = logging.getLogger("greencache.adapters")

_AGAIN_S = 48 * HOUR_S
"""How far back is asked again each time: values are revised for a day or two."""

_BACKFILLS = 3
"""How often the whole past is asked for while some of it is missing: a source may have less."""

_JITTER = 0.1
_FIRST_RETRY_S = 30.0
_WRITE_EVERY_S = 900.0


@dataclass(frozen=True)
class FeedReport:
    """How a feed stands.

    Attributes
    ----------
    label:
        What its series is.
    newest_s:
        End of the newest hour known, in seconds since 1970; -inf if none is.
    age_s:
        How long ago that was.
    hours:
        How many are known.
    fallback:
        What stands for what is not known; None if nothing has to.
    fallbacks:
        How many forecasts and intervals rested on each fallback.
    failures:
        How often the source failed, by kind.
    dropped:
        Values that cannot be true, in the source's last answers.
    refreshed_s:
        When the source last gave a good answer, in seconds since 1970; -inf if never.
    """

    label: Label
    newest_s: float
    age_s: float
    hours: int
    fallback: str | None
    fallbacks: dict[str, int]
    failures: dict[str, int]
    dropped: int
    refreshed_s: float


class IntensityFeed:
    """An `greencache.controller.lookout.IntensitySource` over a provider.

    `past` and `forecast` answer from memory and never fail or wait. `run` asks the provider now and
    then; what fails is counted by its kind and said once, until the provider is well again.

    Parameters
    ----------
    provider:
        Whom to ask.
    book:
        Keeps and checks what it says.
    refresh_s:
        Time between two questions; a tenth of it more or less, so that many hosts do not ask at
        the same moment.
    cache:
        File that keeps what is known; None for none.
    epoch_s:
        When the caller's clock was 0, in seconds since 1970; as the book's.
    clock:
        The caller's clock.
    sleep:
        Waits so many seconds of the caller's clock.
    """

    def __init__(
        self,
        provider: Provider,
        book: IntensityBook,
        *,
        refresh_s: float = 900.0,
        cache: Path | None = None,
        epoch_s: float = 0.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.failures: Counter[str] = Counter()
        """How often the provider or the file failed, by kind."""
        self._provider, self._book, self._cache = provider, book, cache
        self._refresh_s, self._epoch_s = refresh_s, epoch_s
        self._clock, self._sleep = clock, sleep
        self._task: asyncio.Task[None] | None = None
        self._said: set[str] = set()
        self._wrong: set[str] = set()
        """What was wrong in the last refresh."""
        self._fallback: str | None = None
        self._failed_in_a_row = 0
        self._backfills = _BACKFILLS
        self._refreshed_s = self._written_s = float("-inf")

    @property
    def label(self) -> Label:
        """What the series is."""
        return self._provider.label

    async def __aenter__(self) -> IntensityFeed:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Take up what was kept, and begin to ask in the background."""
        await self.take_up()
        self._task = asyncio.create_task(self._run(), name="carbon intensity")

    async def take_up(self) -> None:
        """Read the file that keeps what is known."""
        if self._cache is None:
            return
        try:
            kept = await asyncio.to_thread(read_cache, self._cache, self.label)
        except SourceError as fault:
            self._failure(fault)
        else:
            self._book.learn(kept, self._clock())

    async def close(self) -> None:
        """Stop asking, and keep what is known."""
        task, self._task = self._task, None
        if task is not None:
            await stopped(task)
        await self._keep()
        await self._provider.close()

    async def refresh(self) -> float:
        """Ask once; returns after how many seconds to ask again. Never raises."""
        now_s = self._clock()
        self._wrong.clear()
        try:
            await self._ask(now_s)
        except SourceError as fault:
            self._failure(fault)
            return self._retry_s(fault)
        except Exception as fault:
            # A provider's own mistake must not end the task that would notice the next answer.
            _LOG.debug("carbon intensity: %s", fault, exc_info=True)
            self._failure(SourceError("garbage", f"an answer of another form ({fault!r})"))
            return self._retry_s(None)
        self._refreshed_s = now_s + self._epoch_s
        if self._failed_in_a_row:
            _LOG.info("carbon intensity: %s answers again", self.label.source)
        self._failed_in_a_row = 0
        if now_s - self._written_s >= _WRITE_EVERY_S:
            await self._keep()
        self._said &= self._wrong  # what is well again is said anew the next time
        return self._refresh_s

    async def _ask(self, now_s: float) -> None:
        unix_s = now_s + self._epoch_s
        newest_s = self._book.knowledge(now_s).newest_s
        first_s = unix_s - self._provider.backfill_s
        since_s = max(newest_s - _AGAIN_S, first_s)
        if self._backfills and min(self._book.hours, default=math.inf) * HOUR_S > first_s + DAY_S:
            self._backfills -= 1
            since_s = first_s
        points = await self._provider.history(since_s, unix_s)
        dropped = self._book.learn(points, now_s)
        knowledge = self._book.knowledge(now_s)
        if dropped:
            self._failure(
                SourceError("absurd", f"{dropped} values of {self.label.source} cannot be true")
            )
        if knowledge.fallback is not None:
            raise SourceError(
                "stale", f"{self.label.source} has nothing newer than {_age(knowledge.age_s)}"
            )
        try:
            ahead = await self._provider.forecast(unix_s)
        except SourceError as fault:
            # The past is known all the same, and our own forecast follows from it.
            self._failure(SourceError(f"forecast {fault.kind}", str(fault)))
        else:
            if ahead is not None:
                self._book.learn_forecast(ahead, now_s)

    def past(self, window: Window) -> float:
        """As `greencache.controller.lookout.IntensitySource`."""
        return self._book.past(window)

    def reading(self, window: Window) -> float:
        """The same for whoever only looks: no fallback is counted."""
        return self._book.reading(window)

    def forecast(self, now_s: float, steps: int) -> Forecast:
        """As `greencache.controller.lookout.IntensitySource`."""
        self._say_fallback(now_s)
        return self._book.forecast(now_s, steps)

    def report(self) -> FeedReport:
        """How it stands."""
        knowledge = self._book.knowledge(self._clock())
        return FeedReport(
            self.label,
            knowledge.newest_s,
            knowledge.age_s,
            len(self._book.hours),
            knowledge.fallback,
            dict(self._book.fallbacks),
            dict(self.failures),
            self._book.dropped,
            self._refreshed_s,
        )

    def _say_fallback(self, now_s: float) -> None:
        knowledge = self._book.knowledge(now_s)
        if knowledge.fallback == self._fallback:
            return
        self._fallback = knowledge.fallback
        if knowledge.fallback is None:
            _LOG.info("carbon intensity of %s is known again", self.label.zone)
        else:
            _LOG.warning(
                "carbon intensity of %s: the newest value is %s; instead: %s",
                self.label.zone,
                _age(knowledge.age_s),
                _MEANING[knowledge.fallback],
            )

    def _failure(self, fault: SourceError) -> None:
        self.failures[fault.kind] += 1
        self._wrong.add(fault.kind)
        if fault.kind not in self._said:
            self._said.add(fault.kind)
            _LOG.warning("carbon intensity: %s", fault)

    def _retry_s(self, fault: SourceError | None) -> float:
        """Half a minute after a failure, then twice as long each time, or as long as told."""
        self._failed_in_a_row += 1
        doublings = min(self._failed_in_a_row - 1, 20)
        wait_s = min(_FIRST_RETRY_S * 2.0**doublings, self._refresh_s)
        if fault is not None and fault.retry_after_s is not None:
            return max(wait_s, fault.retry_after_s)
        return wait_s

    async def _keep(self) -> None:
        if self._cache is None:
            return
        self._written_s = self._clock()
        try:
            await asyncio.to_thread(write_cache, self._cache, self.label, dict(self._book.hours))
        except SourceError as fault:
            self._failure(fault)

    async def _run(self) -> None:
        while True:
            wait_s = await self.refresh()
            await self._sleep(wait_s * random.uniform(1 - _JITTER, 1 + _JITTER))


_MEANING = {
    "same hour": "the last known value of the same hour of a day",
    "recorded": "a recorded series of other years",
    "constant": "intensity.fallback_gco2_per_kwh",
}


def _age(age_s: float) -> str:
    return "missing" if age_s == float("inf") else f"{age_s / HOUR_S:.1f} hours old"
