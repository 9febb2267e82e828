"""Live control on the wall clock, an hour in four seconds, while requests load and store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.catalog import Catalog
from greencache.client.messages import Seen
from greencache.controller.assembly import ControlledEngine, forecasters
from greencache.controller.forecasts import SeasonalNaive
from greencache.controller.intensity import IntensityBook, Points
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.factors import Factors
from greencache.quantities import HOUR_S
from greencache.service.clocks import WallClock
from greencache.service.control import LiveControl, Parts
from greencache.service.stores import CacheStore
from greencache.settings import ControlSettings
from greencache.tiers import Policy, TieredCache
from greencache.tiers.admission import Admission
from greencache.tiers.making import new_cache
from greencache.traces import RequestTrace
from greencache.traces.compose import compose
from greencache.traces.loads import LoadSeries

BLOCK_BYTES = 4096
DRAM_BLOCKS, SSD_BLOCKS, HBM_BLOCKS = 300, 500, 200
SPEED = 900.0
MOST_HOURS = 32
TTFT_S = 2.0
STARTS_S = 473_000 * HOUR_S
MOST_LEASED_BLOCKS = 60
"""Of requests that load or store at one moment."""


@pytest.fixture(scope="module")
def engine(hardware: ServingHardware, catalog: Catalog) -> ControlledEngine:
    """One with little HBM, and cheap storage: caching pays while the grid is dirty."""
    block = hardware.layout.block_bytes
    installed = Sizes(DRAM_BLOCKS * block, SSD_BLOCKS * block)
    cheap = {"ssd_kg_per_tb": 0.5, "dram_kg_per_gb": 0.02, "dram_w_per_gb": 0.01}
    return ControlledEngine(
        hardware=replace(hardware, kv_bytes=float(HBM_BLOCKS * block)),
        factors=Factors.of(catalog, hardware.gpu, cheap),
        slo=Slo(ttft_s=300.0, tpot_s=2.0, target=0.9),
        installed=installed,
        candidates=Candidates((0, installed.dram_bytes), (0, installed.ssd_bytes)),
        policy=Policy.LRU,
        admission=Admission.ALL,
        control=ControlSettings(interval=900.0, learn=900.0, horizon=2),
    )


@pytest.fixture(scope="module")
def trace() -> RequestTrace:
    """A load that rises for an hour and falls for one, again and again."""
    hill = np.tile([1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0], MOST_HOURS // 2)
    load = LoadSeries("hills", "made for a test", "none", 900.0, hill)
    return compose(
        "conversation", load, hours=MOST_HOURS, warmup_hours=0, mean_rate=0.07, seed=1
    ).trace


def memory_bytes() -> int:
    """What the kernel says of this process's memory files, each counted once."""
    files = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if "memfd:" in str(link.readlink()):
                status = link.stat()
                files[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue  # closed meanwhile
    return sum(files.values())


def disk_bytes(folder: Path) -> int:
    """What the filesystem says of the blocks' files."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("extent-*"))


class Measured(NamedTuple):
    """What holds at one moment, in blocks."""

    settled: bool
    """Whether the last decision was carried out."""
    planned: Sizes
    capacity: Sizes
    occupied: Sizes
    """Memory and disk, as the system counts."""


@dataclass
class Load:
    """Plays a trace as engines do: each request looks up, reads, computes, stores, tells."""

    cache: TieredCache
    control: LiveControl
    clock: WallClock
    trace: RequestTrace
    began_s: float
    read: int = 0
    wrong: int = 0
    errors: list[Exception] = field(default_factory=list)

    async def play(self, done: Callable[[], bool]) -> None:
        """Requests as they arrive, until there is enough."""
        async with asyncio.TaskGroup() as group:
            for r, arrival_s in enumerate(self.trace.arrival_s):
                await self.clock.sleep_until(self.began_s + float(arrival_s))
                if done() or self.errors:
                    return
                group.create_task(self.request(r))

    def keys(self, r: int) -> list[bytes]:
        first, full = int(self.trace.block_starts[r]), int(self.trace.full_blocks[r])
        return [int(i).to_bytes(16, "little") for i in self.trace.block_ids[first : first + full]]

    def blocks(self, keys: list[bytes]) -> NDArray[np.uint8]:
        """Bytes that say which block they are of."""
        words = [np.frombuffer(key * (BLOCK_BYTES // 16), np.uint8) for key in keys]
        return np.stack(words) if words else np.zeros((0, BLOCK_BYTES), np.uint8)

    async def request(self, r: int) -> None:
        try:
            await self._request(r)
        except Exception as fault:
            self.errors.append(fault)

    async def _request(self, r: int) -> None:
        arrived_s = self.began_s + float(self.trace.arrival_s[r])
        keys = self.keys(r)
        lease = await self.cache.acquire(keys, reusable=int(self.trace.reusable_blocks[r]))
        try:
            found = lease.found_by_tier(0)
            self.control.requests.acquired(
                "engine",
                b"".join(keys),
                self.clock(),
                request=r + 1,
                found=found,
                reusable=int(self.trace.reusable_blocks[r]),
            )
            into = np.empty((len(lease), BLOCK_BYTES), np.uint8)
            good = await self.cache.read(lease, into)
            self.read += good
            self.wrong += int((into[:good] != self.blocks(keys[:good])).any(axis=1).sum())
            await self.clock.sleep_until(arrived_s + TTFT_S)
            await self.cache.store(keys, self.blocks(keys))
        finally:
            self.cache.release(lease)
        self.control.requests.seen(
            "engine",
            Seen(
                arrived_s,
                int(self.trace.input_tokens[r]),
                int(self.trace.output_tokens[r]),
                TTFT_S,
                0.02,
                {tier: blocks * self.trace.block_tokens for tier, blocks in found.items()},
                request=r + 1,
            ),
        )


def grid(began_s: float) -> IntensityBook:
    """Every other hour dirty, for weeks; the coming hours as the days before."""
    book = IntensityBook(SeasonalNaive(24), 900.0, stale_s=6 * HOUR_S, constant_gco2_per_kwh=300.0)
    first = began_s // HOUR_S - 24 * 7
    rows = []
    for hour in range(24 * 7 + MOST_HOURS):
        start_s = (first + hour) * HOUR_S
        rows.append((start_s, start_s + HOUR_S, 900.0 if (first + hour) % 2 else 5.0))
    book.learn(Points.of(rows), began_s + MOST_HOURS * HOUR_S)
    return book


def changed(measured: list[Measured]) -> tuple[int, int]:
    """How often the SSD's planned size rose and fell."""
    planned = [each.planned.ssd_bytes for each in measured]
    pairs = list(itertools.pairwise(planned))
    return sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)


