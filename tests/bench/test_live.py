"""The trace against the real store: real bytes do what the simulation says, or it is noticed."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings, strategies as st

from greencache.bench import live
from greencache.bench.accounting import Installed
from greencache.bench.live import run_live, run_live_plans
from greencache.bench.live_result import LiveRun
from greencache.bench.plans import parse_plans
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import prepare
from greencache.bench.simulation import simulate
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates
from greencache.controller.slo import Slo
from greencache.errors import InputError
from greencache.factors import Factors
from greencache.settings import ControlSettings
from greencache.tiers import Policy, SsdTier, making
from greencache.tiers.admission import Admission
from greencache.traces import GridSeries, RequestTrace
from greencache.traces.compose import compose
from greencache.traces.loads import flat_load
from tests.bench.traces import chats

BLOCK_BYTES = 64
DRAM_BLOCKS, SSD_BLOCKS, HBM_BLOCKS = 300, 500, 200


@pytest.fixture(scope="module")
def setup(hardware: ServingHardware, catalog: Catalog) -> ReplaySetup:
    """Most of an hour of chat through an engine short of everything."""
    block = hardware.layout.block_bytes
    trace = compose(
        "conversation", flat_load(), hours=0.6, warmup_hours=0.2, mean_rate=0.2, seed=1
    ).trace
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return ReplaySetup(
        trace=trace,
        hardware=replace(hardware, kv_bytes=float(HBM_BLOCKS * block)),
        factors=Factors.of(catalog, hardware.gpu),
        grid=GridSeries("made", start, np.full(48, 300.0), "lifecycle", "made for a test"),
        slo=Slo(ttft_s=300.0, tpot_s=2.0, target=0.9),
        installed=Installed(dram_bytes=DRAM_BLOCKS * block, ssd_bytes=SSD_BLOCKS * block),
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=720.0,
        candidates=Candidates((0, DRAM_BLOCKS * block), (0, SSD_BLOCKS * block)),
        control=ControlSettings(interval=600.0, learn=600.0, horizon=3),
    )


def play(setup: ReplaySetup, folder: Path, plan: str = "full") -> LiveRun:
    (wanted,) = parse_plans(plan, setup.installed)
    return asyncio.run(
        run_live(
            setup,
            wanted,
            folder=folder / "ssd",
            block_bytes=BLOCK_BYTES,
            on_progress=lambda share: None,
        )
    )


def test_the_trace_presses_on_all_tiers(setup: ReplaySetup) -> None:
    """Else the tests below would say little."""
    (plan,) = parse_plans("full", setup.installed)
    admitted, _ = prepare(setup)
    run = simulate(admitted, setup.hardware, setup.storage(plan))
    assert admitted.unique_blocks > 10 * SSD_BLOCKS
    for tier in ("dram", "ssd"):
        assert (run.requests[f"{tier}_blocks"] > 0).sum() > 20


@pytest.mark.slow
@pytest.mark.parametrize("admission", list(Admission))
@pytest.mark.parametrize("policy", list(Policy))
def test_hits_and_writes_are_those_simulated(
    setup: ReplaySetup, tmp_path: Path, policy: Policy, admission: Admission
) -> None:
    run = play(replace(setup, policy=policy, admission=admission), tmp_path)
    assert run.different == 0
    assert run.written_blocks == run.simulated_written_blocks > 0
    assert run.wrong_blocks == 0
    assert run.failures == {}
    assert run.same
    assert run.read_blocks == sum(run.blocks_by_tier.values()) > 0
    assert min(run.blocks_by_tier.values()) > 0
    assert run.starts >= len(setup.trace)
    assert run.row()[-1] == "yes"


@pytest.mark.parametrize("admission", list(Admission))
def test_writes_that_lag_behind_are_dropped_by_both(
    setup: ReplaySetup, tmp_path: Path, admission: Admission
) -> None:
    """A drive that takes one block a second."""
    slow = replace(
        setup.factors.ssd_write_bytes_per_s, value=float(setup.hardware.layout.block_bytes)
    )
    lagging = replace(
        setup,
        factors=replace(setup.factors, ssd_write_bytes_per_s=slow),
        admission=admission,
    )
    (plan,) = parse_plans("full", setup.installed)
    admitted, _ = prepare(lagging)
    simulated = simulate(admitted, setup.hardware, lagging.storage(plan))
    assert simulated.bins["dropped_bytes"].sum() > 0
    run = play(lagging, tmp_path)
    assert run.same


@given(
    trace=chats(),
    spare=st.integers(0, 12),
    dram=st.integers(0, 20),
    ssd=st.integers(0, 40),
    policy=st.sampled_from(list(Policy)),
    admission=st.sampled_from(list(Admission)),
)
@settings(max_examples=20)
def test_so_they_are_where_requests_give_way_to_others(
    setup: ReplaySetup,
    trace: RequestTrace,
    spare: int,
    dram: int,
    ssd: int,
    policy: Policy,
    admission: Admission,
) -> None:
    """Long answers in an HBM with room for the largest request and little more: many start anew."""
    block = setup.hardware.layout.block_bytes
    long = replace(trace, output_tokens=20 * trace.output_tokens)
    largest = int((-(-(long.input_tokens + long.output_tokens) // 512)).max())
    tight = replace(
        setup,
        trace=long,
        hardware=replace(setup.hardware, kv_bytes=float((largest + spare) * block)),
        installed=Installed(dram_bytes=dram * block, ssd_bytes=ssd * block),
        policy=policy,
        admission=admission,
        warmup_s=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = play(tight, Path(folder))
    event("preempted" if run.starts > len(trace) else "each started once")
    assert run.same


def test_sizes_that_the_controller_changes_are_those_of_the_real_store(
    setup: ReplaySetup, tmp_path: Path
) -> None:
    sizes = []
    resize = live._resize

    async def noted(cache: Any, dram_blocks: int, ssd_blocks: int) -> None:
        await resize(cache, dram_blocks, ssd_blocks)
        sizes.append((cache.dram.index.capacity_blocks, cache.ssd.index.capacity_blocks))
        assert sizes[-1] == (dram_blocks, ssd_blocks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(live, "_resize", noted)
        run = play(setup, tmp_path, "greencache")
    assert len(set(sizes)) > 1
    assert run.same


class Spoiled(SsdTier):
    """Its files lose a bit now and then."""

    async def commit(self, reservation: Any) -> None:
        await super().commit(reservation)
        if len(reservation) and int(reservation.handle.slots[0]) % 10 == 3:
            slot = int(reservation.handle.slots[0])
            with (self.path / "extent-000000").open("r+b") as file:
                file.seek(slot * self.stride_bytes)
                byte = file.read(1)[0]
                file.seek(slot * self.stride_bytes)
                file.write(bytes([byte ^ 1]))


class Mixed(SsdTier):
    """It gives back another block than was stored, with a checksum that fits."""

    async def write(self, reservation: Any, blocks: Any) -> bool:
        return await super().write(reservation, list(blocks)[::-1])


def test_a_flipped_bit_is_noticed(
    setup: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "SsdTier", Spoiled)
    run = play(setup, tmp_path)
    assert run.wrong_blocks == 0, "its checksum does not match, so it is not given out"
    assert run.failures["ssd: checksum"] > 0
    assert run.read_blocks < sum(run.blocks_by_tier.values())
    assert not run.same
    assert run.row()[-1] == "NO"
    assert run.as_json()["same_as_simulated"] is False


def test_a_block_in_place_of_another_is_noticed(
    setup: ReplaySetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "SsdTier", Mixed)
    run = play(setup, tmp_path)
    assert run.wrong_blocks > 0
    assert not run.same


def test_all_that_can_be_played_is_and_leaves_no_files(setup: ReplaySetup, tmp_path: Path) -> None:
    early = setup.trace.arrival_s < 300
    short = replace(setup, trace=setup.trace.select(early), warmup_s=0.0)
    plans = parse_plans("none,hbm-only,full,best-static", setup.installed)
    told: list[tuple[str, float]] = []
    runs = run_live_plans(
        short,
        plans,
        folder=tmp_path,
        block_bytes=BLOCK_BYTES,
        on_progress=lambda what, share: told.append((what, share)),
    )
    assert [run.plan for run in runs] == ["full"]
    assert runs[0].same
    assert told[-1] == ("full, live", 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plans", "block_bytes", "complaint"),
    [("none,best-static", 64, "full, static:SIZE"), ("full", 12, "multiple of 8")],
)
def test_what_cannot_be_played_is_refused(
    setup: ReplaySetup, plans: str, block_bytes: int, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        run_live_plans(
            setup,
            parse_plans(plans, setup.installed),
            block_bytes=block_bytes,
            on_progress=lambda what, share: None,
        )
