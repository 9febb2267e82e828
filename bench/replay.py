"""``greencache replay``: a trace through the simulated engine, under several plans side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.bench.accounting import CarbonReport, Installed, account
from greencache.bench.plans import Plan, best_static_candidates
from greencache.bench.simulation import (
    BIN_S,
    Batching,
    Rejections,
    SimulatedRun,
    StorageSetup,
    admit,
    deadline_s,
    simulate,
)
from greencache.carbon import Scope, sci_g
from greencache.controller.performance import ServingHardware
from greencache.errors import InputError
from greencache.factors import Factors
from greencache.tiers.policies import Policy
from greencache.traces.grid import GridSeries
from greencache.traces.requests import RequestTrace

__all__ = ["COMPILING", "PlanResult", "Replay", "ReplaySetup", "Slo", "run_replay"]

COMPILING = "compiling"
"""What goes before the plans."""

TIERS = ("hbm", "dram", "ssd")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits on latency, and the share of requests that must meet both."""

    ttft_s: float
    tpot_s: float
    target: float


@dataclass(frozen=True)
class ReplaySetup:
    """All that a replay is run with.

    Attributes
    ----------
    trace:
        Requests as asked for, before any is rejected.
    hardware, factors, grid, slo:
        The engine, what things cost in carbon, the electricity and the promise to users.
    installed:
        What DRAM and SSD the machine has.
    policy:
        Eviction policy of every tier.
    scope:
        What embodied carbon is charged for in the headline figures.
    warmup_s:
        Requests that arrive before this fill the caches and are not measured; whole bins.
    batching:
        How the engine fills its steps.
    """

    trace: RequestTrace
    hardware: ServingHardware
    factors: Factors
    grid: GridSeries
    slo: Slo
    installed: Installed
    policy: Policy
    scope: Scope
    warmup_s: float
    batching: Batching = field(default_factory=Batching)

    @property
    def mean_gco2_per_kwh(self) -> float:
        """Carbon intensity over the trace, minute by minute."""
        minutes_s = np.arange(0.0, self.trace.duration_s + 1.0, BIN_S)
        return float(self.grid.at(minutes_s).mean())


@dataclass(frozen=True)
class PlanResult:
    """One plan's run over the measured window. Arrays have one entry a measured request.

    An overloaded run has only ``plan``, ``invalid_because`` and the capacities: no number of it
    means anything.
    """

    plan: str
    dram_bytes: int
    ssd_bytes: int
    invalid_because: str | None
    measured: Measured | None

    @property
    def valid(self) -> bool:
        """Whether the engine kept up and met the SLO."""
        return self.invalid_because is None


@dataclass(frozen=True)
class Measured:
    """What was measured of a run that kept up."""

    requests: int
    output_tokens: int
    hit_rate_tokens: float
    hit_rate_tokens_by_tier: dict[str, float]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    """Of requests with two output tokens or more."""
    slo_attainment: float
    carbon: CarbonReport
    ssd_bytes_written: float
    ssd_bytes_dropped: float
    used_bytes: dict[str, NDArray[np.float64]]
    """Bytes of KV in DRAM and SSD at the end of each bin, warm-up included."""
    grams: float
    """Operational and embodied, in the replay's scope."""
    sci_g_per_1k_output_tokens: float


@dataclass(frozen=True)
class Replay:
    """What a replay gave."""

    setup: ReplaySetup
    rejections: Rejections
    results: list[PlanResult]
    simulations: int
    block_accesses: int
    simulating_s: float
    """Wall time of all simulations together, without compiling."""

    def result(self, plan: str) -> PlanResult | None:
        """The run of a plan, if it was asked for."""
        return next((result for result in self.results if result.plan == plan), None)

    def saving(self, result: PlanResult, versus: str) -> float | None:
        """Share of grams per output token saved against a plan; None unless both are valid."""
        other = self.result(versus)
        if other is None or not (other.valid and result.valid):
            return None
        return 1 - _sci(result) / _sci(other)


