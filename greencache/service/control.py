"""``LiveControl``: the control loop inside the daemon, on real tiers.

Once a minute it notes what the tiers have, what was read and written, and what meters say: the
accounts. Once an interval it makes a telemetry window of that and of what clients and engines told,
shows it to the same `greencache.controller.assembly.Pilot` that the replay runs, resizes the tiers
as that decides, and lets admission weigh writes against the intensity that is expected.

Nothing that fails here harms serving. A model's fault, a provider that is down, a size that cannot
be had: it is said once, counted (`LiveControl.failures`), and the tiers stay as they are. Deciding
takes some milliseconds to a second and is done in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from greencache.controller.assembly import ControlledEngine, Course, Pilot
from greencache.controller.forecasts import Forecaster
from greencache.controller.lookout import IntensitySource
from greencache.controller.loop import Decision
from greencache.controller.naming import BlockNames
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Window
from greencache.errors import GreenCacheError, InputError, PlanningError
from greencache.service.accounts import Accounts
from greencache.service.clocks import Clock
from greencache.service.control_state import ControlState, read_state, write_state
from greencache.service.requests import Asked, Requests
from greencache.service.sources import EnergySource, EngineSource
from greencache.service.status import ControlStatus, status_of
from greencache.service.stores import Held, Store

__all__ = ["LiveControl", "Parts"]

_log = logging.getLogger("greencache.control")

MINUTE_S = 60.0
"""Between two entries of the accounts."""

USUAL_GCO2_PER_KWH = 480.0
"""What a write's wear is weighed against while nothing is known of the grid: the mean of the world
(Ember, Global Electricity Review 2024, for 2023)."""

_TRUSTED_S = 7 * 24 * 3600.0
"""Sizes that were decided longer ago say nothing any more."""


class Parts(NamedTuple):
    """What the loop is connected to.

    Attributes
    ----------
    store:
        What is sized.
    intensity:
        The grid.
    load:
        Forecasts the load, interval by interval.
    clock:
        Whose time everything is in, that of clients' requests too.
    energy:
        Meters; None to have energy modelled.
    engines:
        What engines say of themselves; None if nothing.
    state:
        File that keeps what is known over a restart; None for none.
    usual_gco2_per_kwh:
        What wear is weighed against while nothing is known of the grid.
    named_blocks:
        As for `greencache.controller.naming.BlockNames`.
    """

    store: Store
    intensity: IntensitySource
    load: Forecaster
    clock: Clock
    energy: EnergySource | None = None
    engines: EngineSource | None = None
    state: Path | None = None
    usual_gco2_per_kwh: float = USUAL_GCO2_PER_KWH
    named_blocks: int | None = None


class LiveControl:
    """Sizes the tiers of a store.

    Parameters
    ----------
    engine:
        What is controlled, of blocks as the store has them.
    parts:
        What the loop is connected to.
    sizes:
        What the tiers have when it begins.
    requests:
        What clients told so far; its own if nothing is given.
    """

    def __init__(
        self,
        engine: ControlledEngine,
        parts: Parts,
        sizes: Sizes,
        *,
        requests: Requests | None = None,
    ) -> None:
        self.engine = engine
        self.requests = requests or Requests(engine.slo)
        self.requests.block_tokens = engine.hardware.layout.block_tokens
        self.failures: Counter[str] = Counter()
        """How often what failed, by what it was."""
        self.decisions: list[Decision] = []
        """The last ones, the newest at the end."""
        self.accounts = Accounts(engine, parts.store.held())
        self.solve_s = 0.0
        """What the last decision took, on the host's clock."""
        self.window: Window | None = None
        """The last interval."""
        self._parts, self._clock = parts, parts.clock
        self._sizes = sizes
        usual = engine.prices(parts.usual_gco2_per_kwh)
        kept = self._read_state()
        decided_before = kept is not None and kept.decided
        if kept is not None and decided_before and kept.sizes in engine.candidates.pairs():
            self._sizes = kept.sizes
        self.pilot = Pilot(
            engine,
            parts.intensity,
            parts.load,
            self._sizes,
            usual=usual,
            decided_before=decided_before,
        )
        if kept is not None:
            self.pilot.controller.telemetry.extend(kept.windows)
            self.pilot.lookout.calibration = kept.calibration
        self._names = BlockNames(self.pilot.lookout.shadow, parts.named_blocks)
        now_s = self._clock()
        self._interval_began_s = now_s
        self._minute_began_s = now_s
        self._held = parts.store.held()
        """When the interval began."""
        self._gpu_j: float | None = 0.0
        """Of this interval so far; None if some of it was not measured."""
        self._gpu_source = "model"
        self._task: asyncio.Task[None] | None = None
        self._decided = decided_before

    # Running.

    async def __aenter__(self) -> LiveControl:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to run in the background."""
        self._task = asyncio.create_task(self.run(), name="control")

    async def close(self) -> None:
        """Stop, and keep what is known."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._guarded("accounts", self._account())
        await self._guarded("state", self._write_state())

    async def run(self) -> None:
        """Account and decide, for ever."""
        await self._guarded("resize", self._apply(self._sizes))
        while True:
            await self._clock.sleep_until(self._next_s())
            await self.tick()

    def _next_s(self) -> float:
        minute_s = (math.floor(self._minute_began_s / MINUTE_S) + 1) * MINUTE_S
        return min(minute_s, self._boundary_s())

    def _boundary_s(self) -> float:
        """When the interval ends: at a whole one since the clock's zero."""
        interval_s = self.engine.control.interval
        return (math.floor(self._interval_began_s / interval_s + 1e-9) + 1) * interval_s

    async def tick(self) -> None:
        """Do what is due. Never raises but when cancelled."""
        await self._guarded("accounts", self._account())
        boundary_s = self._boundary_s()
        if self._clock() >= boundary_s:
            await self._guarded("interval", self._end_interval(boundary_s))
            self._begin_interval(boundary_s)

    async def _guarded(self, what: str, work: Awaitable[None]) -> bool:
        """Do something that may fail; what failed is said once and counted."""
        try:
            await work
        except Exception as fault:
            self._failed(what, fault)
            return False
        return True

    def _failed(self, what: str, fault: Exception) -> None:
        if not self.failures[what]:
            expected = isinstance(fault, GreenCacheError | OSError)
            _log.warning(
                "control: %s failed, the tiers stay as they are: %s (counted from now on)",
                what,
                fault if expected else repr(fault),
                exc_info=None if expected else fault,
            )
        self.failures[what] += 1
