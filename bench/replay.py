"""``greencache replay``: requests through the simulated engine, under several plans side by side.

It has two halves. `simulate_plans` runs the engine, once for every plan and, for ``best-static``,
every size that it chooses from. `value` says what that cost in carbon on a grid, with factors and
in a scope; it takes no time, so one simulation answers for many of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.bench.accounting import CarbonReport, Installed, account
from greencache.bench.outcome import Outcome, Served, Slo, outcome_of
from greencache.bench.plans import Plan, best_static_candidates
from greencache.bench.simulation import (
    BIN_S,
    Batching,
    Rejections,
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

__all__ = [
    "COMPILING",
    "SIMULATED_FACTORS",
    "Measured",
    "PlanResult",
    "Replay",
    "ReplaySetup",
    "Simulated",
    "prepare",
    "run_replay",
    "simulate_plans",
    "value",
]

COMPILING = "compiling"
"""What goes before the plans."""

SIMULATED_FACTORS = frozenset(
    {
        "gpu_idle_w",
        "gpu_tdp_w",
        "gpu_prefill_power",
        "gpu_decode_power",
        "ssd_drive_bytes",
        "ssd_read_bytes_per_s",
        "ssd_write_bytes_per_s",
    }
)
"""Factors that the simulation itself depends on; of the others only `value` does."""


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
        What DRAM and SSD the machine of each replica has.
    policy:
        Eviction policy of every tier.
    scope:
        What embodied carbon is charged for in the headline figures.
    warmup_s:
        Requests that arrive before this fill the caches and are not measured; whole bins.
    batching:
        How the engine fills its steps.
    replicas:
        How many such engines share the requests.
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
    replicas: int = 1

    @property
    def mean_gco2_per_kwh(self) -> float:
        """Carbon intensity over the trace, minute by minute."""
        minutes_s = np.arange(0.0, self.trace.duration_s + 1.0, BIN_S)
        return float(self.grid.at(minutes_s).mean())


@dataclass(frozen=True)
class Measured:
    """What a run that kept up gave its users, and what that cost."""

    served: Served
    carbon: CarbonReport
    grams: float
    """Operational and embodied, in the replay's scope."""
    sci_g_per_1k_output_tokens: float
    ssd_bytes_written: float
    ssd_bytes_dropped: float
    used_bytes: dict[str, NDArray[np.float64]]
    """Bytes of KV in DRAM and SSD at the end of each bin, warm-up included, over all replicas."""
    gpu_w: NDArray[np.float64]
    """Mean power of all GPUs in each bin, warm-up included."""
    prefill_j_per_token: NDArray[np.float64]
    """Energy that a prompt token added to what else the GPUs did, in each bin; NaN if there were
    none."""
    marginal_prefill_j_per_token: float
    """The same over the whole measured window."""
    average_prefill_j_per_token: float
    """All energy of the GPUs over all prompt tokens computed in the measured window."""