def _latencies(
    requests: NDArray[np.void],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    ttft_s = requests["first_token_s"] - requests["arrival_s"]
    later = requests["output_tokens"] - 1
    several = later > 0
    tpot_s = (requests["finish_s"] - requests["first_token_s"])[several] / later[several]
    return ttft_s, tpot_s, several


def _measure(setup: ReplaySetup, run: SimulatedRun, dram_bytes: int, ssd_bytes: int) -> Measured:
    requests = run.requests[run.requests["arrival_s"] >= setup.warmup_s]
    ttft_s, tpot_s, several = _latencies(requests)
    kept = ttft_s <= setup.slo.ttft_s
    kept[several] &= tpot_s <= setup.slo.tpot_s
    tokens = setup.trace.block_tokens / requests["input_tokens"].sum()
    by_tier = {tier: float(requests[f"{tier}_blocks"].sum() * tokens) for tier in TIERS}
    carbon = account(
        run,
        setup.hardware,
        setup.factors,
        setup.grid,
        dram_bytes=dram_bytes,
        ssd_bytes=ssd_bytes,
        installed=setup.installed,
        start_s=setup.warmup_s,
    )
    output_tokens = int(requests["output_tokens"].sum())
    window = run.bins[int(setup.warmup_s / BIN_S) :]
    block_bytes = setup.hardware.layout.block_bytes
    return Measured(
        requests=len(requests),
        output_tokens=output_tokens,
        hit_rate_tokens=sum(by_tier.values()),
        hit_rate_tokens_by_tier=by_tier,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        slo_attainment=float(kept.mean()),
        carbon=carbon,
        ssd_bytes_written=float(window["written_bytes"].sum()),
        ssd_bytes_dropped=float(window["dropped_bytes"].sum()),
        used_bytes={tier: run.bins[f"{tier}_blocks"] * block_bytes for tier in ("dram", "ssd")},
        grams=carbon.total_g(setup.scope),
        sci_g_per_1k_output_tokens=sci_g(
            carbon.total_operational_g, carbon.total_embodied_g(setup.scope), output_tokens
        ),
    )


def _run_plan(
    setup: ReplaySetup,
    admitted: RequestTrace,
    plan: Plan,
    on_progress: Callable[[float], None] | None = None,
) -> PlanResult:
    drives = max(1, setup.factors.drives(plan.ssd_bytes))
    storage = StorageSetup(
        reuse_hbm=plan.reuse_hbm,
        dram_bytes=plan.dram_bytes,
        ssd_bytes=plan.ssd_bytes,
        policy=setup.policy,
        ssd_read_bytes_per_s=drives * setup.factors.ssd_read_bytes_per_s.value,
        ssd_write_bytes_per_s=drives * setup.factors.ssd_write_bytes_per_s.value,
    )
    run = simulate(
        admitted, setup.hardware, storage, batching=setup.batching, on_progress=on_progress
    )
    if run.overloaded is not None:
        return PlanResult(plan.name, plan.dram_bytes, plan.ssd_bytes, run.overloaded, None)
    measured = _measure(setup, run, plan.dram_bytes, plan.ssd_bytes)
    late = None
    if measured.slo_attainment < setup.slo.target:
        late = (
            f"SLO missed: {measured.slo_attainment:.1%} of requests within TTFT "
            f"{setup.slo.ttft_s:g} s and TPOT {setup.slo.tpot_s:g} s, target {setup.slo.target:.0%}"
        )
    return PlanResult(plan.name, plan.dram_bytes, plan.ssd_bytes, late, measured)


def _best_static(
    setup: ReplaySetup, admitted: RequestTrace, on_progress: Callable[[float], None]
) -> tuple[PlanResult, int]:
    """The valid fixed size with the least grams per output token, in hindsight; how many tried."""
    candidates = best_static_candidates(setup.installed)
    best: PlanResult | None = None
    last: PlanResult | None = None
    # The engine runs without the GIL, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tried = pool.map(lambda plan: _run_plan(setup, admitted, plan), candidates)
        for done, last in enumerate(tried, 1):
            if last.valid and (best is None or _sci(last) < _sci(best)):
                best = last
            on_progress(done / len(candidates))
    if best is None:
        assert last is not None
        because = (
            f"none of {len(candidates)} fixed sizes is valid; at the largest: "
            f"{last.invalid_because}"
        )
        best = PlanResult("best-static", last.dram_bytes, last.ssd_bytes, because, None)
    return best, len(candidates)


def _sci(result: PlanResult) -> float:
    assert result.measured is not None
    return result.measured.sci_g_per_1k_output_tokens


def run_replay(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    *,
    on_progress: Callable[[str, float], None] | None = None,
    clock: Callable[[], float],
) -> Replay:
    """Run every plan over the trace.

    Parameters
    ----------
    setup:
        What to run with.
    plans:
        In the order of the results.
    on_progress:
        Called now and then with a plan's name, or `COMPILING`, and the share of it that is done.
    clock:
        Wall clock, to report how fast the simulation is.

    Raises
    ------
    InputError
        If no request can be served, or none arrives after the warm-up.
    """
    admitted, rejections = admit(setup.trace, setup.hardware)
    if admitted.arrival_s[-1] < setup.warmup_s:
        raise InputError(
            f"no request arrives after a warm-up of {setup.warmup_s:g} s: the trace lasts "
            f"{setup.trace.duration_s:g} s"
        )
    # The grid must reach to where the last answer may end, before anything long is begun.
    setup.grid.at(np.array([0.0, deadline_s(admitted)]))
    admitted.block_ids  # noqa: B018 - computed once, before threads ask for it
    # One request first, so that compiling is not counted as simulating: seconds, the first time.
    if on_progress is not None:
        on_progress(COMPILING, 0.0)
    simulate(admitted.select(np.arange(len(admitted)) == 0), setup.hardware, StorageSetup())
    if on_progress is not None:
        on_progress(COMPILING, 1.0)
    began_s = clock()
    results: list[PlanResult] = []
    simulations = 0
    for plan in plans:

        def report(share: float, name: str = plan.name) -> None:
            if on_progress is not None:
                on_progress(name, share)

        if plan.hindsight:
            best, tried = _best_static(setup, admitted, report)
            results.append(best)
            simulations += tried
        else:
            results.append(_run_plan(setup, admitted, plan, report))
            simulations += 1
        report(1.0)
    return Replay(
        setup=setup,
        rejections=rejections,
        results=results,
        simulations=simulations,
        block_accesses=simulations * int(admitted.full_blocks.sum()),
        simulating_s=clock() - began_s,
    )
