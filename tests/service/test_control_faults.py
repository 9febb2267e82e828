"""Whatever fails in the control loop: the tiers stay, it is said once, it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from greencache.catalog import Catalog
from greencache.client.messages import Hbm, Seen
from greencache.controller.assembly import ControlledEngine, Pilot, forecasters
from greencache.controller.calibration import Calibration
from greencache.controller.forecasts import SeasonalNaive
from greencache.controller.intensity import IntensityBook
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Window
from greencache.errors import StorageError
from greencache.factors import Factors
from greencache.service.clocks import VirtualClock
from greencache.service.control import LiveControl, Parts
from greencache.service.control_state import ControlState, read_state, write_state
from greencache.service.hbm import EnginePools
from greencache.service.stores import CacheStore
from greencache.settings import ControlSettings
from greencache.tiers import Policy, TieredCache
from greencache.tiers.admission import Admission
from greencache.tiers.making import new_cache

BLOCK_BYTES = 4096
INTERVAL_S = 600.0


@pytest.fixture(scope="module")
def engine(hardware: ServingHardware, catalog: Catalog) -> ControlledEngine:
    block = hardware.layout.block_bytes
    return ControlledEngine(
        hardware=replace(hardware, kv_bytes=float(64 * block)),
        factors=Factors.of(catalog, hardware.gpu),
        slo=Slo(ttft_s=2.0, tpot_s=0.2, target=0.9),
        installed=Sizes(16 * block, 32 * block),
        candidates=Candidates((0, 16 * block), (0, 32 * block)),
        policy=Policy.LRU,
        admission=Admission.VALUE,
        control=ControlSettings(interval=INTERVAL_S, learn=INTERVAL_S, horizon=2),
    )


@dataclass
class Meter:
    """A GPU at 200 W, as long as it can be read."""

    clock: VirtualClock
    broken: bool = False
    read_s: float = 0.0

    async def take(self) -> Meter:
        if self.broken:
            raise OSError("no such meter")
        return self

    @property
    def joules(self) -> Mapping[str, float]:
        now_s, self.read_s = self.clock(), self.clock()
        return {"gpu": 200.0 * 60.0 if now_s else 0.0}

    sources: Mapping[str, str] = field(default_factory=lambda: {"gpu": "a meter"})


@dataclass
class Page:
    """An engine's page by which a minute of work waits, as long as it can be read."""

    clock: VirtualClock
    broken: bool = False
    asked_s: list[float] = field(default_factory=list)

    async def window(self, told: Window) -> Window:
        return told

    async def waiting_s(self) -> float:
        self.asked_s.append(self.clock())
        if self.broken:
            raise OSError("no such page")
        return 60.0


