"""The simulated engine writes what pays, learns it from its requests, and loses nothing by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from greencache.bench.plans import Plan
from greencache.bench.setup import storage_of
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware
from greencache.controller.storage_prices import StoragePrices, block_prices, prices_for
from greencache.factors import Factors
from greencache.tiers import Admission, Policy
from greencache.traces import RequestTrace
from tests.bench.traces import fresh_prompts, make_trace

SSD = Plan("ssd", ssd_bytes=10**13)


@pytest.fixture(scope="module")
def hardware() -> ServingHardware:
    return serving_hardware(
        Catalog.load(None), find_model("llama-3.1-8b"), "H100", block_tokens=512
    )


@pytest.fixture(scope="module")
def factors(hardware: ServingHardware) -> Factors:
    return Factors.of(Catalog.load(None), hardware.gpu)


def storage(factors: Factors, gco2_per_kwh: float, **changed: Any) -> StorageSetup:
    """An SSD without a prefix cache in HBM above it, so that SSD serves all reuse."""
    admission = changed.pop("admission", Admission.VALUE)
    policy = changed.pop("policy", Policy.LRU)
    prices = prices_for(policy, admission, factors, gco2_per_kwh)
    setup = storage_of(SSD, policy, factors, admission, prices)
    return replace(setup, reuse_hbm=False, **changed)


def returning(visits: int, users: int = 40, gap_s: float = 400.0) -> RequestTrace:
    """Users who ask about the same eight blocks again and again."""
    return make_trace(
        [
            (visit * gap_s + user * gap_s / users, 8 * 512 + 10, 5, range(user * 8, user * 8 + 8))
            for visit in range(visits)
            for user in range(users)
        ]
    )


def total(run: SimulatedRun, name: str) -> float:
    return float(run.bins[name].sum())


def test_prompts_that_nobody_repeats_are_not_written(
    hardware: ServingHardware, factors: Factors
) -> None:
    trace = fresh_prompts(4000, 5.0)
    everything = simulate(trace, hardware, storage(factors, 300.0, admission=Admission.ALL))
    chosen = simulate(trace, hardware, storage(factors, 300.0))
    whole = 4000 * 4 * hardware.layout.block_bytes
    assert total(everything, "written_bytes") == whole
    assert total(everything, "declined_bytes") == 0
    assert total(chosen, "written_bytes") < 0.05 * whole
    assert total(chosen, "written_bytes") + total(chosen, "declined_bytes") == whole
    np.testing.assert_array_equal(everything.requests["finish_s"], chosen.requests["finish_s"])


def test_prompts_that_come_back_are_written_once_known_and_hit(
    hardware: ServingHardware, factors: Factors
) -> None:
    trace = returning(visits=30)
    everything = simulate(trace, hardware, storage(factors, 300.0, admission=Admission.ALL))
    chosen = simulate(trace, hardware, storage(factors, 300.0))
    late = trace.arrival_s > 10 * 400.0
    assert (everything.requests["ssd_blocks"][late] == 8).all()
    assert chosen.requests["ssd_blocks"][late].sum() > 0.95 * 8 * late.sum()
    assert total(chosen, "written_bytes") <= total(everything, "written_bytes")


def test_the_dirtier_the_grid_the_more_is_worth_its_wear(
    hardware: ServingHardware, factors: Factors
) -> None:
    """Sixty sessions an hour of which some return: joules saved are worth more grams there."""
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(0, 20_000, 1500))
    again = starts[rng.uniform(size=1500) < 0.4]
    visits = np.concatenate([starts, again + 500.0])
    users = np.concatenate([np.arange(1500), np.searchsorted(starts, again)])
    trace = make_trace(
        [
            (float(visits[i]), 8 * 512 + 1, 5, range(users[i] * 8, users[i] * 8 + 8))
            for i in np.argsort(visits)
        ]
    )
    small = replace(SSD, ssd_bytes=2 * 10**11)
    written = []
    for gco2_per_kwh in (10.0, 300.0, 3000.0):
        prices = prices_for(Policy.LRU, Admission.VALUE, factors, gco2_per_kwh)
        setup = storage_of(small, Policy.LRU, factors, Admission.VALUE, prices)
        written.append(total(simulate(trace, hardware, setup), "written_bytes"))
    assert written[0] < 0.6 * written[2]
    assert written == sorted(written)


def test_without_prices_everything_is_worth_it(hardware: ServingHardware) -> None:
    trace = returning(visits=3)
    setup = StorageSetup(reuse_hbm=False, ssd_bytes=10**13)
    everything = simulate(trace, hardware, setup)
    free = simulate(trace, hardware, replace(setup, admission=Admission.VALUE))
    assert (free.requests == everything.requests).all()
    assert (free.bins == everything.bins).all()


@pytest.mark.parametrize("policy", ["lru", "lcs", "carbon"])
def test_replicas_learn_apart_and_everyone_is_served(
    hardware: ServingHardware, factors: Factors, policy: str
) -> None:
    trace = returning(visits=12)
    setup = storage(
        factors, 300.0, policy=Policy(policy), ssd_bytes=60 * hardware.layout.block_bytes
    )
    run = simulate(trace, hardware, replace(setup, dram_bytes=2**32), replicas=3)
    assert run.leases_left == 0
    assert np.isfinite(run.requests["finish_s"]).all()
    assert run.requests["ssd_blocks"].sum() + run.requests["dram_blocks"].sum() > 0


def test_prices_are_those_of_the_factors(hardware: ServingHardware, factors: Factors) -> None:
    prices = prices_for(Policy.LRU, Admission.VALUE, factors, 100.0)
    drive_g = factors.ssd_kg_per_tb.value * factors.ssd_drive_bytes.value / 1e12 * 1e3
    rated = factors.ssd_rated_write_bytes.value / factors.ssd_write_amplification.value
    wear_j = drive_g / rated / (100.0 * factors.pue.value / 3.6e6)
    assert wear_j / np.sqrt(2) <= prices.wear_j_per_byte <= wear_j * np.sqrt(2)
    assert np.log2(prices.wear_j_per_byte) == round(np.log2(prices.wear_j_per_byte))
    years_to_spend = rated / factors.ssd_drive_bytes.value / prices.endurance_per_s / 3.15576e7
    assert years_to_spend == pytest.approx(factors.ssd_lifetime_years.value, rel=0.001)
    block, rates = block_prices(hardware, prices), hardware.rates
    tokens = hardware.layout.block_tokens
    busy_w = rates.compute_w + prices.host_w_per_gpu
    alone_s = tokens * rates.flops_per_token / rates.flops_per_s
    assert block.compute_j == pytest.approx(busy_w * alone_s, rel=0.05)
    attended_s = rates.flops_per_attended * tokens**2 / rates.flops_per_s
    assert block.compute_j_per_depth == pytest.approx(busy_w * attended_s)
    assert block.write_j == factors.ssd_write_j_per_byte.value * hardware.layout.block_bytes


def test_what_nobody_asks_for_is_not_in_the_prices(factors: Factors) -> None:
    """So that runs which it cannot change are known to be the same."""
    nothing = prices_for(Policy.LRU, Admission.ALL, factors, 100.0)
    assert nothing == StoragePrices()
    carbon = prices_for(Policy.CARBON, Admission.ALL, factors, 100.0)
    assert carbon == prices_for(Policy.CARBON, Admission.ALL, factors, 500.0)
    near = [prices_for(Policy.LRU, Admission.VALUE, factors, g) for g in (100.0, 101.0, 300.0)]
    assert near[0] == near[1] != near[2]
    assert hash(near[0]) == hash(near[1])
    assert np.isfinite(prices_for(Policy.LRU, Admission.VALUE, factors, 0.0).wear_j_per_byte)
