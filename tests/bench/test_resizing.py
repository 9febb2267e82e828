"""Tiers that are resized while the simulated engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.bench import engine_state as e
from greencache.bench.accounting import Installed, account
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Sizes
from greencache.factors import Factors
from greencache.quantities import TB, YEAR_S
from greencache.traces import RequestTrace
from tests.bench.traces import chats, make_trace

INTERVAL_S = 60.0


class Schedule:
    """Steers through sizes given beforehand; the last one stays."""

    interval_s = INTERVAL_S

    def __init__(self, storage: StorageSetup, sizes: Sequence[Sizes]) -> None:
        self.storage, self.sizes = storage, sizes
        self.largest = Sizes(*(max(each) for each in zip(*sizes, storage.sizes, strict=True)))

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        interval = min(round(now_s / INTERVAL_S), len(self.sizes)) - 1
        dram_bytes, ssd_bytes = self.sizes[interval]
        return replace(self.storage, dram_bytes=dram_bytes, ssd_bytes=ssd_bytes)


def test_what_a_shrink_throws_away_must_be_computed_again(hardware: ServingHardware) -> None:
    block = hardware.layout.block_bytes
    same = [(float(t), 4 * 512, 10, range(4)) for t in (0, 30, 90, 150, 210, 230)]
    storage = StorageSetup(reuse_hbm=False, dram_bytes=8 * block)
    sizes = [Sizes(dram_bytes=8 * block), Sizes(dram_bytes=2 * block), Sizes(dram_bytes=8 * block)]
    run = simulate(make_trace(same), hardware, storage, steering=Schedule(storage, sizes))
    # A whole prompt in cache computes its last block; from 120 to 180 s there was room for two.
    assert run.requests["dram_blocks"].tolist() == [0, 3, 3, 2, 2, 3]
    assert run.sizes.sizes == (sizes[0], sizes[1], sizes[2])
    assert run.leases_left == 0


@given(trace=chats(), ssd_blocks=st.integers(0, 60))
@settings(max_examples=20)
def test_steering_that_changes_nothing_is_a_fixed_size(
    hardware: ServingHardware, trace: RequestTrace, ssd_blocks: int
) -> None:
    storage = StorageSetup(ssd_bytes=ssd_blocks * hardware.layout.block_bytes)
    fixed = simulate(trace, hardware, storage)
    steered = simulate(trace, hardware, storage, steering=Schedule(storage, [storage.sizes]))
    for name in ("first_token_s", "finish_s", "hbm_blocks", "ssd_blocks"):
        np.testing.assert_allclose(steered.requests[name], fixed.requests[name], rtol=1e-9)
    assert steered.sizes == fixed.sizes


@given(
    trace=chats(),
    blocks=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), min_size=1, max_size=6),
)
@settings(max_examples=40)
def test_no_tier_holds_more_than_it_may(
    hardware: ServingHardware, trace: RequestTrace, blocks: list[tuple[int, int]]
) -> None:
    block = hardware.layout.block_bytes
    sizes = [Sizes(dram * block, ssd * block) for dram, ssd in blocks]
    storage = StorageSetup(dram_bytes=sizes[0].dram_bytes, ssd_bytes=sizes[0].ssd_bytes)
    run = simulate(trace, hardware, storage, steering=Schedule(storage, sizes))
    assert run.overloaded is None
    assert run.leases_left == 0
    dram, ssd = run.sizes.by_bin(len(run.bins), 60.0)
    # What a reader still holds goes when it is read; a minute later it has been.
    settled = run.bins["dram_blocks"][1:] * block, run.bins["ssd_blocks"][1:] * block
    for used, allowed in zip(settled, (dram, ssd), strict=True):
        assert (used <= np.maximum(allowed[1:], allowed[:-1])).all()


def charged(run: SimulatedRun, hardware: ServingHardware, catalog: Catalog) -> dict[str, float]:
    factors = Factors.of(catalog, hardware.gpu)
    report = account(
        run.bins,
        run.end_s,
        hardware,
        factors,
        lambda t_s: np.full(len(t_s), 300.0),
        sizes=run.sizes,
        installed=Installed(10**12, 10**13),
    )
    return report.embodied_g[Scope.ATTRIBUTABLE]


def test_a_size_is_charged_while_it_is_allocated(
    hardware: ServingHardware, catalog: Catalog
) -> None:
    once = make_trace([(0.0, 512, 2, [0]), (600.0, 512, 2, [1])])
    large, none = Sizes(ssd_bytes=10**13), Sizes()
    storage = StorageSetup(ssd_bytes=large.ssd_bytes)
    run = simulate(once, hardware, storage, steering=Schedule(storage, [large, large, none]))
    factors = Factors.of(catalog, hardware.gpu)
    kg = factors.ssd_kg_per_tb.value * large.ssd_bytes / TB
    allocated_s = 4 * INTERVAL_S  # three of its own, and the minute in which it went
    expected = kg * 1e3 * allocated_s / (factors.ssd_lifetime_years.value * YEAR_S)
    assert charged(run, hardware, catalog)["ssd"] == pytest.approx(expected, rel=1e-6)
