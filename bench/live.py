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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import prepare, steering_of
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup, block_costs, block_prices, load_flops
from greencache.errors import InputError
from greencache.tiers import CacheLease, DramTier, KeyDirectory, SsdTier, TieredCache, TierIndex
from greencache.tiers.admission import Admission
from greencache.tiers.learning import Learner
from greencache.tiers.policies import Policy
from greencache.tiers.state import EVICTED, EVICTED_AGE_S, HELD, USED
from greencache.traces.requests import RequestTrace

__all__ = [
    "LIVE_BLOCK_BYTES",
    "LIVE_COLUMNS",
    "LiveRun",
    "plans_to_play",
    "run_live",
    "run_live_plans",
]

LIVE_BLOCK_BYTES = 64 << 10
"""Bytes of a block, if nothing else is said: 16 TB of a 70B model's KV are then 6 GB."""

LIVE_COLUMNS = (
    "plan",
    "starts",
    "with other hits",
    "blocks read",
    "wrong",
    "written to SSD",
    "simulated",
    "read GB/s",
    "same",
)

_BATCHES_BETWEEN_REPORTS = 100


@dataclass(slots=True)
class LiveRun:
    """What the real store did, and how that compares.

    Attributes
    ----------
    plan:
        The plan.
    block_bytes:
        Bytes of a block here.
    starts:
        How often a request asked for its prefix.
    different:
        In how many of these DRAM or SSD found another number of blocks than in the simulation.
    blocks_by_tier:
        Blocks found in each, beyond those before it, by the real store.
    read_blocks, wrong_blocks:
        Read and compared, and those of them that were not as stored.
    read_s, store_s:
        Time spent reading; and storing, until all was on SSD.
    written_blocks:
        Written to SSD, and by the simulation.
    failures:
        What went wrong in a tier, by cause.
    """

    plan: str
    block_bytes: int
    starts: int = 0
    different: int = 0
    blocks_by_tier: dict[str, int] = field(default_factory=lambda: {"dram": 0, "ssd": 0})
    read_blocks: int = 0
    wrong_blocks: int = 0
    read_s: float = 0.0
    store_s: float = 0.0
    written_blocks: int = 0
    simulated_written_blocks: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether the real store did as the simulated one, without a wrong byte."""
        written = self.written_blocks == self.simulated_written_blocks
        return self.different == self.wrong_blocks == 0 and written and not self.failures

    @property
    def read_bytes_per_s(self) -> float | None:
        """Bandwidth of reading; None if nothing was read."""
        return self.read_blocks * self.block_bytes / self.read_s if self.read_s else None

    def row(self) -> list[str]:
        """The same for a table, as `LIVE_COLUMNS` names it."""
        read = self.read_bytes_per_s
        return [
            self.plan,
            f"{self.starts:,}",
            f"{self.different:,}",
            f"{self.read_blocks:,}",
            f"{self.wrong_blocks:,}",
            f"{self.written_blocks:,}",
            f"{self.simulated_written_blocks:,}",
            "-" if read is None else f"{read / 1e9:.2f}",
            "yes" if self.same else "NO",
        ]

    def as_json(self) -> dict[str, Any]:
        """The entry of this run in ``live``."""
        return {
            "plan": self.plan,
            "block_bytes": self.block_bytes,
            "starts": self.starts,
            "starts_with_other_hits": self.different,
            "hit_blocks_by_tier": self.blocks_by_tier,
            "read_blocks": self.read_blocks,
            "wrong_blocks": self.wrong_blocks,
            "read_bytes_per_s": self.read_bytes_per_s,
            "store_s": self.store_s,
            "ssd_written_blocks": self.written_blocks,
            "ssd_written_blocks_simulated": self.simulated_written_blocks,
            "failures": self.failures,
            "same_as_simulated": self.same,
        }


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


def _keys(ids: NDArray[np.int32]) -> list[bytes]:
    """Keys for ids of the trace, which name whole prefixes as keys do."""
    raw = np.zeros((len(ids), 2), "<u8")
    raw[:, 0] = ids
    whole = raw.tobytes()
    return [whole[at : at + 16] for at in range(0, len(whole), 16)]


class _Player:
    """Asks of a cache what the simulated engine asked."""

    def __init__(
        self,
        trace: RequestTrace,
        run: SimulatedRun,
        cache: TieredCache,
        hbm: TierIndex,
        clock: _TraceClock,
        result: LiveRun,
    ) -> None:
        self._trace, self._run, self._cache = trace, run, cache
        self._hbm, self._clock, self._result = hbm, clock, result
        self._contents = _Contents(cache.block_bytes)
        self._leases: dict[int, CacheLease] = {}

    async def play(self, on_progress: Callable[[float], None]) -> None:
        """Everything, in its order."""
        events = self._run.events
        for place, event in enumerate(events):
            self._clock.now_s = float(event["now_s"])
            if event["kind"] == e.RESIZED:
                await self._resize(event)
            elif event["kind"] == e.STARTED:
                await self._start(event)
            elif event["kind"] == e.STORED:
                await self._store(event)
            else:
                self._cache.release(self._leases.pop(int(event["request"])))
            if place % _BATCHES_BETWEEN_REPORTS == 0:
                on_progress(place / len(events))

    def _ids(self, event: np.void) -> NDArray[np.int32]:
        request = self._run.requests[event["request"]]
        return self._trace.block_ids[request["first_id"] : request["end_id"]]

    async def _start(self, event: np.void) -> None:
        meta, weights = self._hbm.state.meta, self._hbm.state.weights
        meta[USED], meta[HELD] = event["hbm_used"], event["hbm_held"]
        meta[EVICTED], weights[EVICTED_AGE_S] = event["hbm_evicted"], event["hbm_evicted_age_s"]
        request, held = int(event["request"]), int(event["hbm_blocks"])
        ids = self._ids(event)
        lease = self._leases[request] = await self._cache.acquire(
            _keys(ids),
            held=held,
            reusable=int(self._run.requests[request]["reusable"]),
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

    async def _store(self, event: np.void) -> None:
        ids = self._ids(event)
        blocks = self._contents.of(ids)
        began_s = time.perf_counter()
        # What the simulated drive could not keep up with, this one shall not either.
        await self._cache.store(_keys(ids), blocks, save=not event["dropped"])
        await self._cache.drain()
        self._result.store_s += time.perf_counter() - began_s
        self._cache.release(self._leases.pop(int(event["request"])))

    async def _resize(self, event: np.void) -> None:
        learner = self._cache.learner
        if learner is not None and learner.prices is not None:
            learner.prices = learner.prices._replace(wear_j=float(event["wear_j"]))
        await _resize(self._cache, int(event["dram_blocks"]), int(event["ssd_blocks"]))


async def _resize(cache: TieredCache, dram_blocks: int, ssd_blocks: int) -> None:
    dram, ssd = cache.dram, cache.ssd
    assert isinstance(dram, DramTier)
    assert isinstance(ssd, SsdTier)
    await cache.resize(dram=dram.bytes_for(dram_blocks), ssd=ssd.bytes_for(ssd_blocks))


def _cache(
    setup: ReplaySetup, storage: StorageSetup, folder: Path, block_bytes: int, clock: _TraceClock
) -> tuple[TieredCache, TierIndex]:
    """The cache of a plan, and what stands for the engine's HBM."""
    hardware = setup.hardware
    ranks = storage.policy is Policy.CARBON
    by_value = storage.admission is Admission.VALUE and storage.ssd_bytes > 0
    learner = None
    if ranks or by_value:
        learner = Learner(
            block_prices(hardware, storage.prices) if by_value else None,
            endurance_per_s=storage.prices.endurance_per_s,
            ranks=ranks,
        )
    to_load = load_flops(hardware, storage.prices)
    directory = KeyDirectory()
    dram_index, ssd_index = (
        TierIndex(0, storage.policy, **block_costs(hardware, flops), learner=learner)
        for flops in (0.0, to_load)
    )
    hbm = TierIndex(int(hardware.kv_bytes // hardware.layout.block_bytes))
    dram = DramTier(
        block_bytes, 0, directory=directory, index=dram_index, clock=clock, prefault=False
    )
    ssd = SsdTier(folder, block_bytes, 0, directory=directory, index=ssd_index, clock=clock)
    cache = TieredCache(
        dram,
        ssd,
        learner=learner,
        hbm=hbm,
        # Candidates are drawn by their places, which the leases of writes behind would change.
        write_through=storage.policy is Policy.CARBON,
        flush_s=None,
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
    cache, hbm = _cache(setup, storage, folder, block_bytes, clock)
    result = LiveRun(plan.name, block_bytes)
    async with cache:
        block = setup.hardware.layout.block_bytes
        await _resize(cache, storage.dram_bytes // block, storage.ssd_bytes // block)
        await _Player(admitted, run, cache, hbm, clock, result).play(on_progress)
        tiers = cache.stats().tiers
    result.written_blocks = tiers["ssd"].written_bytes // block_bytes
    written_bytes = float(run.bins["written_bytes"].sum())
    result.simulated_written_blocks = round(written_bytes / setup.hardware.layout.block_bytes)
    for name, stats in tiers.items():
        for cause, count in stats.failures.items():
            result.failures[f"{name}: {cause}"] = count
    return result


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
) -> list[LiveRun]:
    """Play all plans that store anything, one after the other, each from an empty store.

    Parameters
    ----------
    folder:
        Where to make folders for what is on SSD, which are removed afterwards; the system's folder
        for temporary files by default.
    setup, plans, block_bytes, on_progress:
        As in `run_live`; of plans in hindsight none is played.

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
            played = run_live(
                setup, plan, folder=Path(made) / "ssd", block_bytes=block_bytes, on_progress=report
            )
            runs.append(asyncio.run(played))
            report(1.0)
    return runs
