"""Several replicas behind a router that knows prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.bench.accounting import Installed, account
from greencache.bench.engine_state import BIN
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.sizes import SizesOverTime
from greencache.bench.storage import StorageSetup
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Sizes
from greencache.factors import Factors
from greencache.quantities import YEAR_S
from greencache.traces import RequestTrace
from tests.bench.traces import chats, fresh_prompts, make_trace


def hits(run: SimulatedRun) -> int:
    return int(sum(run.requests[f"{tier}_blocks"].sum() for tier in ("hbm", "dram", "ssd")))


def test_prompts_that_share_nothing_are_spread_evenly(hardware: ServingHardware) -> None:
    run = simulate(fresh_prompts(400, 0.05), hardware, StorageSetup(), replicas=4)
    counts = np.bincount(run.requests["replica"], minlength=4)
    assert counts.min() > 80


def test_a_conversation_stays_where_its_prefix_is(hardware: ServingHardware) -> None:
    """Ten chats of eight turns each, taking turns: all but each one's first finds its history."""
    requests = [
        (
            turn * 30.0 + chat,
            (turn + 1) * 1024 + 100,
            20,
            [chat * 1000 + i for i in range(2 * turn + 2)],
        )
        for turn in range(8)
        for chat in range(10)
    ]
    run = simulate(make_trace(requests), hardware, StorageSetup(), replicas=4)
    where = run.requests["replica"].reshape(8, 10)
    assert (where == where[0]).all(), "no chat moves"
    assert hits(run) == sum(10 * 2 * turn for turn in range(8))


def test_a_prefix_that_all_want_does_not_flood_one_replica(hardware: ServingHardware) -> None:
    """Everyone shares one block and brings 16 of their own: load outweighs so small a hit."""
    trace = make_trace(
        [(i * 0.05, 17 * 512 + 1, 10, [0, *range(1 + 16 * i, 17 + 16 * i)]) for i in range(300)]
    )
    run = simulate(trace, hardware, StorageSetup(), replicas=3)
    counts = np.bincount(run.requests["replica"], minlength=3)
    assert counts.min() > 60
    assert hits(run) > 280, "each replica soon has the shared block"


def test_more_replicas_serve_more(hardware: ServingHardware) -> None:
    """Four times the load on four times the engines is no slower, and idle ones cost power."""
    one = simulate(fresh_prompts(200, 0.4), hardware, StorageSetup())
    four = simulate(fresh_prompts(800, 0.1), hardware, StorageSetup(), replicas=4)
    ttft_s = [run.requests["first_token_s"] - run.requests["arrival_s"] for run in (one, four)]
    assert ttft_s[1].mean() <= ttft_s[0].mean() * 1.05
    assert four.bins["gpu_j"].sum() == pytest.approx(4 * one.bins["gpu_j"].sum(), rel=0.05)
    alone, beside = (
        simulate(fresh_prompts(200, 0.4, output=1), hardware, StorageSetup(), replicas=replicas)
        for replicas in (1, 2)
    )
    extra_j = beside.bins["gpu_j"].sum() - alone.bins["gpu_j"].sum()
    assert extra_j == pytest.approx(hardware.rates.idle_w * beside.end_s, rel=1e-3)


@given(trace=chats(), replicas=st.integers(1, 4), dram_blocks=st.integers(0, 40))
@settings(max_examples=40)
def test_every_request_is_served_once(
    hardware: ServingHardware, trace: RequestTrace, replicas: int, dram_blocks: int
) -> None:
    storage = StorageSetup(dram_bytes=dram_blocks * hardware.layout.block_bytes)
    run = simulate(trace, hardware, storage, replicas=replicas)
    assert np.isfinite(run.requests["finish_s"]).all()
    assert run.leases_left == 0
    assert run.requests["replica"].max() < replicas
    assert run.bins["busy_s"].sum() <= replicas * run.end_s * (1 + 1e-9)
    assert run.bins["gpu_j"].sum() >= replicas * hardware.rates.idle_w * run.end_s * (1 - 1e-9)
    again = simulate(trace, hardware, storage, replicas=replicas)
    assert again.requests.tobytes() == run.requests.tobytes()


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("written_share", [0.6, 1.0, 2.0])
def test_replicas_wear_their_own_drives(
    catalog: Catalog, hardware: ServingHardware, scope: Scope, written_share: float
) -> None:
    """Four replicas that each use a quarter of their drive cost four times one of them."""
    factors = Factors.of(catalog, hardware.gpu)
    drive_bytes = int(factors.ssd_drive_bytes.value)
    minutes = np.zeros(60, BIN)
    rated = factors.ssd_rated_write_bytes.value / factors.ssd_write_amplification.value
    worn = rated * 3600 / (factors.ssd_lifetime_years.value * YEAR_S)
    minutes["written_bytes"] = worn * written_share / 60

    def ssd_g(replicas: int) -> float:
        bins = minutes.copy()
        bins["written_bytes"] *= replicas
        report = account(
            bins,
            3600.0,
            hardware,
            factors,
            lambda t_s: np.full(len(t_s), 300.0),
            sizes=SizesOverTime.of(Sizes(ssd_bytes=drive_bytes // 4)),
            installed=Installed(0, drive_bytes),
            replicas=replicas,
        )
        return report.embodied_g[scope]["ssd"]

    assert ssd_g(4) == pytest.approx(4 * ssd_g(1))


def test_nothing_is_dropped_where_there_is_no_ssd(hardware: ServingHardware) -> None:
    slow = StorageSetup(ssd_write_bytes_per_s=1e6)
    run = simulate(fresh_prompts(3, 1.0), hardware, slow)
    assert run.bins["dropped_bytes"].sum() == 0