@dataclass(frozen=True)
class PlanResult:
    """One plan's run over the measured window.

    An overloaded run has only a plan and a reason: no number of it means anything.
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
class Simulated:
    """What the engine did under every plan, whatever that costs.

    Attributes
    ----------
    setup:
        What it was run with; grid, scope and most factors played no part.
    rejections:
        Requests that the engine cannot serve at all.
    outcomes:
        For each plan, in the order asked for, its run; for a plan in hindsight those of all sizes
        that it chooses from.
    block_accesses:
        Blocks looked up, over all simulations.
    simulating_s:
        Wall time of all simulations together, without compiling.
    """

    setup: ReplaySetup
    rejections: Rejections
    outcomes: dict[str, list[Outcome]]
    block_accesses: int
    simulating_s: float

    @property
    def simulations(self) -> int:
        """How often the engine was run."""
        return sum(len(outcomes) for outcomes in self.outcomes.values())


@dataclass(frozen=True)
class Replay:
    """What a replay gave."""

    simulated: Simulated
    setup: ReplaySetup
    results: list[PlanResult]

    @property
    def rejections(self) -> Rejections:
        """Requests that the engine cannot serve at all."""
        return self.simulated.rejections

    def result(self, plan: str) -> PlanResult | None:
        """The run of a plan, if it was asked for."""
        return next((result for result in self.results if result.plan == plan), None)

    def saving(self, result: PlanResult, versus: str) -> float | None:
        """Share of grams per output token saved against a plan; None unless both are valid."""
        other = self.result(versus)
        if other is None or not (other.valid and result.valid):
            return None
        return 1 - _sci(result) / _sci(other)


def _sci(result: PlanResult) -> float:
    assert result.measured is not None
    return result.measured.sci_g_per_1k_output_tokens


def _value_one(setup: ReplaySetup, outcome: Outcome) -> PlanResult:
    plan, served, bins = outcome.plan, outcome.served, outcome.bins
    if served is None:
        return PlanResult(plan.name, plan.dram_bytes, plan.ssd_bytes, outcome.invalid_because, None)
    carbon = account(
        bins,
        outcome.end_s,
        setup.hardware,
        setup.factors,
        setup.grid,
        dram_bytes=plan.dram_bytes,
        ssd_bytes=plan.ssd_bytes,
        installed=setup.installed,
        replicas=setup.replicas,
        start_s=setup.warmup_s,
    )
    window = bins[int(setup.warmup_s / BIN_S) :]
    computed = max(float(window["prefill_tokens"].sum()), 1.0)
    bins_s = np.minimum(BIN_S, outcome.end_s - np.arange(len(bins)) * BIN_S)
    block_bytes = setup.hardware.layout.block_bytes
    with np.errstate(invalid="ignore"):
        prefill_j_per_token = bins["prefill_j"] / bins["prefill_tokens"]
    measured = Measured(
        served=served,
        carbon=carbon,
        grams=carbon.total_g(setup.scope),
        sci_g_per_1k_output_tokens=sci_g(
            carbon.total_operational_g, carbon.total_embodied_g(setup.scope), served.output_tokens
        ),
        ssd_bytes_written=float(window["written_bytes"].sum()),
        ssd_bytes_dropped=float(window["dropped_bytes"].sum()),
        used_bytes={tier: bins[f"{tier}_blocks"] * block_bytes for tier in ("dram", "ssd")},
        gpu_w=bins["gpu_j"] / np.maximum(bins_s, 1e-9),
        prefill_j_per_token=prefill_j_per_token,
        marginal_prefill_j_per_token=float(window["prefill_j"].sum()) / computed,
        average_prefill_j_per_token=float(window["gpu_j"].sum()) / computed,
    )
    return PlanResult(plan.name, plan.dram_bytes, plan.ssd_bytes, outcome.invalid_because, measured)


def _best(setup: ReplaySetup, outcomes: list[Outcome]) -> PlanResult:
    """The valid one with the least grams per output token; the last one's reason if none is."""
    results = [_value_one(setup, outcome) for outcome in outcomes if outcome.valid]
    if results:
        return min(results, key=_sci)
    last = outcomes[-1]
    because = (
        f"none of {len(outcomes)} fixed sizes is valid; at the largest: {last.invalid_because}"
    )
    return PlanResult(last.plan.name, last.plan.dram_bytes, last.plan.ssd_bytes, because, None)


def value(simulated: Simulated, setup: ReplaySetup) -> Replay:
    """What simulated plans cost on the grid, with the factors and in the scope of a setup.

    Parameters
    ----------
    simulated:
        What the engine did.
    setup:
        As the one it ran with, but for grid, scope and factors that `SIMULATED_FACTORS` leaves out.
    """
    results = [
        _best(setup, outcomes) if outcomes[0].plan.hindsight else _value_one(setup, outcomes[0])
        for outcomes in simulated.outcomes.values()
    ]
    return Replay(simulated, setup, results)