@pytest.mark.slow
def test_real_tiers_follow_the_plan_under_load(
    engine: ControlledEngine, trace: RequestTrace, tmp_path: Path
) -> None:
    block, folder = engine.hardware.layout.block_bytes, tmp_path / "ssd"
    measured: list[Measured] = []

    def enough() -> bool:
        grown, shrunk = changed(measured)
        full = max((each.occupied.ssd_bytes for each in measured[-20:]), default=0)
        return grown > 0 and shrunk > 1 and full > SSD_BLOCKS // 2

    async def main() -> tuple[LiveControl, Load]:
        clock = WallClock(SPEED, starts_s=STARTS_S)
        cache = new_cache(
            engine.rules(engine.prices(300.0)),
            BLOCK_BYTES,
            ssd_path=folder,
            prefault=False,
            clock=clock,
        )
        memory_before = memory_bytes()
        async with cache:
            store = CacheStore(cache, block)
            await store.resize(engine.installed)
            parts = Parts(
                store=store,
                intensity=grid(STARTS_S),
                load=forecasters(engine.control)[1],
                clock=clock,
                usual_gco2_per_kwh=300.0,
                state=tmp_path / "control.state",
            )
            control = LiveControl(engine, parts, engine.installed)
            load = Load(cache, control, clock, trace, STARTS_S)

            def blocks(sizes: Mapping[str, float], each: int) -> Sizes:
                return Sizes(*(round(sizes[name] / each) for name in ("dram", "ssd")))

            async def look() -> None:
                while True:
                    await asyncio.sleep(0.01)
                    occupied = {
                        "dram": memory_bytes() - memory_before,
                        "ssd": disk_bytes(folder),
                    }
                    planned = control.sizes._asdict()
                    latest = [each.sizes for each in control.decisions][-1:]
                    measured.append(
                        Measured(
                            latest == [control.sizes],
                            blocks({n: planned[f"{n}_bytes"] for n in occupied}, block),
                            blocks(store.held().capacity_bytes, block),
                            blocks(occupied, BLOCK_BYTES),
                        )
                    )

            async with control:
                looking = asyncio.create_task(look())
                await load.play(enough)
                looking.cancel()
        return control, load

    control, load = asyncio.run(main())
    assert load.errors == []
    assert load.wrong == 0
    assert load.read > 100
    assert control.failures == {}
    grown, shrunk = changed(measured)
    assert grown > 0, "sizes were to rise"
    assert shrunk > 1, "and to fall"
    settled = [each for each in measured if each.settled]
    assert len(settled) > 10
    assert all(each.capacity == each.planned for each in settled)
    for planned, same in itertools.groupby(settled, lambda each: each.planned):
        # They take no more than was planned: but for what is leased at the moment, and the records
        # of the SSD itself.
        of_tiers = zip(*(each.occupied for each in same), strict=True)
        for occupied, most in zip(of_tiers, planned, strict=True):
            assert np.median(occupied) <= most + MOST_LEASED_BLOCKS
            assert len(occupied) < 10 or min(occupied) <= most + 4
    assert max(each.occupied.dram_bytes for each in measured) > DRAM_BLOCKS // 2
    assert max(each.occupied.ssd_bytes for each in measured) > SSD_BLOCKS // 2
    assert (tmp_path / "control.state").stat().st_mode & 0o777 == 0o600
    assert sum(control.accounts.report().energy_kwh.values()) > 0
