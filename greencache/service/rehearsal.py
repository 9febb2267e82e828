"""The daemon's control loop on a recorded or composed load: simulated engine, real tiers.

``greencache replay --live`` with the plan ``greencache`` runs `LiveControl`, the class that the
daemon runs, on a virtual clock. The engine is the simulated one (`greencache.bench.engine`), and
all that it asks of DRAM and SSD is asked of a real cache with real bytes, in lock step: the time to
the next look is simulated and played, and then the loop looks, by what the engine's front end tells
of requests, what its meters and its page show, and what the real tiers did. As it decides, the
engine goes on.

The same load is replayed without any of that, by `greencache.bench.steering.Controlled`. Both have
to decide alike, at the same times and with the same words, to find the same blocks in each tier,
and to cost the same grams within a hundredth.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.accounting import account
from greencache.bench.live import Player, cache_of, note_written, trace_keys
from greencache.bench.live_result import LiveRun
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import prepare
from greencache.bench.simulation import BIN_S, SimulatedRun, simulate
from greencache.bench.steering import (
    Controlled,
    GridForecast,
    controlled_engine,
    earlier_loads,
    forecasters_of,
    storage_under,
)
from greencache.bench.storage import StorageSetup
from greencache.bench.windows import waiting_s, window_of
from greencache.client.messages import Seen
from greencache.controller.loop import Decision, look_s
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Window
from greencache.errors import BlockStateError
from greencache.service.clocks import VirtualClock
from greencache.service.control import LiveControl, Parts
from greencache.service.stores import CacheStore
from greencache.traces.requests import RequestTrace

__all__ = ["rehearse"]

_ENGINE = "simulated"

_ALL_BLOCKS = 2**31 - 1
"""As the replay, which forgets none."""


@dataclass(frozen=True, slots=True)
class _Taken:
    joules: Mapping[str, float]
    sources: Mapping[str, str] = field(default_factory=lambda: {"gpu": "simulated meter"})


class _Instruments:
    """Meters and page of the simulated engine: what it did up to now on the virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self.bins: NDArray[np.void] = np.zeros(0, e.BIN)
        self.window: Window | None = None
        """Of the interval that was simulated last."""
        self.backlog_s = 0.0
        """Work that waits."""
        self._clock, self._read = clock, 0

    async def take(self) -> _Taken:
        """As `greencache.service.sources.EnergySource`."""
        now = int(self._clock() / BIN_S + 1e-9)
        joules = float(self.bins["gpu_j"][self._read : now].sum())
        self._read = now
        return _Taken({"gpu": joules})

    async def window_of(self, told: Window) -> Window:
        """The interval as the simulation has it."""
        seen = self.window
        if seen is None or seen.start_s != told.start_s:
            first, last = (round(at_s / BIN_S) for at_s in (told.start_s, told.end_s))
            return replace(told, busy_s=float(self.bins["busy_s"][first:last].sum()))
        return replace(
            told,
            busy_s=seen.busy_s,
            prefill_tokens=seen.prefill_tokens,
            prefill_s=seen.prefill_s,
            prefill_j=seen.prefill_j,
            held_blocks=seen.held_blocks,
            backlog_s=seen.backlog_s,
        )


class _Page:
    """`_Instruments` as `greencache.service.sources.EngineSource`."""

    def __init__(self, instruments: _Instruments) -> None:
        self._instruments = instruments
        self.window = instruments.window_of

    async def waiting_s(self) -> float:
        """As simulated."""
        return self._instruments.backlog_s


class _FrontEnd:
    """Tells of requests as an engine's front end does: that they came, began to answer, ended."""

    def __init__(self, control: LiveControl, trace: RequestTrace, player: Player) -> None:
        self._requests, self._trace, self._player = control.requests, trace, player
        self._come = 0
        self._open: list[int] = []

    def tell(self, requests: NDArray[np.void], until_s: float) -> None:
        """All that there is to tell of requests that came before ``until_s``."""
        come = int(np.searchsorted(self._trace.arrival_s, until_s))
        for r in range(self._come, come):
            keys = b"".join(trace_keys(self._player.ids(r)))
            reusable = int(self._trace.reusable_blocks[r])
            arrived_s = float(self._trace.arrival_s[r])
            self._requests.prompt(_ENGINE, keys, arrived_s, request=r + 1, reusable=reusable)
            self._requests.seen(_ENGINE, self._seen(r, requests[r], first=True))
            self._open.append(r)
        self._come = come
        still_open = []
        for r in self._open:
            self._requests.seen(_ENGINE, self._seen(r, requests[r], first=False))
            if math.isnan(requests[r]["finish_s"]):
                still_open.append(r)
        self._open = still_open

    def _seen(self, r: int, request: np.void, *, first: bool) -> Seen:
        arrived_s, began_s = float(request["arrival_s"]), float(request["first_token_s"])
        finished_s, later = float(request["finish_s"]), int(request["output_tokens"]) - 1
        tokens = self._trace.block_tokens
        began = not math.isnan(began_s)
        ended = not math.isnan(finished_s)
        return Seen(
            arrived_s=arrived_s,
            prompt_tokens=int(request["input_tokens"]),
            output_tokens=int(request["output_tokens"]),
            ttft_s=began_s - arrived_s if began else None,
            tpot_s=(finished_s - began_s) / later if ended and later > 0 else None,
            hit_tokens={
                tier: int(request[f"{tier}_blocks"]) * tokens for tier in ("hbm", "dram", "ssd")
            }
            if began
            else {},
            started=first,
            ended=ended,
            request=r + 1,
        )


