"""The same trace against the real store: real bytes in DRAM and on SSD, in the order of the replay.

There is no GPU here, so the engine stays the simulated one. It keeps what it asks of DRAM and SSD
(`greencache.bench.engine_state.EVENT`), and that is then asked of a `TieredCache` on this machine,
with its clock at the time of the trace: acquire, read, store, release, resize. Every block that is
read is compared with what was stored, and every hit with the simulated one: they must be the same,
because index, policies and admission are.

Sizes are scaled: tiers have as many blocks as in the replay, each of fewer bytes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.live_result import LiveRun
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import prepare, steering_of
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.storage_prices import block_costs, block_prices, load_flops
from greencache.errors import InputError
from greencache.tiers import CacheLease, DramTier, SsdTier, TieredCache, TierIndex
from greencache.tiers.admission import Admission
from greencache.tiers.rules import CacheRules
from greencache.tiers.state import EVICTED, EVICTED_AGE_S, HELD, USED
from greencache.traces.requests import RequestTrace

__all__ = [
    "LIVE_BLOCK_BYTES",
    "Player",
    "new_cache",
    "note_written",
    "plans_to_play",
    "run_live",
    "run_live_plans",
    "trace_keys",
]

LIVE_BLOCK_BYTES = 64 << 10
"""Bytes of a block, if nothing else is said: 16 TB of a 70B model's KV are then 6 GB."""

_BATCHES_BETWEEN_REPORTS = 100


class TraceClock(Protocol):
    """The time of the trace, which is set by who plays it."""

    now_s: float

    def __call__(self) -> float:
        """The same."""


class _TraceClock:
    """The time of the trace."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _Contents:
    """What stands in each block: numbers that no other block has, so that any mix-up shows."""

    def __init__(self, block_bytes: int) -> None:
        self._words = np.arange(block_bytes // 8, dtype=np.uint64)

    def of(self, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Bytes of blocks, [blocks, block_bytes]."""
        first = (ids.astype(np.uint64) + np.uint64(1)) << np.uint64(32)
        return (first[:, None] + self._words).view(np.uint8)


def trace_keys(ids: NDArray[np.int32]) -> list[bytes]:
    """Keys for ids of the trace, which name whole prefixes as keys do."""
    raw = np.zeros((len(ids), 2), "<u8")
    raw[:, 0] = ids
    whole = raw.tobytes()
    return [whole[at : at + 16] for at in range(0, len(whole), 16)]


