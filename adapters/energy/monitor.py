"""All meters of a host, read in time, and what each interval took by each of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from greencache.adapters.energy.base import Meter
from greencache.errors import SourceError
from greencache.waiting import stopped

__all__ = ["EnergyMonitor", "Taken"]

_LOG = logging.getLogger("greencache.adapters")

_MOST_W = 100_000.0
"""Ten times what a host of 8 H100 draws at most (DGX H100: 10.2 kW, NVIDIA's data sheet): more is a
mistake of units or of a counter."""

_ANSWER_S = 10.0
"""How long a reading is waited for, longer than for any page; then it has failed, and nothing more
is asked until it is over."""


class Taken(NamedTuple):
    """Energy of an interval.

    Attributes
    ----------
    joules:
        By component, of those that were measured.
    sources:
        What measured each of them.
    """

    joules: dict[str, float]
    sources: dict[str, str]


class _Read:
    """A meter, its last reading, and what of it has been handed out."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.joules: Mapping[str, float] = {}
        self.read_s: float | None = None
        self.taken: dict[str, float] = {}
        self.fresh = False
        """Whether there was a reading since energy was last handed out."""
        self.missed = False
        """Whether there was none in an interval that has passed."""
        self._asked: asyncio.Future[Mapping[str, float]] | None = None

    async def latest(self, now_s: float) -> Mapping[str, float]:
        """Joules of each component by now; raises `SourceError`, also if it takes too long."""
        if self._asked is None or self._asked.done():  # what came too late is of another time
            self._asked = asyncio.ensure_future(self._read(now_s))
            self._asked.add_done_callback(_seen)
            await asyncio.wait([self._asked], timeout=_ANSWER_S)
        if not self._asked.done():
            raise SourceError("slow", f"{self.meter.source} does not answer in {_ANSWER_S:g} s")
        return self._asked.result()

    async def _read(self, now_s: float) -> Mapping[str, float]:
        return await self.meter.read(now_s)

    async def close(self) -> None:
        """Wait for no reading any more, and close the meter."""
        if self._asked is not None:
            self._asked.cancel()
        await self.meter.close()

    def note(self, joules: Mapping[str, float], now_s: float, begin_s: float) -> None:
        """Take note of a reading, in an interval that began at ``begin_s``."""
        if self.read_s is None:
            self.taken = dict(joules)
        elif self.missed:
            # Something else stood for the time up to this interval: only its own share counts.
            share = (now_s - begin_s) / max(now_s - self.read_s, 1e-9)
            for component, now_j in joules.items():
                since_j = now_j - self.joules.get(component, 0.0)
                self.taken[component] = now_j - min(max(share, 0.0), 1.0) * since_j
        self.joules, self.read_s = joules, now_s
        self.fresh, self.missed = True, False


def _seen(read: asyncio.Future[Mapping[str, float]]) -> None:
    """A reading that came too late may have failed: that is nobody's any more."""
    read.cancelled() or read.exception()


class EnergyMonitor:
    """Reads meters in the background, as often as they need, and says what intervals took.

    What cannot be read is logged once, until it can be again, and counted. An interval in which a
    meter could not be read at all has no energy from it; what the meter shows of that time later
    is left out, as something else stood for it.

    Parameters
    ----------
    meters:
        Open ones, at most one for each component; they are closed with the monitor.
    sample_s:
        Time between two readings, if no meter needs them more often.
    clock:
        Seconds that meters which integrate power count in.
    """

    def __init__(
        self,
        meters: Sequence[Meter],
        *,
        sample_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures: Counter[str] = Counter()
        """How often a meter could not be read, by meter and kind."""
        self._reads = [_Read(meter) for meter in meters]
        self._clock, self._begin_s = clock, clock()
        self._sample_s = min([sample_s, *(meter.longest_s for meter in meters)])
        self._said: set[str] = set()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def sources(self) -> dict[str, str]:
        """What measures each component; those missing are modelled."""
        return {
            component: read.meter.source
            for read in self._reads
            for component in sorted(read.meter.components)
        }

    async def __aenter__(self) -> EnergyMonitor:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Read once, and go on in the background."""
        await self.take()
        self._task = asyncio.create_task(self._run(), name="energy meters")

    async def close(self) -> None:
        """Stop reading and close the meters."""
        task, self._task = self._task, None
        if task is not None:
            await stopped(task)
        for read in self._reads:
            await read.close()

    async def take(self) -> Taken:
        """Energy since the last call, or since it was opened; never raises."""
        await self.sample()
        taken = Taken({}, {})
        for read in self._reads:
            if not read.fresh:
                read.missed = True
                continue
            read.fresh = False
            for component, joules in read.joules.items():
                taken.joules[component] = joules - read.taken.get(component, 0.0)
                taken.sources[component] = read.meter.source
            read.taken = dict(read.joules)
        self._begin_s = self._clock()
        return taken

    async def sample(self) -> None:
        """Read all meters once; never raises."""
        async with self._lock:
            for read in self._reads:
                await self._read(read)

    async def _read(self, read: _Read) -> None:
        name = read.meter.source
        now_s = self._clock()
        try:
            joules = await read.latest(now_s)
        except SourceError as fault:
            self.failures[f"{name} {fault.kind}"] += 1
            if name not in self._said:
                self._said.add(name)
                _LOG.warning("energy: %s; instead: the power model", fault)
            return
        if name in self._said:
            self._said.discard(name)
            _LOG.info("energy: %s can be read again", name)
        self._leave_out_absurd(read, joules, now_s)
        read.note(joules, now_s, self._begin_s)

    def _leave_out_absurd(self, read: _Read, joules: Mapping[str, float], now_s: float) -> None:
        if read.read_s is None:
            return
        most_j = _MOST_W * max(now_s - read.read_s, 1.0)
        for component, now_j in joules.items():
            since_j = now_j - read.joules.get(component, 0.0)
            if since_j <= most_j:
                continue
            read.taken[component] = read.taken.get(component, 0.0) + since_j
            name = f"{read.meter.source} absurd"
            self.failures[name] += 1
            if name not in self._said:
                self._said.add(name)
                _LOG.warning(
                    "energy: %s says that %s took %.3g J in %.3g s, which is left out: is its"
                    " counter in joules?",
                    *(read.meter.source, component, since_j, now_s - read.read_s),
                )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._sample_s)
            await self.sample()