class Running:
    """A loop on a virtual clock over real tiers, with requests in every interval."""

    def __init__(self, engine: ControlledEngine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.clock = VirtualClock()
        self.meter = Meter(self.clock)
        self.page = Page(self.clock)
        self.intensity = IntensityBook(
            SeasonalNaive(24), INTERVAL_S, stale_s=1e9, constant_gco2_per_kwh=300.0
        )
        self.cache: TieredCache = new_cache(
            engine.rules(engine.prices(300.0)),
            BLOCK_BYTES,
            ssd_path=folder / "ssd",
            prefault=False,
            clock=self.clock,
        )
        self.store = CacheStore(self.cache, engine.hardware.layout.block_bytes)
        self.parts = Parts(
            store=self.store,
            intensity=self.intensity,
            load=forecasters(engine.control)[1],
            clock=self.clock,
            usual_gco2_per_kwh=300.0,
            energy=self.meter,
            engines=self.page,
            state=folder / "state",
        )
        self.requests = 0

    async def __aenter__(self) -> LiveControl:
        await self.cache.__aenter__()
        await self.store.resize(self.engine.installed)
        self.control = LiveControl(self.engine, self.parts, self.engine.installed)
        await self.control.start()
        await asyncio.sleep(0)
        return self.control

    async def intervals(self, count: int, requests: int = 20) -> None:
        for _ in range(count):
            began_s = self.clock()
            for place in range(requests):
                await self._request(began_s + 1.0 + place)
            while self.clock() < began_s + INTERVAL_S:
                await self.clock.advance(self.clock() + 60.0)

    async def _request(self, at_s: float) -> None:
        self.requests += 1
        keys = [bytes([self.requests % 5, block]) * 8 for block in range(6)]
        lease = await self.cache.acquire(keys)
        found = lease.found_by_tier(0)
        self.cache.release(lease)
        await self.cache.store(keys, np.zeros((6, BLOCK_BYTES), np.uint8))
        told = self.control.requests
        told.acquired("a", b"".join(keys), at_s, request=self.requests, found=found)
        told.seen("a", Seen(at_s, 6 * 512 + 9, 30, 0.2, 0.01, request=self.requests))

    async def __aexit__(self, *_: object) -> None:
        await self.control.close()
        await self.cache.close()

    def sizes(self) -> Sizes:
        has = self.store.held().capacity_bytes
        return Sizes(int(has["dram"]), int(has["ssd"]))


def said(caplog: pytest.LogCaptureFixture, what: str) -> int:
    return sum(what in record.getMessage() for record in caplog.records)


async def test_a_loop_that_is_well_sizes_tiers_and_measures_energy(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(4)
    assert control.failures == {}
    assert control.decided == 4
    assert control.sizes in engine.candidates.pairs()
    carbon = control.accounts.report()
    assert carbon.energy_kwh["gpu"] == pytest.approx(200 * 4 * INTERVAL_S / 3.6e6)
    assert control.accounts.sources["gpu"] == "a meter"
    assert control.accounts.seconds == 4 * INTERVAL_S


async def test_a_model_s_fault_leaves_the_tiers(
    engine: ControlledEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(2)
        before = running.sizes()
        steer = Pilot.steer

        def broken(self: Pilot, *_: object) -> None:
            raise ZeroDivisionError("a model's fault")

        with monkeypatch.context() as patched:
            patched.setattr(Pilot, "steer", broken)
            await running.intervals(3)
        assert running.sizes() == before == control.sizes
        assert control.failures == {"interval": 3}
        assert said(caplog, "a model's fault") == 1
        assert Pilot.steer is steer
        await running.intervals(2)
        assert control.failures == {"interval": 3}, "it goes on"
        assert control.decided == 4


async def test_a_grid_that_cannot_be_had_leaves_the_tiers(
    engine: ControlledEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(2)
        before = running.sizes()

        def down(*_: object) -> None:
            raise ConnectionError("the provider is down")

        for name in ("forecast", "past"):
            monkeypatch.setattr(IntensityBook, name, down)
        await running.intervals(2)
        assert running.sizes() == before
        assert control.failures == {"interval": 2, "intensity": 2 + 20}
        assert said(caplog, "the provider is down") == 2
        assert control.accounts.seconds == 4 * INTERVAL_S, "at what it was last known to be"


async def test_a_size_that_cannot_be_had_leaves_the_tiers(
    engine: ControlledEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:

        async def full(self: CacheStore, sizes: Sizes) -> None:
            raise StorageError("ssd", "no space left on the device")

        with monkeypatch.context() as patched:
            patched.setattr(CacheStore, "resize", full)
            await running.intervals(3)
        assert (
            running.sizes() == engine.installed == control.sizes == control.pilot.controller.sizes
        )
        assert control.failures == {"interval": 3}
        assert said(caplog, "no space left") == 1
        assert control.decided == 3
        await running.intervals(1)
        assert running.sizes() == control.sizes == control.decisions[-1].sizes


@dataclass
class Counts:
    """A GPU at 1 kW and an engine that computes, both for as long as the clock goes."""

    clock: VirtualClock
    read_s: float = 0.0
    looked_s: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)
    joules: Mapping[str, float] = field(default_factory=dict)

    async def take(self) -> Counts:
        self.joules = {"gpu": 1000.0 * (self.clock() - self.read_s)}
        self.read_s = self.clock()
        return self

    async def window(self, told: Window) -> Window:
        busy_s, self.looked_s = self.clock() - self.looked_s, self.clock()
        return replace(told, busy_s=busy_s)

    async def waiting_s(self) -> float:
        return 0.0


async def test_what_was_counted_before_the_loop_began_is_not_accounted(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    running.clock.now_s = 2 * 86_400.0  # until an engine of this kind came
    counts = Counts(running.clock)
    running.parts = replace(running.parts, energy=counts, engines=counts)
    async with running as control:
        await running.intervals(1)
        carbon, window = control.accounts.report(), control.window
        assert carbon.energy_kwh["gpu"] * 3.6e6 == pytest.approx(1000.0 * INTERVAL_S)
        assert window is not None
        assert window.busy_s == INTERVAL_S


async def test_a_meter_that_fails_is_stood_in_for_by_the_model(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(1)
        metered = control.accounts.report().energy_kwh["gpu"]
        running.meter.broken = True
        await running.intervals(1)
        assert control.failures == {"energy": 10}
        assert control.accounts.sources["gpu"] == "model"
        modelled_w = (control.accounts.report().energy_kwh["gpu"] - metered) * 3.6e6 / INTERVAL_S
        idle_w = engine.hardware.rates.idle_w
        assert idle_w < modelled_w < 2 * idle_w, "20 prompts in ten minutes are little"
        running.meter.broken = False
        await running.intervals(1)
        assert control.accounts.sources["gpu"] == "a meter"
        assert control.decided == 3


async def test_engines_are_asked_within_intervals_what_waits(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(2)
        looks = [100.0, 200.0, 300.0, 400.0, 500.0]
        assert running.page.asked_s == [*looks, *(INTERVAL_S + at for at in looks)]
        assert control.accounts.seconds == 2 * INTERVAL_S
        assert control.decided == 2, "HBM holds all that is asked for: nothing has to grow"


async def test_what_engines_tell_that_waits_needs_no_page(
    engine: ControlledEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []

    def react(self: Pilot, now_s: float, content_bytes: float, backlog_s: float) -> None:
        looked.append(backlog_s)

    monkeypatch.setattr(Pilot, "react", react)
    running = Running(engine, tmp_path)
    running.parts = replace(running.parts, engines=None, hbm=EnginePools(running.clock))
    async with running as control:
        await running.intervals(1)
        assert looked == [], "nobody tells"
        window = control.window
        assert window is not None
        assert window.backlog_s == 0.0
        for tokens in (1000, 3000):
            await running.clock.advance(control.schedule.next_look_s - 1.0)
            running.parts.hbm.told("an engine", Hbm(BLOCK_BYTES, 64, 0, 0, waiting_tokens=tokens))
            await running.clock.advance(control.schedule.next_look_s)
        thousand_s, more_s = looked
        rates = engine.hardware.rates
        assert thousand_s > 1000 * rates.flops_per_token / rates.flops_per_s, "attention counts"
        assert more_s == pytest.approx(3 * thousand_s)


async def test_a_page_that_fails_within_an_interval_leaves_the_tiers(
    engine: ControlledEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        running.page.broken = True
        await running.intervals(2)
        assert control.failures == {"engine": 10}
        assert said(caplog, "no such page") == 1
        assert control.decided == 2


async def test_a_model_s_fault_within_an_interval_leaves_the_tiers(
    engine: ControlledEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(1)
        before = running.sizes()

        def broken(self: Pilot, *_: object) -> None:
            raise ZeroDivisionError("a model's fault")

        monkeypatch.setattr(Pilot, "react", broken)
        await running.intervals(2)
        assert control.failures == {"look": 10}
        assert said(caplog, "a model's fault") == 1
        assert control.decided == 3
        assert running.sizes() == before == control.sizes


async def test_who_may_only_advise_changes_nothing(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    advising = replace(engine, control=engine.control.model_copy(update={"dry_run": True}))
    running = Running(advising, tmp_path)
    async with running as control:
        await running.intervals(4)
        assert running.sizes() == engine.installed
        assert any(each.advised != each.sizes for each in control.decisions)


async def test_who_may_only_advise_takes_over_no_sizes_and_hands_none_on(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    advising = replace(engine, control=engine.control.model_copy(update={"dry_run": True}))
    running = Running(advising, tmp_path)
    name = LiveControl(advising, running.parts, advising.installed).name
    decided = ControlState(name, INTERVAL_S, 0.0, Sizes(0, 0), True, Calibration(), [])
    write_state(tmp_path / "state", decided)
    async with running:
        assert running.sizes() == engine.installed
        await running.intervals(3)
        assert running.sizes() == engine.installed
    kept = read_state(tmp_path / "state", name, INTERVAL_S)
    assert kept is not None
    assert (kept.sizes, kept.decided) == (engine.installed, False)


async def test_a_damaged_file_is_ignored_and_counted(
    engine: ControlledEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_bytes(b"GCctl\x00\x00\x01" + bytes(40))
    running = Running(engine, tmp_path)
    async with running as control:
        assert control.failures == {"state": 1}
        assert said(caplog, "damaged") == 1
        await running.intervals(2)
        assert control.decided == 2


async def test_hours_that_were_slept_through_are_missing_not_empty(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(2)
        running.clock.now_s += 5 * INTERVAL_S  # the host was suspended
        await running.intervals(2)
        loads = control.pilot.controller.telemetry.loads()
        assert np.isnan(loads).sum() >= 4
        assert control.failures == {}


async def test_a_clock_that_was_moved_before_the_loop_began_moves_nothing_of_it(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    class Moved(VirtualClock):
        """Finds that when it is read first."""

        def __call__(self) -> float:
            if not self.skipped_s:
                self.skipped_s = 7200.0
                self.now_s += self.skipped_s
            return self.now_s

    running = Running(engine, tmp_path)
    running.parts = replace(running.parts, clock=Moved())
    async with running as control:
        assert control._now() == control.schedule.began_s == 7200.0


async def test_work_after_an_idle_time_was_not_expected_to_be_late(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    async with running as control:
        await running.intervals(2, requests=1)
        for _ in range(60):
            await running.clock.advance(running.clock() + INTERVAL_S)
        usual = control.pilot.lookout.calibration.expected_missed
        await running.intervals(2)
        assert control.pilot.lookout.calibration.expected_missed < usual + 1
        assert control.failures == {}


async def test_an_interval_whose_end_was_slept_through_is_accounted_but_no_window(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    """The container was paused: monotonic time goes on."""
    running = Running(engine, tmp_path)
    running.parts = replace(running.parts, energy=None)
    async with running as control:
        await running.intervals(3)
        at_s = running.clock.now_s = 7.5 * INTERVAL_S
        await control.tick()
        assert control.accounts.seconds == at_s
        idle_j = engine.hardware.rates.idle_w * at_s
        assert idle_j < control.accounts.report().energy_kwh["gpu"] * 3.6e6 < 2 * idle_j
        assert control.decisions[-1].now_s == 3 * INTERVAL_S, "sizes hold"
        await running.clock.advance(8 * INTERVAL_S)
        telemetry = control.pilot.controller.telemetry
        assert [each.end_s / INTERVAL_S for each in telemetry.windows] == [1, 2, 3]
        await running.clock.advance(9 * INTERVAL_S)
        assert [each.end_s / INTERVAL_S for each in telemetry.windows] == [1, 2, 3, 9]
        assert control.decisions[-1].now_s == 9 * INTERVAL_S
        assert control.failures == {}


async def test_a_suspend_is_not_accounted_as_time_that_the_host_ran(
    engine: ControlledEngine, tmp_path: Path
) -> None:
    running = Running(engine, tmp_path)
    running.parts = replace(running.parts, energy=None)
    async with running as control:
        await running.intervals(1)
        await running.clock.advance(INTERVAL_S + 150.0)
        running.clock.skipped_s = 8 * 3600.0 + 200.0
        running.clock.now_s += running.clock.skipped_s
        at_s = running.clock()
        await running.clock.advance(50 * INTERVAL_S)
        assert control.schedule.began_s == 50 * INTERVAL_S == running.clock()
        assert control.window is not None
        assert (control.window.start_s, control.window.end_s) == (at_s - 150.0, 50 * INTERVAL_S)
        assert control.decided == 1, "that was only a part of an interval"
        await running.intervals(1)
        ran_s = 2 * INTERVAL_S + 150.0 + (50 * INTERVAL_S - at_s)
        assert control.accounts.seconds == pytest.approx(ran_s)
        idle_w = engine.hardware.rates.idle_w
        assert control.accounts.report().energy_kwh["gpu"] * 3.6e6 / ran_s < 2 * idle_w
        assert control.decisions[-1].now_s == 51 * INTERVAL_S
        assert control.failures == {}