class Player:
    """Asks of a cache what the simulated engine asked.

    Parameters
    ----------
    trace:
        What the engine served.
    cache, hbm:
        The cache, and what stands for the engine's HBM.
    clock:
        Its clock, which is set to the time of each event.
    result:
        Where to note what came of it.
    """

    def __init__(
        self,
        trace: RequestTrace,
        cache: TieredCache,
        hbm: TierIndex,
        clock: TraceClock,
        result: LiveRun,
    ) -> None:
        self._trace, self._cache = trace, cache
        self._hbm, self._clock, self._result = hbm, clock, result
        self._contents = _Contents(cache.block_bytes)
        self._leases: dict[int, CacheLease] = {}
        self._queue_bytes = cache.write_queue_bytes

    async def play(self, event: np.void) -> CacheLease | None:
        """Do what an event says; returns what a request that starts was given.

        Sizes are not changed.
        """
        self._clock.now_s = float(event["now_s"])
        if event["kind"] == e.STARTED:
            return await self._start(event)
        if event["kind"] == e.STORED:
            await self._store(event)
        elif event["kind"] == e.PREEMPTED:
            self._cache.release(self._leases.pop(int(event["request"])))
        return None

    def ids(self, request: int) -> NDArray[np.int32]:
        """Full blocks of a prompt."""
        first = int(self._trace.block_starts[request])
        return self._trace.block_ids[first : first + int(self._trace.full_blocks[request])]

    def reusable(self, request: int) -> int:
        """Those of them that may hit."""
        return int(self._trace.reusable_blocks[request])

    async def _start(self, event: np.void) -> CacheLease:
        meta, weights = self._hbm.state.meta, self._hbm.state.weights
        meta[USED], meta[HELD] = event["hbm_used"], event["hbm_held"]
        meta[EVICTED], weights[EVICTED_AGE_S] = event["hbm_evicted"], event["hbm_evicted_age_s"]
        request, held = int(event["request"]), int(event["hbm_blocks"])
        ids = self.ids(request)
        lease = self._leases[request] = await self._cache.acquire(
            trace_keys(ids),
            held=held,
            reusable=self.reusable(request),
            learn=not event["again"],
        )
        result, found = self._result, lease.found_by_tier(held)
        result.starts += 1
        simulated = {"dram": int(event["dram_blocks"]), "ssd": int(event["ssd_blocks"])}
        result.different += found != simulated
        for tier, blocks in found.items():
            result.blocks_by_tier[tier] += blocks
        if len(lease) > held:
            into = np.empty((len(lease) - held, self._cache.block_bytes), np.uint8)
            began_s = time.perf_counter()
            good = await self._cache.read(lease, into, held)
            result.read_s += time.perf_counter() - began_s
            result.read_blocks += good
            expected = self._contents.of(ids[held : held + good])
            result.wrong_blocks += int((into[:good] != expected).any(axis=1).sum())
        return lease

    async def _store(self, event: np.void) -> None:
        ids = self.ids(int(event["request"]))
        self._cache.write_queue_bytes = -1 if event["dropped"] else self._queue_bytes
        blocks = self._contents.of(ids)
        began_s = time.perf_counter()
        await self._cache.store(trace_keys(ids), blocks)
        await self._cache.drain()
        self._result.store_s += time.perf_counter() - began_s
        self._cache.release(self._leases.pop(int(event["request"])))


async def _resize_as(cache: TieredCache, event: np.void) -> None:
    learner = cache.learner
    if learner is not None and learner.prices is not None:
        learner.prices = learner.prices._replace(wear_j=float(event["wear_j"]))
    await _resize(cache, int(event["dram_blocks"]), int(event["ssd_blocks"]))


async def _resize(cache: TieredCache, dram_blocks: int, ssd_blocks: int) -> None:
    dram, ssd = cache.dram, cache.ssd
    assert isinstance(dram, DramTier)
    assert isinstance(ssd, SsdTier)
    await cache.resize(dram=dram.bytes_for(dram_blocks), ssd=ssd.bytes_for(ssd_blocks))


def rules_of(setup: ReplaySetup, storage: StorageSetup) -> CacheRules:
    """What decides in the cache of a plan."""
    hardware = setup.hardware
    by_value = storage.admission is Admission.VALUE and storage.ssd_bytes > 0
    return CacheRules(
        policy=storage.policy,
        prices=block_prices(hardware, storage.prices) if by_value else None,
        endurance_per_s=storage.prices.endurance_per_s,
        **block_costs(hardware, load_flops(hardware, storage.prices)),
    )