def _simulate_plan(
    setup: ReplaySetup,
    admitted: RequestTrace,
    plan: Plan,
    on_progress: Callable[[float], None] | None = None,
) -> Outcome:
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
        admitted,
        setup.hardware,
        storage,
        batching=setup.batching,
        replicas=setup.replicas,
        on_progress=on_progress,
    )
    block_bytes = setup.hardware.layout.block_bytes
    return outcome_of(
        run,
        plan,
        setup.slo,
        warmup_s=setup.warmup_s,
        block_tokens=admitted.block_tokens,
        capacity_blocks={
            "dram": setup.replicas * (plan.dram_bytes // block_bytes),
            "ssd": setup.replicas * (plan.ssd_bytes // block_bytes),
        },
    )


def _simulate_candidates(
    setup: ReplaySetup,
    admitted: RequestTrace,
    candidates: list[Plan],
    threads: int,
    on_progress: Callable[[float], None],
) -> list[Outcome]:
    outcomes = []
    # The engine runs without the GIL, so threads are enough.
    with ThreadPoolExecutor(threads) as pool:
        for outcome in pool.map(lambda plan: _simulate_plan(setup, admitted, plan), candidates):
            outcomes.append(outcome)
            on_progress(len(outcomes) / len(candidates))
    return outcomes


def prepare(setup: ReplaySetup) -> tuple[RequestTrace, Rejections]:
    """The requests that the engine can serve, checked before anything long is begun.

    Raises
    ------
    InputError
        If no request can be served, none arrives after the warm-up, or the grid ends too early.
    """
    admitted, rejections = admit(setup.trace, setup.hardware)
    if admitted.arrival_s[-1] < setup.warmup_s:
        raise InputError(
            f"no request arrives after a warm-up of {setup.warmup_s:g} s: the trace lasts "
            f"{setup.trace.duration_s:g} s"
        )
    setup.grid.at(np.array([0.0, deadline_s(admitted)]))
    admitted.block_ids  # noqa: B018 - computed once, before threads ask for it
    return admitted, rejections


def simulate_plans(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    *,
    threads: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
    clock: Callable[[], float],
) -> Simulated:
    """Run the engine under every plan.

    Parameters
    ----------
    setup:
        What to run with.
    plans:
        In the order of the results.
    threads:
        For the sizes of plans in hindsight; by default one for each processor.
    on_progress:
        Called now and then with a plan's name, or `COMPILING`, and the share of it that is done.
    clock:
        Wall clock, to report how fast the simulation is.

    Raises
    ------
    InputError
        As `prepare` does.
    """

    def report(name: str, share: float) -> None:
        if on_progress is not None:
            on_progress(name, share)

    admitted, rejections = prepare(setup)
    # One request first, so that compiling is not counted as simulating: seconds, the first time.
    report(COMPILING, 0.0)
    simulate(admitted.select(np.arange(len(admitted)) == 0), setup.hardware, StorageSetup())
    report(COMPILING, 1.0)
    began_s = clock()
    outcomes: dict[str, list[Outcome]] = {}
    for plan in plans:

        def advanced(share: float, name: str = plan.name) -> None:
            report(name, share)

        if plan.hindsight:
            candidates = best_static_candidates(setup.installed)
            outcomes[plan.name] = _simulate_candidates(
                setup, admitted, candidates, threads or os.cpu_count() or 1, advanced
            )
        else:
            outcomes[plan.name] = [_simulate_plan(setup, admitted, plan, advanced)]
        advanced(1.0)
    simulations = sum(len(each) for each in outcomes.values())
    return Simulated(
        setup=setup,
        rejections=rejections,
        outcomes=outcomes,
        block_accesses=simulations * int(admitted.full_blocks.sum()),
        simulating_s=clock() - began_s,
    )


def run_replay(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    *,
    on_progress: Callable[[str, float], None] | None = None,
    clock: Callable[[], float],
) -> Replay:
    """Run every plan and value it; as `simulate_plans` and `value`."""
    return value(simulate_plans(setup, plans, on_progress=on_progress, clock=clock), setup)
