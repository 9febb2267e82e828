"""What the engine does under every plan, whatever that costs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from greencache.bench.outcome import Outcome, outcome_of
from greencache.bench.plans import Plan, runs_in_hindsight
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulation import Rejections, Steering, admit, deadline_s, simulate
from greencache.bench.steering import Controlled, Scheduled
from greencache.bench.storage import StorageSetup
from greencache.controller.sizes import Sizes
from greencache.errors import InputError
from greencache.traces.requests import RequestTrace

__all__ = [
    "COMPILING",
    "Simulated",
    "admit_measured",
    "available_cores",
    "prepare",
    "simulate_plans",
    "steering_of",
]

COMPILING = "compiling"
"""What goes before the plans."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Simulated:
    """What the engine did under every plan, whatever that costs.

    Attributes
    ----------
    setup:
        What it was run with. Scope and most factors played no part; with admission by value, grid
        and SSD factors did where they set what wear is worth (`ReplaySetup.prices`).
    rejections:
        Requests that the engine cannot serve at all.
    outcomes:
        For each plan, in the order asked for, its run; for a plan in hindsight those of all sizes
        that it chooses from.
    blocks:
        Blocks looked up in one simulation.
    simulating_s:
        Wall time of all simulations together, without compiling.
    """

    setup: ReplaySetup
    rejections: Rejections
    outcomes: dict[str, list[Outcome]]
    blocks: int
    simulating_s: float

    @property
    def simulations(self) -> int:
        """How often the engine was run."""
        return sum(len(outcomes) for outcomes in self.outcomes.values())

    @property
    def block_accesses(self) -> int:
        """Blocks looked up, over all simulations."""
        return self.simulations * self.blocks


_Memo = dict[tuple[StorageSetup, tuple[Sizes, ...]], Outcome]
"""Runs by their tiers at first and their schedule, where they depend on nothing else: best-static
and the oracle try the same sizes."""


def steering_of(setup: ReplaySetup, admitted: RequestTrace, plan: Plan) -> Steering | None:
    """What changes the sizes of a plan, if anything does."""
    if plan.steered:
        return Controlled(setup, admitted, plan)
    if plan.schedule:
        return Scheduled(setup, plan)
    return None


def _simulate_plan(
    setup: ReplaySetup,
    admitted: RequestTrace,
    plan: Plan,
    memo: _Memo,
    on_progress: Callable[[float], None] | None = None,
) -> Outcome:
    storage = setup.storage(plan)
    known = None if plan.steered else memo.get((storage, plan.schedule))
    if known is not None:
        return replace(known, plan=plan)
    steering = steering_of(setup, admitted, plan)
    run = simulate(
        admitted,
        setup.hardware,
        storage,
        batching=setup.batching,
        replicas=setup.replicas,
        steering=steering,
        on_progress=on_progress,
    )
    block_bytes = setup.hardware.layout.block_bytes
    outcome = outcome_of(
        run,
        plan,
        setup.slo,
        warmup_s=setup.warmup_s,
        block_tokens=admitted.block_tokens,
        capacity_blocks={
            "dram": setup.replicas * (run.sizes.largest.dram_bytes // block_bytes),
            "ssd": setup.replicas * (run.sizes.largest.ssd_bytes // block_bytes),
        },
    )
    if isinstance(steering, Controlled):
        return replace(outcome, decisions=tuple(steering.decisions))
    memo[storage, plan.schedule] = outcome
    return outcome


def _simulate_candidates(
    setup: ReplaySetup,
    admitted: RequestTrace,
    candidates: list[Plan],
    memo: _Memo,
    threads: int,
    on_progress: Callable[[float], None],
) -> list[Outcome]:
    outcomes = []
    # The engine runs without the GIL, so threads are enough.
    with ThreadPoolExecutor(threads) as pool:
        for outcome in pool.map(
            lambda plan: _simulate_plan(setup, admitted, plan, memo), candidates
        ):
            outcomes.append(outcome)
            on_progress(len(outcomes) / len(candidates))
    return outcomes


def admit_measured(setup: ReplaySetup) -> tuple[RequestTrace, Rejections]:
    """The requests that the engine can serve, some of them after the warm-up.

    Raises
    ------
    InputError
        If no request can be served or none arrives after the warm-up.
    """
    admitted, rejections = admit(setup.trace, setup.hardware)
    if admitted.arrival_s[-1] < setup.warmup_s:
        raise InputError(
            f"no request arrives after a warm-up of {setup.warmup_s:g} s: the trace lasts "
            f"{setup.trace.duration_s:g} s"
        )
    return admitted, rejections


def prepare(setup: ReplaySetup) -> tuple[RequestTrace, Rejections]:
    """The requests that the engine can serve, checked before anything long is begun.

    Raises
    ------
    InputError
        As `admit_measured` and `ReplaySetup.check_grid` do.
    """
    admitted, rejections = admit_measured(setup)
    setup.check_grid(admitted)
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
        For the sizes of plans in hindsight; by default one for each core that this process may use.
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

    memo: _Memo = {}
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
            intervals = math.ceil(deadline_s(admitted, 0.0) / setup.control.interval)
            candidates = runs_in_hindsight(plan, setup.sizes_to_try, intervals)
            outcomes[plan.name] = _simulate_candidates(
                setup, admitted, candidates, memo, threads or available_cores(), advanced
            )
        else:
            outcomes[plan.name] = [_simulate_plan(setup, admitted, plan, memo, advanced)]
        advanced(1.0)
    return Simulated(
        setup=setup,
        rejections=rejections,
        outcomes=outcomes,
        blocks=int(admitted.full_blocks.sum()),
        simulating_s=clock() - began_s,
    )