def new_cache(
    setup: ReplaySetup, storage: StorageSetup, folder: Path, block_bytes: int, clock: TraceClock
) -> tuple[TieredCache, TierIndex]:
    """The cache of a plan, and what stands for the engine's HBM."""
    hbm = TierIndex(int(setup.hardware.kv_bytes // setup.hardware.layout.block_bytes))
    cache = rules_of(setup, storage).cache(
        block_bytes,
        ssd_path=folder,
        hbm=hbm,
        prefault=False,
        remembered_blocks=2**31 - 1,  # as the replay, which forgets none
        clock=clock,
    )
    return cache, hbm


async def run_live(
    setup: ReplaySetup,
    plan: Plan,
    *,
    folder: Path,
    block_bytes: int = LIVE_BLOCK_BYTES,
    on_progress: Callable[[float], None],
) -> LiveRun:
    """Play a plan against a real store.

    Parameters
    ----------
    setup:
        What the replay runs with, of one replica.
    plan:
        A plan that is run once: not one in hindsight.
    folder:
        An empty folder for what is on SSD.
    block_bytes:
        Bytes of a block, a multiple of 8.
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
    run = simulate(
        admitted,
        setup.hardware,
        storage,
        batching=setup.batching,
        steering=steering_of(setup, admitted, plan),
        keep_events=True,
    )
    clock = _TraceClock()
    cache, hbm = new_cache(setup, storage, folder, block_bytes, clock)
    result = LiveRun(plan.name, block_bytes)
    async with cache:
        block = setup.hardware.layout.block_bytes
        await _resize(cache, storage.dram_bytes // block, storage.ssd_bytes // block)
        player = Player(admitted, cache, hbm, clock, result)
        for place, event in enumerate(run.events):
            await player.play(event)
            if event["kind"] == e.RESIZED:
                await _resize_as(cache, event)
            if place % _BATCHES_BETWEEN_REPORTS == 0:
                on_progress(place / len(run.events))
        note_written(result, setup, run, cache)
    return result


def note_written(
    result: LiveRun, setup: ReplaySetup, run: SimulatedRun, cache: TieredCache
) -> None:
    """Note what both wrote, and what failed in the real tiers."""
    tiers = cache.stats().tiers
    result.written_blocks = tiers["ssd"].written_bytes // cache.block_bytes
    written_bytes = float(run.bins["written_bytes"].sum())
    result.simulated_written_blocks = round(written_bytes / setup.hardware.layout.block_bytes)
    for name, stats in tiers.items():
        for cause, count in stats.failures.items():
            result.failures[f"{name}: {cause}"] = count


class Steered(Protocol):
    """Plays a plan that is steered, as `run_live` does the others."""

    async def __call__(
        self,
        setup: ReplaySetup,
        plan: Plan,
        *,
        folder: Path,
        block_bytes: int,
        on_progress: Callable[[float], None],
    ) -> LiveRun:
        """As `run_live`."""


def plans_to_play(
    setup: ReplaySetup, plans: Sequence[Plan], *, folder: Path | None, block_bytes: int
) -> list[Plan]:
    """Plans that `run_live_plans` plays.

    Raises
    ------
    InputError
        If there is none to play, the block's size or the folder is none, or there are several
        replicas.
    """
    if setup.replicas != 1:
        raise InputError(f"--live plays one engine, not {setup.replicas} replicas")
    if folder is not None and not folder.is_dir():
        raise InputError(f"--live-dir {folder}: no such folder")
    if block_bytes < 8 or block_bytes % 8:
        raise InputError(f"a live block has a multiple of 8 bytes, not {block_bytes}")
    playable = [
        plan for plan in plans if not plan.hindsight and (plan.dram_bytes or plan.ssd_bytes)
    ]
    if not playable:
        raise InputError(
            "--live plays plans with DRAM or SSD and sizes known beforehand or controlled: full, "
            "static:SIZE, greencache"
        )
    return playable


def run_live_plans(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    *,
    folder: Path | None = None,
    block_bytes: int = LIVE_BLOCK_BYTES,
    on_progress: Callable[[str, float], None],
    steered: Steered | None = None,
) -> list[LiveRun]:
    """Play all plans that store anything, one after the other, each from an empty store.

    Parameters
    ----------
    folder:
        Where to make folders for what is on SSD, which are removed afterwards; the system's folder
        for temporary files by default.
    setup, plans, block_bytes, on_progress:
        As in `run_live`; of plans in hindsight none is played.
    steered:
        Plays those that are steered; if nothing is given, as the replay steered them.

    Raises
    ------
    InputError
        As `plans_to_play`.
    TierError
        If there is no room for the tiers here.
    """
    playable = plans_to_play(setup, plans, folder=folder, block_bytes=block_bytes)
    runs = []
    for plan in playable:
        with tempfile.TemporaryDirectory(prefix="greencache-live-", dir=folder) as made:
            report = partial(on_progress, f"{plan.name}, live")
            play = steered if plan.steered and steered is not None else run_live
            played = play(
                setup, plan, folder=Path(made) / "ssd", block_bytes=block_bytes, on_progress=report
            )
            runs.append(asyncio.run(played))
            report(1.0)
    return runs
