"""The daemon's control loop on a virtual clock, over real tiers, against the replay."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from greencache.bench.accounting import Installed
from greencache.bench.live_result import LiveRun
from greencache.bench.plans import parse_plans
from greencache.bench.setup import ReplaySetup
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.client.messages import Seen
from greencache.controller.assembly import Course
from greencache.controller.loop import Decision
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.errors import StorageError
from greencache.factors import Factors
from greencache.service import rehearsal
from greencache.service.control import LiveControl
from greencache.service.rehearsal import rehearse
from greencache.service.stores import CacheStore
from greencache.settings import ControlSettings
from greencache.tiers import Policy
from greencache.tiers.admission import Admission
from greencache.traces import GridSeries
from greencache.traces.compose import compose
from greencache.traces.loads import LoadSeries, flat_load

DRAM_BLOCKS, SSD_BLOCKS, HBM_BLOCKS = 300, 500, 200


@pytest.fixture(scope="module")
def setup(hardware: ServingHardware, catalog: Catalog) -> ReplaySetup:
    """Hours of chat on a grid that swings, through an engine short of everything."""
    block = hardware.layout.block_bytes
    trace = compose(
        "conversation", flat_load(), hours=2.6, warmup_hours=0.2, mean_rate=0.2, seed=1
    ).trace
    start = datetime(2024, 1, 1, tzinfo=UTC)
    swing = np.array([600.0, 20.0, 300.0, 40.0] * 12)
    return ReplaySetup(
        trace=trace,
        hardware=replace(hardware, kv_bytes=float(HBM_BLOCKS * block)),
        factors=Factors.of(catalog, hardware.gpu),
        grid=GridSeries("made", start, swing, "lifecycle", "made for a test"),
        slo=Slo(ttft_s=300.0, tpot_s=2.0, target=0.9),
        installed=Installed(dram_bytes=DRAM_BLOCKS * block, ssd_bytes=SSD_BLOCKS * block),
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=720.0,
        candidates=Candidates(
            (0, DRAM_BLOCKS * block // 2, DRAM_BLOCKS * block),
            (0, SSD_BLOCKS * block // 2, SSD_BLOCKS * block),
        ),
        control=ControlSettings(interval=600.0, learn=600.0, horizon=3),
    )


def rehearsed(setup: ReplaySetup, folder: Path) -> LiveRun:
    (plan,) = parse_plans("greencache", setup.installed)
    return asyncio.run(
        rehearse(setup, plan, folder=folder / "ssd", block_bytes=64, on_progress=lambda share: None)
    )


@pytest.mark.parametrize(
    ("policy", "admission"),
    [
        (Policy.LRU, Admission.VALUE),
        (Policy.CARBON, Admission.VALUE),
        (Policy.LRU, Admission.ALL),
        (Policy.SIEVE, Admission.VALUE),
    ],
)
def test_plans_hits_and_carbon_are_those_of_the_replay(
    setup: ReplaySetup,
    tmp_path: Path,
    policy: Policy,
    admission: Admission,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: Counter[Sizes] = Counter()
    resize = CacheStore.resize

    async def noted(self: CacheStore, wanted: Sizes) -> None:
        await resize(self, wanted)
        has = self.held().capacity_bytes
        assert Sizes(int(has["dram"]), int(has["ssd"])) == wanted
        sizes[wanted] += 1

    monkeypatch.setattr(CacheStore, "resize", noted)
    run = rehearsed(replace(setup, policy=policy, admission=admission), tmp_path)
    assert run.decisions == 16
    assert run.other_decisions == 0
    assert run.different == run.wrong_blocks == 0
    assert min(run.blocks_by_tier.values()) > 50
    assert run.written_blocks == run.simulated_written_blocks > 500
    assert run.carbon_ratio == pytest.approx(1.0, abs=0.001)
    assert run.failures == {}
    assert len(sizes) >= 2 + (admission is Admission.VALUE), "or it would say little"
    assert run.same


@pytest.fixture(scope="module")
def bursts(setup: ReplaySetup) -> ReplaySetup:
    """In the second half of three of the intervals more comes than can be served."""
    rates = np.ones(32)
    rates[[9, 17, 25]] = 10.0
    load = LoadSeries("bursts", "made for a test", "none", 300.0, rates)
    trace = compose(
        "conversation", load, hours=2.6, warmup_hours=0.2, mean_rate=0.2 * rates.mean(), seed=1
    ).trace
    return replace(setup, trace=trace, slo=replace(setup.slo, ttft_s=60.0))


@pytest.mark.slow
def test_a_burst_within_an_interval_grows_the_tiers_within_it_as_in_the_replay(
    bursts: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[Decision] = []
    follow = LiveControl._follow

    async def noted(self: LiveControl, course: Course) -> None:
        await follow(self, course)
        decided.append(course.decision)
        has = self._parts.store.held().capacity_bytes
        assert Sizes(int(has["dram"]), int(has["ssd"])) == course.decision.sizes
        assert self.grown == sum(map(within, decided))

    def within(decision: Decision) -> bool:
        return decision.now_s % bursts.control.interval > 0

    monkeypatch.setattr(LiveControl, "_follow", noted)
    run = rehearsed(bursts, tmp_path)
    assert run.other_decisions == run.different == run.wrong_blocks == 0
    assert run.carbon_ratio == pytest.approx(1.0, abs=0.01)
    assert run.same
    grown = [decision for decision in decided if within(decision)]
    assert len(grown) >= 2
    for decision in grown:
        assert decision.now_s % (bursts.control.interval / bursts.control.looks) == 0
        assert "waiting work grew from" in decision.reason
        assert decision.sizes != decision.before
        assert all(a >= b for a, b in zip(decision.sizes, decision.before, strict=True))


@pytest.mark.slow
def test_looks_need_not_be_at_whole_seconds(bursts: ReplaySetup, tmp_path: Path) -> None:
    control = bursts.control.model_copy(update={"interval": 617.3, "looks": 7})
    run = rehearsed(replace(bursts, control=control), tmp_path)
    assert run.decisions > 16
    assert run.other_decisions == 0
    assert run.same


@pytest.mark.slow
def test_room_that_cannot_be_had_within_an_interval_is_had_at_its_end(
    bursts: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, resize = LiveControl._follow, CacheStore.resize
    refused: list[tuple[Sizes, Sizes]] = []
    within = False

    async def noted(self: LiveControl, course: Course) -> None:
        nonlocal within
        within = course.decision.now_s % bursts.control.interval > 0
        try:
            await follow(self, course)
        finally:
            assert self.pilot.controller.sizes == self.sizes
            if within:
                refused.append((course.decision.before, self.sizes))

    async def full(self: CacheStore, sizes: Sizes) -> None:
        if within:
            raise StorageError("ssd", "no space left on the device")
        await resize(self, sizes)

    monkeypatch.setattr(LiveControl, "_follow", noted)
    monkeypatch.setattr(CacheStore, "resize", full)
    run = rehearsed(bursts, tmp_path)
    assert run.failures == {"control: look": len(refused)}
    assert all(before == after for before, after in refused)
    assert len(refused) >= 2
    assert not run.same


@pytest.mark.slow
def test_the_measured_part_may_begin_with_an_interval(setup: ReplaySetup, tmp_path: Path) -> None:
    run = rehearsed(replace(setup, warmup_s=3 * setup.control.interval), tmp_path)
    assert run.carbon_ratio == pytest.approx(1.0, abs=0.001)
    assert run.same


@pytest.mark.slow
def test_a_loop_that_is_told_other_things_is_noticed(
    setup: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That every second request was late."""
    tell = rehearsal._FrontEnd._seen

    def late(self: rehearsal._FrontEnd, r: int, request: np.void, *, first: bool) -> Seen:
        seen = tell(self, r, request, first=first)
        return msgspec.structs.replace(seen, ttft_s=1e6) if r % 2 and seen.ttft_s else seen

    monkeypatch.setattr(rehearsal._FrontEnd, "_seen", late)
    run = rehearsed(setup, tmp_path)
    assert run.other_decisions > 0
    assert not run.same
    assert run.row()[-1] == "NO"


def test_a_loop_that_leaves_the_tiers_alone_costs_more_and_is_noticed(
    setup: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize = CacheStore.resize
    called = 0

    async def once(self: CacheStore, wanted: Sizes) -> None:
        nonlocal called
        called += 1
        if called == 1:
            await resize(self, wanted)

    monkeypatch.setattr(CacheStore, "resize", once)
    run = rehearsed(setup, tmp_path)
    assert run.carbon_ratio is not None
    assert run.carbon_ratio > 1.0
    assert run.different > 0
    assert not run.same


def test_a_fault_of_a_model_ends_a_rehearsal_but_not_what_it_drives(
    setup: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LiveControl, *_: object) -> None:
        raise ZeroDivisionError("a model's fault")

    monkeypatch.setattr(LiveControl, "_steer", broken)
    with pytest.raises(Exception, match="no decision at 600 s"):
        rehearsed(setup, tmp_path)
