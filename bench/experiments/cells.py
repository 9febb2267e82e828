"""The cells of one task: one stream of requests, under every run, zone and factor that is asked.

A fixed size is simulated once for all cells that give it the same tiers, and valued for each.
``best-static`` is exhaustive: every pair of sizes of the experiment is simulated (85 for the main
one, a tenth of a second each), and the best that keeps the SLO on every day is chosen anew in each
cell.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from greencache.bench.experiments.rows import Row, failed_row, hourly, row_of
from greencache.bench.experiments.spec import Cell, ControlValue, ExperimentSpec, RunSpec
from greencache.bench.plans import Plan, parse_plans, runs_in_hindsight
from greencache.bench.replay import PlanResult, Replay, value
from greencache.bench.scenario import CarbonSide, build, carbon_side
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import Simulated, simulate_plans
from greencache.bench.storage import StorageSetup
from greencache.controller.sizes import Candidates
from greencache.controller.slo import Slo
from greencache.errors import InputError
from greencache.settings import ControlSettings, Settings
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy

__all__ = ["NO_WEAR_BYTES", "Cells", "base_setup"]

NO_WEAR_BYTES = 1e19
"""What a drive may be written where wear is off: more than any run writes in its lifetime."""

_MANY = 10**6
"""Intervals of a run that is too long to try every sequence of sizes."""

_MOST_KEPT = 1280
"""Outcomes of fixed sizes that are kept, some 0.5 MB each; the least recently used goes first. All
zones and factors of the main experiment have eleven prices of wear, of 85 sizes each."""


def base_setup(
    spec: ExperimentSpec, settings: Settings, workload: str, load_fraction: float, seed: int
) -> ReplaySetup:
    """A stream of requests and its engine, everything installed, as `build` makes them.

    Load fractions are of what saturates full caching under LRU that writes every block, so that
    all runs are asked for the same.

    Raises
    ------
    InputError
        If the scenario cannot be run.
    """
    scenario = replace(spec.scenario(workload, load_fraction, seed), policy=str(Policy.LRU))
    setup, _ = build(scenario, settings)
    return setup


class Cells:
    """All cells of one workload, load and seed.

    Parameters
    ----------
    spec, settings:
        The experiment, and what holds where it says nothing.
    cell:
        Any of the cells: its workload, load and seed are those of all.
    slo:
        Limits by rule; None for those of the replay.
    """

    def __init__(
        self, spec: ExperimentSpec, settings: Settings, cell: Cell, slo: Slo | None
    ) -> None:
        self._spec, self._settings = spec, settings
        setup = base_setup(spec, settings, cell.workload, cell.load_fraction, cell.seed)
        self._base = setup if slo is None else replace(setup, slo=slo)
        self._scenario = spec.scenario(cell.workload, cell.load_fraction, cell.seed)
        self._kept: OrderedDict[StorageSetup, Simulated] = OrderedDict()
        self.simulations = 0

    def row(self, cell: Cell, name: str, *, by_hour: bool = False) -> Row:
        """What one run gives in one cell; with ``by_hour`` also hour by hour."""
        run = self._spec.runs[name]
        try:
            setup = self._setup(cell, run)
            (plan,) = parse_plans(run.plan, setup.installed)
            if plan.hindsight:
                replay, result = self._hindsight(setup, plan)
            elif plan.steered:
                replay = self._steered(setup, plan)
                (result,) = replay.results
            else:
                replay = self._fixed(setup, plan)
                (result,) = replay.results
        except InputError as fault:
            return failed_row(cell, name, run, str(fault))
        row = row_of(cell, name, run, replay, result)
        if by_hour:
            row["by_hour"] = hourly(replay, result)
        return row

    def _side(self, cell: Cell) -> CarbonSide:
        factors = {**self._scenario.factors, "ssd_kg_per_tb": cell.ssd_kg_per_tb}
        if not cell.wear:
            factors["ssd_rated_write_bytes"] = NO_WEAR_BYTES
        scenario = replace(
            self._scenario,
            grid=cell.zone,
            grid_start=self._spec.zones[cell.zone],
            scope=cell.scope,
            factors=factors,
        )
        return carbon_side(scenario, self._settings)

    def _setup(self, cell: Cell, run: RunSpec) -> ReplaySetup:
        """The stream as one run has it in one cell."""
        sizes = self._spec.sizes
        return replace(
            self._side(cell).of(self._base),
            policy=Policy.parse(run.policy),
            admission=Admission.parse(run.admission),
            candidates=Candidates(tuple(sizes.dram_bytes), tuple(sizes.ssd_bytes)),
            control=_controlled(self._base.control, run.control),
        )

    def _fixed(self, setup: ReplaySetup, plan: Plan) -> Replay:
        """A plan of fixed sizes, simulated unless it was before."""
        key = setup.storage(plan)
        simulated = self._kept.get(key)
        if simulated is None:
            simulated = simulate_plans(setup, [plan], threads=1, clock=time.perf_counter)
            self.simulations += 1
            self._kept[key] = simulated
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        (outcomes,) = simulated.outcomes.values()
        named = replace(outcomes[0], plan=plan)
        return value(replace(simulated, outcomes={plan.name: [named]}), setup)

    def _steered(self, setup: ReplaySetup, plan: Plan) -> Replay:
        self.simulations += 1
        return value(simulate_plans(setup, [plan], clock=time.perf_counter), setup)

    def _hindsight(self, setup: ReplaySetup, plan: Plan) -> tuple[Replay, PlanResult]:
        """The least grams among runs that keep the SLO on every day; failing that, over all days.

        Is none valid at all, it is the largest size and its reason.
        """
        replays = [
            self._fixed(setup, each) if not each.steered else self._steered(setup, each)
            for each in runs_in_hindsight(plan, setup.sizes_to_try, _MANY)
        ]
        target = setup.slo.target

        def rank(replay: Replay) -> tuple[bool, float]:
            measured = replay.results[0].measured
            assert measured is not None
            worst = float(np.nanmin(measured.served.slo_attainment_by_day))
            return worst < target, measured.sci_g_per_1k_output_tokens

        valid = [replay for replay in replays if replay.results[0].valid]
        if valid:
            best = min(valid, key=rank)
            return best, best.results[0]
        last = replays[-1].results[0]
        because = f"none of {len(replays)} sizes is valid; at the largest: {last.invalid_because}"
        return replays[-1], replace(last, invalid_because=because)


def _controlled(settings: ControlSettings, control: Mapping[str, ControlValue]) -> ControlSettings:
    """Settings with what a run says laid over them.

    Raises
    ------
    InputError
        If a setting is unknown or malformed.
    """
    try:
        return ControlSettings(**{**settings.model_dump(exclude_unset=True), **control})
    except ValidationError as fault:
        problem = fault.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"control.{name}: {problem['msg']}, not {problem['input']!r}") from None