class _Rehearsal:
    """Steers the simulated engine by the daemon's control loop, in lock step."""

    def __init__(
        self,
        setup: ReplaySetup,
        plan: Plan,
        control: LiveControl,
        player: Player,
        front: _FrontEnd,
        instruments: _Instruments,
        clock: VirtualClock,
        on_played: Callable[[float], None],
    ) -> None:
        self.interval_s = setup.control.interval / setup.control.looks
        self.largest = Sizes(plan.dram_bytes, plan.ssd_bytes)
        self.decisions: list[Decision] = []
        self._setup, self._plan, self._control = setup, plan, control
        self._player, self._front, self._instruments = player, front, instruments
        self._clock, self._on_played = clock, on_played
        self._loop = asyncio.get_running_loop()
        self._storage = setup.storage(plan)
        self._looks = self._played = 0
        self._stopped = False

    async def run(self, admitted: RequestTrace, storage: StorageSetup) -> SimulatedRun:
        """Simulate in a thread, which waits while what it simulated is played here."""
        setup = self._setup
        try:
            run = await asyncio.to_thread(
                simulate,
                admitted,
                setup.hardware,
                storage,
                batching=setup.batching,
                steering=self,
                keep_events=True,
            )
        finally:
            self._stopped = True
        self._instruments.bins, self._instruments.backlog_s = run.bins, 0.0
        await self._play(run.events, math.inf)
        self._front.tell(run.requests, math.inf)
        await self._minutes_until(run.end_s, math.inf)
        self._clock.now_s = max(self._clock.now_s, run.end_s)
        return run

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """As `greencache.bench.simulation.Steering`; in the simulation's thread."""
        if self._stopped:
            raise BlockStateError("the rehearsal was given up")
        return asyncio.run_coroutine_threadsafe(self._steer(now_s, engines), self._loop).result()

    async def _steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """Play what was simulated, tell what is known of it, and let the loop look."""
        self._looks += 1
        control, setup = self._control, self._setup
        interval, look = divmod(self._looks, setup.control.looks)
        now_s = look_s(setup.control, interval, look)
        self._instruments.bins = engines.bins[0]
        self._instruments.backlog_s = waiting_s(engines)
        if look == 0:
            since_s = look_s(setup.control, interval - 1, 0)
            self._instruments.window = window_of(engines, since_s, now_s, setup.slo)
        await self._play(engines.events[0, : int(engines.counts[0, e.EVENTS])], now_s)
        await self._minutes_until(now_s, now_s)
        self._front.tell(engines.requests, now_s)
        # The engine is a step ahead of the look: what it does then is done by its clock.
        self._clock.now_s = max(self._clock.now_s, now_s, float(engines.clock[0, e.NOW_S]))
        before = control.decided
        await self._clock.advance(self._clock.now_s)
        self._end_warmup(now_s)
        if control.decided > before:
            decision = control.decisions[-1]
            self.decisions.append(decision)
            assert control.prices is not None
            self._storage = storage_under(setup, self._plan, decision.sizes, control.prices)
        elif look == 0:
            raise BlockStateError(f"no decision at {now_s:g} s: {dict(control.failures)}")
        self._on_played(now_s)
        return self._storage

    async def _play(self, events: NDArray[np.void], until_s: float) -> None:
        """Play events, each minute's accounts before what comes after it."""
        requests = self._control.requests
        for event in events[self._played :]:
            if event["kind"] == e.RESIZED:
                continue  # by the loop itself
            await self._minutes_until(float(event["now_s"]), until_s)
            lease = await self._player.play(event)
            if lease is not None and not event["again"]:
                r, held = int(event["request"]), int(event["hbm_blocks"])
                requests.acquired(
                    _ENGINE,
                    b"".join(trace_keys(self._player.ids(r))),
                    self._clock(),
                    request=r + 1,
                    held=held,
                    reusable=self._player.reusable(r),
                    found=lease.found_by_tier(held),
                )
        self._played = len(events)

    async def _minutes_until(self, at_s: float, ends_s: float) -> None:
        """Move the clock over whole minutes up to ``at_s``, but not to the interval's end."""
        while (minute_s := (self._clock.now_s // BIN_S + 1) * BIN_S) <= at_s and minute_s < ends_s:
            await self._clock.advance(minute_s)
            self._end_warmup(minute_s)

    def _end_warmup(self, minute_s: float) -> None:
        """Begin the accounts anew at the minute from which on the replay measures."""
        if minute_s == self._setup.warmup_s:
            self._control.account_anew()


async def rehearse(
    setup: ReplaySetup,
    plan: Plan,
    *,
    folder: Path,
    block_bytes: int,
    on_progress: Callable[[float], None],
) -> LiveRun:
    """Run the daemon's control loop on real tiers, and hold it against the replay.

    Parameters
    ----------
    setup, plan:
        What to replay, of one replica; a plan that is steered.
    folder:
        An empty folder for what is on SSD.
    block_bytes:
        Bytes of a block of the real tiers, a multiple of 8.
    on_progress:
        Called now and then with the share that is done.

    Raises
    ------
    InputError
        If the setup cannot be run.
    TierError
        If there is no room for the tiers here.
    """
    admitted, _ = prepare(setup)
    storage = setup.storage(plan)
    replayed = Controlled(setup, admitted, plan)
    expected = simulate(
        admitted, setup.hardware, storage, batching=setup.batching, steering=replayed
    )
    clock = VirtualClock()
    instruments = _Instruments(clock)
    cache, hbm = cache_of(setup, storage, folder, block_bytes, clock)
    result = LiveRun(plan.name, block_bytes)
    intensity, load = forecasters_of(setup, admitted, plan)
    async with cache:
        store = CacheStore(cache, setup.hardware.layout.block_bytes)
        await store.resize(storage.sizes)
        parts = Parts(
            store=store,
            intensity=GridForecast(setup, intensity, setup.control.interval),
            load=load,
            clock=clock,
            usual_gco2_per_kwh=setup.mean_gco2_per_kwh,
            energy=instruments,
            engines=_Page(instruments),
            named_blocks=_ALL_BLOCKS,
            earlier_loads=earlier_loads(setup),
        )
        control = LiveControl(controlled_engine(setup), parts, storage.sizes)
        # Numbered as the replay numbers them, in case that shadow caches sample.
        every = np.arange(admitted.unique_blocks, dtype=np.int32)
        control.names.ids(b"".join(trace_keys(every)), 0.0)
        player = Player(admitted, cache, hbm, clock, result)
        front = _FrontEnd(control, admitted, player)
        last_s = float(admitted.arrival_s[-1])
        rehearsal = _Rehearsal(
            setup,
            plan,
            control,
            player,
            front,
            instruments,
            clock,
            lambda now_s: on_progress(min(now_s / last_s, 1.0)),
        )
        async with control:
            await asyncio.sleep(0)  # until it sleeps
            run = await rehearsal.run(admitted, storage)
        note_written(result, setup, run, cache)
    result.failures.update({f"control: {what}": n for what, n in control.failures.items()})
    _compare(result, rehearsal.decisions, replayed.decisions)
    for tier in ("dram", "ssd"):
        replayed_blocks = int(expected.requests[f"{tier}_blocks"].sum(dtype=np.int64))
        result.different += (
            int(run.requests[f"{tier}_blocks"].sum(dtype=np.int64)) != replayed_blocks
        )
    grams = account(
        expected.bins,
        expected.end_s,
        setup.hardware,
        setup.factors,
        setup.gco2_per_kwh,
        sizes=expected.sizes,
        installed=setup.installed,
        start_s=setup.warmup_s,
    ).total_g(setup.scope)
    result.carbon_ratio = control.accounts.grams() / grams
    return result


def _compare(result: LiveRun, live: list[Decision], replayed: list[Decision]) -> None:
    """Note how many decisions differ: in time, sizes, or why."""
    said = [
        [(each.now_s, each.sizes, each.reason, each.fallback) for each in decisions]
        for decisions in (live, replayed)
    ]
    result.decisions = len(live)
    result.other_decisions = sum(a != b for a, b in zip(*said, strict=False))
    result.other_decisions += abs(len(live) - len(replayed))
