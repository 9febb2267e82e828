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
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
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
from greencache.traces.loads import flat_load

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
        assert (has["dram"], has["ssd"]) == wanted
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
