"""``LiveControl``: the control loop inside the daemon, on real tiers.

Once a minute it notes what the tiers have, what was read and written, and what meters say: the
accounts. Once an interval it makes a telemetry window of that and of what clients and engines told,
shows it to the same `greencache.controller.assembly.Pilot` that the replay runs, resizes the tiers
as that decides, and lets admission weigh writes against the intensity that is expected. Within the
interval it asks engines now and then what work waits, and the pilot whether tiers have to grow.

Nothing that fails here harms serving. A model's fault, a provider that is down, a size that cannot
be had: it is said once, counted (`LiveControl.failures`), and the tiers stay as they are. Deciding
takes some milliseconds to a second and is done in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greencache.controller.assembly import ControlledEngine, Course, Pilot
from greencache.controller.forecasts import Forecaster
from greencache.controller.lookout import IntensitySource
from greencache.controller.loop import Decision
from greencache.controller.naming import BlockNames
from greencache.controller.prompts import Prompts
from greencache.controller.sizes import Sizes
from greencache.controller.storage_prices import StoragePrices
from greencache.controller.telemetry import Window
from greencache.durations import Durations
from greencache.errors import GreenCacheError
from greencache.service.accounts import Accounts
from greencache.service.clocks import Clock
from greencache.service.control_state import ControlState, read_state, write_state
from greencache.service.hbm import EnginePools
from greencache.service.requests import Requests
from greencache.service.schedule import Schedule
from greencache.service.sources import EnergySource, EngineSource
from greencache.service.stores import Store
from greencache.service.windows import Span, prompt_s_per_token, told_window
from greencache.waiting import stopped

__all__ = ["LiveControl", "Parts"]

_log = logging.getLogger("greencache.control")

MINUTE_S = 60.0
"""Between two entries of the accounts."""

KEPT_DECISIONS = 64

_TRUSTED_S = 7 * 24 * 3600.0
"""What was known longer ago says nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
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
    usual_gco2_per_kwh:
        What wear is weighed against while nothing is known of the grid.
    energy:
        Meters; None to have energy modelled.
    engines:
        What engines say of themselves; None if nothing.
    hbm:
        What they tell of their own memory.
    state:
        File that keeps what is known over a restart; None for none.
    named_blocks:
        As for `greencache.controller.naming.BlockNames`.
    earlier_loads:
        As for `greencache.controller.telemetry.Telemetry`.
    """

    store: Store
    intensity: IntensitySource
    load: Forecaster
    clock: Clock
    usual_gco2_per_kwh: float
    energy: EnergySource | None = None
    engines: EngineSource | None = None
    hbm: EnginePools = field(default_factory=EnginePools)
    state: Path | None = None
    named_blocks: int | None = None
    earlier_loads: NDArray[np.float64] | None = None


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
        self.engine, self._parts, self._clock = engine, parts, parts.clock
        self.requests = Requests(engine.slo) if requests is None else requests
        self.requests.block_tokens = engine.hardware.layout.block_tokens
        self.failures: Counter[str] = Counter()
        """How often what failed, by what it was."""
        self.decisions: deque[Decision] = deque(maxlen=KEPT_DECISIONS)
        """The last ones, the newest at the end."""
        self.decided = 0
        """How many there were."""
        self.grown = 0
        """How many of them were made within an interval, because work waited."""
        self.prices: StoragePrices | None = None
        """What storing costs since the last decision; None before it."""
        self.took = Durations()
        """How long each of them took, on the host's clock."""
        self.window: Window | None = None
        """The last interval."""
        self._held = parts.store.held()
        """What tiers had done when the interval began."""
        self.accounts = Accounts(engine, self._held)
        kept = self._kept()
        settled = kept is not None and kept.decided and kept.sizes in engine.candidates.pairs()
        settled = settled and not engine.control.dry_run
        self.sizes = kept.sizes if kept is not None and settled else sizes
        """What tiers should have."""
        self.pilot = Pilot(
            engine,
            parts.intensity,
            parts.load,
            self.sizes,
            usual=engine.prices(parts.usual_gco2_per_kwh),
            earlier_loads=parts.earlier_loads,
            decided_before=settled,
        )
        if kept is not None:
            self.pilot.controller.telemetry.extend(kept.windows)
            self.pilot.lookout.calibration = kept.calibration
        self.names = BlockNames(self.pilot.lookout.shadow, parts.named_blocks)
        self._settled = settled
        self._minute_began_s = self._clock()  # which may find that it was moved
        self._skipped_s = self._clock.skipped_s
        self.schedule = Schedule(engine.control, self._minute_began_s)
        self._gpu_j: float | None = 0.0
        """Of this interval so far; None if some of it was not measured."""
        self._token_s = 0.0
        """How long a prompt token that waits keeps an engine, as in the last interval."""
        self._gco2_per_kwh = parts.usual_gco2_per_kwh
        self._earlier: list[Callable[[BlockNames], Prompts]] = []
        """Prompts of before the first whole interval."""
        self._task: asyncio.Task[None] | None = None

    # Running.

    async def __aenter__(self) -> LiveControl:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Take up the sizes that held before a restart, and go on in the background."""
        if self._settled:
            await self._guarded("resize", self._parts.store.resize(self.sizes))
        await self._forget_earlier()
        self._task = asyncio.create_task(self._run(), name="control")

    async def _forget_earlier(self) -> None:
        """Read meters and pages once: what they counted so far is of before the accounts."""
        await self._metered()
        if self._parts.engines is not None:
            work = self._parts.engines.window(Window.empty(self._clock(), MINUTE_S))
            await self._guarded("engine", work)
        self._minute_began_s = self._now()

    async def close(self) -> None:
        """Stop, and keep what is known. Twice does nothing more."""
        task, self._task = self._task, None
        if task is None:
            return
        await stopped(task)
        await self._guarded("accounts", self._account())
        if (now_s := self._now()) > self.schedule.began_s:
            await self._guarded("interval", self._observe(now_s))
        await self._guarded("state", self._write_state())

    async def _run(self) -> None:
        while True:
            await self._clock.sleep_until(min(self._next_minute_s(), self.schedule.next_look_s))
            await self.tick()

    def _next_minute_s(self) -> float:
        return (math.floor(self._minute_began_s / MINUTE_S) + 1) * MINUTE_S

    def _now(self) -> float:
        """What time it is. What began before the clock was moved forward is moved with it.

        So neither minutes nor intervals last longer than they did.
        """
        now_s, skipped_s = self._clock(), self._clock.skipped_s - self._skipped_s
        if skipped_s > 0:
            self._skipped_s += skipped_s
            self._minute_began_s += skipped_s
            self.schedule.skip(skipped_s)
        return now_s

    async def tick(self) -> None:
        """Do what is due. Raises nothing but when it is cancelled."""
        if self._now() >= min(self._next_minute_s(), self.schedule.ends_s):
            await self._guarded("accounts", self._account())
        now_s, ends_s = self._now(), self.schedule.ends_s
        if now_s >= ends_s:
            until_s = now_s if self.schedule.slept(now_s) else ends_s
            await self._guarded("interval", self._end_interval(until_s))
            self.schedule.next_interval(now_s)
            self._held, self._gpu_j = self._parts.store.held(), 0.0
        elif (at_s := self.schedule.looked(now_s)) is not None:
            await self._guarded("look", self._look(at_s))

    async def _guarded(self, what: str, work: Awaitable[object]) -> None:
        """Do something that may fail."""
        try:
            await work
        except Exception as fault:  # whatever it is, serving goes on
            self._failed(what, fault)

    def _failed(self, what: str, fault: Exception) -> None:
        """Say it once, and count it."""
        self.failures[what] += 1
        if self.failures[what] == 1:
            expected = isinstance(fault, GreenCacheError | OSError)
            _log.warning(
                "%s failed, the tiers stay as they are: %s; counted from now on",
                what,
                fault if expected else repr(fault),
                exc_info=None if expected else fault,
            )

    def account_anew(self) -> None:
        """Begin the accounts again, from now on."""
        self.accounts = Accounts(self.engine, self._parts.store.held())

    # What has happened.

    async def _account(self) -> None:
        """Enter the time since the last entry."""
        now_s, since_s = self._now(), self._minute_began_s
        if now_s <= since_s:
            return
        self._minute_began_s = now_s
        joules, sources = await self._metered()
        if "gpu" not in joules:
            self._gpu_j = None
        elif self._gpu_j is not None:
            self._gpu_j += joules["gpu"]
        gco2 = self._intensity_of(Window.empty(since_s, now_s - since_s))
        held = self._parts.store.held()
        self.accounts.minute(now_s - since_s, gco2, held, joules, sources)

    async def _metered(self) -> tuple[dict[str, float], dict[str, str]]:
        """What meters say of the time since they were asked; nothing if they cannot be read."""
        if self._parts.energy is not None:
            try:
                taken = await self._parts.energy.take()
                return dict(taken.joules), dict(taken.sources)
            except Exception as fault:
                self._failed("energy", fault)
        return {}, {}

    def _intensity_of(self, window: Window) -> float:
        """The grid's, or what it was last known to be."""
        try:
            self._gco2_per_kwh = self._parts.intensity.past(window)
        except Exception as fault:
            self._failed("intensity", fault)
        return self._gco2_per_kwh

    async def _observe(self, ends_s: float) -> tuple[Window, Callable[[BlockNames], Prompts]]:
        """What the interval was, up to ``ends_s``, which goes into the accounts."""
        began_s, held = self.schedule.began_s, self._parts.store.held()
        kept = self._parts.hbm.take_kept()
        asked, prompts = await self.requests.take(began_s, ends_s)
        self._token_s = prompt_s_per_token(self.engine, asked) or self._token_s
        waits_s = self._told_waiting_s() or 0.0
        span = Span(began_s, ends_s - began_s, self._held, held, self._gpu_j, kept, waits_s)
        window = told_window(self.engine, asked, span)
        if self._parts.engines is not None:
            try:
                window = await self._parts.engines.window(window)
            except Exception as fault:
                self._failed("engine", fault)
        gco2 = self._intensity_of(window)
        self.accounts.interval(span.duration_s, gco2, window.gpu_j, window.busy_s)
        self.window = window
        return window, prompts

    async def _end_interval(self, until_s: float) -> None:
        """Account what was, and if it was a whole interval, decide what is next.

        If the daemon began in its middle or slept through its end, sizes hold until there was one.
        """
        window, prompts = await self._observe(until_s)
        self._earlier = [*self._earlier[-1:], prompts]  # of one before, at the most
        if not self.schedule.is_whole(until_s):
            _log.info("sizes hold: what was seen of the last interval is not the whole of it")
            return
        await self._follow(await asyncio.to_thread(self._steer, window, self._earlier))

    async def _look(self, now_s: float) -> None:
        """Ask engines what work waits, and grow the tiers if that is called for."""
        waits_s = await self._waiting_s()
        if waits_s is None:
            return
        held = self._parts.store.held()
        content_bytes = held.used_bytes.get("ssd", 0.0) / self.engine.replicas
        course = await asyncio.to_thread(self._react, now_s, content_bytes, waits_s)
        if course is not None:
            self.grown += 1
            await self._guarded("accounts", self._account())  # of the sizes until now
            await self._follow(course)

    async def _waiting_s(self) -> float | None:
        """Work that waits now; None if nobody knows."""
        told_s = self._told_waiting_s()
        if told_s is not None or self._parts.engines is None:
            return told_s
        try:
            return await self._parts.engines.waiting_s()
        except Exception as fault:
            self._failed("engine", fault)
            return None

    def _told_waiting_s(self) -> float | None:
        """What engines tell that waits."""
        tokens = self._parts.hbm.waiting_tokens()
        return None if tokens is None else tokens * self._token_s

    # What is done about it.

    def _steer(self, window: Window, prompts: list[Callable[[BlockNames], Prompts]]) -> Course:
        """Show the pilot an interval; in a thread."""
        self._earlier = []
        began_s = time.perf_counter()
        asked = Prompts.none()
        for made in prompts:
            asked = asked.followed_by(made(self.names))
        course = self.pilot.steer(window, asked)
        self.names.forget()
        self.took.add(time.perf_counter() - began_s)
        return course

    def _react(self, now_s: float, content_bytes: float, waits_s: float) -> Course | None:
        """Show the pilot what waits; in a thread."""
        began_s = time.perf_counter()
        course = self.pilot.react(now_s, content_bytes, waits_s)
        if course is not None:
            self.took.add(time.perf_counter() - began_s)
        return course

    async def _follow(self, course: Course) -> None:
        """Make of a decision what the tiers have."""
        decision = course.decision
        self.decisions.append(decision)
        self.decided += 1
        self.prices = course.prices
        for notice in decision.notices:
            _log.warning("%s; counted from now on", notice)
        _log.info("%s", decision.reason)
        self._parts.store.charge(self.engine.storing(course.prices).prices)
        if not self.engine.control.dry_run:
            try:
                await self._parts.store.resize(decision.sizes)
                self.sizes = decision.sizes
                self._settled = self._settled or decision.fallback != "learning"
            except Exception:
                self.pilot.controller.sizes = self.sizes  # it would take others for the present
                raise
        await self._write_state()

    # What outlasts the daemon.

    def _kept(self) -> ControlState | None:
        """What an earlier daemon knew."""
        path, control = self._parts.state, self.engine.control
        if path is None:
            return None
        try:
            kept = read_state(path, self.name, control.interval)
        except Exception as fault:
            self._failed("state", fault)
            return None
        if kept is None or not 0 <= self._clock() - kept.saved_s <= _TRUSTED_S:
            return None
        # A clock that was set back, or another phase of intervals, would not go on from these.
        kept.windows = [each for each in kept.windows if each.end_s <= self._clock()]
        return kept

    async def _write_state(self) -> None:
        path = self._parts.state
        if path is not None:
            state = ControlState(
                self.name,
                self.engine.control.interval,
                self._clock(),
                self.sizes,
                self._settled,
                self.pilot.lookout.calibration,
                self.pilot.controller.telemetry.windows,
            )
            await asyncio.to_thread(write_state, path, state)

    @property
    def name(self) -> str:
        """What is controlled, as far as telemetry of it depends on that."""
        hardware = self.engine.hardware
        return f"{hardware.model.name} on {hardware.name}, {hardware.layout.block_tokens} tokens"
