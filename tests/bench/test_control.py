"""The controller in a replay, and the oracle that knows how it ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from markupsafe import escape

from greencache.bench.accounting import Installed
from greencache.bench.plans import Plan, parse_plans
from greencache.bench.replay import PlanResult, Replay, run_replay, value
from greencache.bench.report import html_report
from greencache.bench.results import as_json
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import admit_measured, simulate_plans
from greencache.bench.simulation import simulate
from greencache.bench.steering import Controlled, GridForecast
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.forecasts import Perfect
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.factors import Factors
from greencache.quantities import HOUR_S, TB
from greencache.settings import ControlSettings
from greencache.tiers import Policy
from greencache.tiers.admission import Admission
from greencache.traces import GridSeries, RequestTrace
from greencache.traces.compose import compose
from greencache.traces.loads import LoadSeries, flat_load

INSTALLED = Installed(dram_bytes=0, ssd_bytes=2 * TB)
CONTROL = ControlSettings(interval=600.0, learn=1200.0, horizon=6)


@pytest.fixture(scope="module")
def small(catalog: Catalog) -> ServingHardware:
    return serving_hardware(
        catalog, find_model("llama-3.1-70b"), "4xH100", weight_dtype="fp8", block_tokens=512
    )


@pytest.fixture(scope="module")
def trace() -> RequestTrace:
    """Two hours of chat after half an hour of warm-up."""
    return compose(
        "conversation", flat_load(), hours=2, warmup_hours=0.5, mean_rate=0.5, seed=1
    ).trace


@pytest.fixture(scope="module")
def setup(trace: RequestTrace, small: ServingHardware, catalog: Catalog) -> ReplaySetup:
    swing = np.array([600.0, 600.0, 20.0, 600.0] * 12)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return ReplaySetup(
        trace=trace,
        hardware=small,
        factors=Factors.of(catalog, small.gpu),
        grid=GridSeries("made", start, swing, "lifecycle", "made for a test"),
        slo=Slo(ttft_s=300.0, tpot_s=2.0, target=0.9),
        installed=INSTALLED,
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=1800.0,
        candidates=Candidates((0,), (0, TB // 2, 2 * TB)),
        control=CONTROL,
    )


def ticks() -> Iterator[float]:
    return (float(tick) for tick in itertools.count())


def replay_of(setup: ReplaySetup, plans: str) -> Replay:
    clock = ticks()
    return run_replay(setup, parse_plans(plans, setup.installed), clock=lambda: next(clock))


def result_of(replay: Replay, plan: str) -> PlanResult:
    result = replay.result(plan)
    assert result is not None
    return result


def grams(result: PlanResult) -> float:
    assert result.measured is not None
    return result.measured.sci_g_per_1k_output_tokens


@pytest.fixture(scope="module")
def replay(setup: ReplaySetup) -> Replay:
    return replay_of(setup, "hbm-only,full,best-static,greencache,oracle")


def test_the_controller_decides_every_interval_and_says_why(replay: Replay) -> None:
    result = result_of(replay, "greencache")
    assert result.valid
    intervals = int(replay.setup.trace.duration_s / CONTROL.interval)
    assert len(result.decisions) in (intervals, intervals + 1)
    assert [decision.fallback for decision in result.decisions[:2]] == ["learning", None]
    assert all(decision.reason for decision in result.decisions)
    sizes = {decision.sizes for decision in result.decisions}
    assert sizes <= set(replay.setup.sizes_to_try.pairs())


def test_the_report_says_what_was_decided_and_why(replay: Replay) -> None:
    page = html_report(replay)
    changed = [
        decision
        for decision in result_of(replay, "greencache").decisions
        if decision.before != decision.sizes
    ]
    assert changed
    assert "What the controller decided: greencache" in page
    assert all(str(escape(decision.reason)) in page for decision in changed)
    runs = {run["plan"]: run for run in as_json(replay, wall_s=1.0)["runs"]}
    assert len(runs["greencache"]["decisions"]) == len(result_of(replay, "greencache").decisions)
    assert len(runs["greencache"]["capacity_bytes"]) > 1


def test_the_oracle_is_no_worse_than_any_fixed_size_nor_the_controller(replay: Replay) -> None:
    oracle = grams(result_of(replay, "oracle"))
    for plan in ("hbm-only", "full", "best-static"):
        assert oracle <= grams(result_of(replay, plan)) * (1 + 1e-12)


def test_equal_runs_decide_alike(setup: ReplaySetup, replay: Replay) -> None:
    again = replay_of(setup, "greencache")
    assert result_of(again, "greencache").decisions == result_of(replay, "greencache").decisions


def test_an_adviser_leaves_the_largest_sizes(setup: ReplaySetup) -> None:
    advising = replace(setup, control=CONTROL.model_copy(update={"dry_run": True}))
    replay = replay_of(advising, "full,greencache")
    assert grams(result_of(replay, "greencache")) == pytest.approx(
        grams(result_of(replay, "full")), rel=1e-6
    )
    assert any(each.advised != each.sizes for each in result_of(replay, "greencache").decisions)


def test_a_size_that_is_fixed_stays(setup: ReplaySetup) -> None:
    fixed = replace(setup, control=CONTROL.model_copy(update={"ssd": TB // 2}))
    result = result_of(replay_of(fixed, "greencache"), "greencache")
    assert {decision.sizes.ssd_bytes for decision in result.decisions} == {TB // 2}


@pytest.mark.slow
def test_on_a_small_instance_the_oracle_is_the_best_of_all_sequences(setup: ReplaySetup) -> None:
    """Every sequence of sizes is simulated here, whatever the oracle does."""
    hourly = replace(setup, control=CONTROL.model_copy(update={"interval": 3600.0}))
    oracle = result_of(replay_of(hourly, "oracle"), "oracle")
    pairs = hourly.sizes_to_try.pairs()
    clock = ticks()
    best = np.inf
    for sequence in itertools.product(pairs, repeat=3):
        plan = Plan("each", **sequence[0]._asdict(), schedule=sequence)
        simulated = simulate_plans(hourly, [plan], clock=lambda: next(clock))
        (result,) = value(simulated, hourly).results
        if result.valid:
            best = min(best, grams(result))
    assert grams(oracle) == pytest.approx(best, rel=1e-12)


def test_a_forecast_of_hours_is_averaged_over_intervals(setup: ReplaySetup) -> None:
    hours = setup.grid.gco2_per_kwh
    forecast = GridForecast(setup, Perfect(hours), 1800.0).forecast(2 * HOUR_S, 4)
    # On the trace's clock the grid's first hour begins with it; hour 2 is the clean one.
    assert forecast.mean.tolist() == [20.0, 20.0, 600.0, 600.0]
    whole = GridForecast(setup, Perfect(hours), 2 * HOUR_S).forecast(2 * HOUR_S, 2)
    assert whole.mean.tolist() == [310.0, 600.0]


@pytest.mark.parametrize("policy", [Policy.LRU, Policy.CARBON])
def test_miniatures_that_admit_by_value_find_and_write_what_the_engine_does(
    setup: ReplaySetup, policy: Policy
) -> None:
    same = replace(setup, policy=policy, control=CONTROL.model_copy(update={"ssd": TB // 2}))
    admitted, _ = admit_measured(same)
    (plan,) = parse_plans("greencache", Installed(0, TB // 2))
    controlled = Controlled(same, admitted, plan)
    run = simulate(admitted, same.hardware, same.storage(plan), steering=controlled)
    shadow, telemetry = controlled.pilot.lookout.shadow, controlled.pilot.controller.telemetry
    profile, windows = shadow.profile(), telemetry.windows
    # Sums in the profile fade by half in six hours: over two and a half they are about alike.
    prompt_tokens = sum(window.prompt_tokens for window in windows)
    for i, tier in enumerate(("hbm", "dram", "ssd")):
        found = sum(window.hit_tokens[tier] for window in windows) / prompt_tokens
        assert profile.found[0, 0, i] == pytest.approx(found, abs=0.02)
    layout = same.hardware.layout
    written = sum(window.written_bytes for window in windows) / layout.bytes_per_token
    assert profile.written[0] == pytest.approx(written / prompt_tokens, rel=0.25)
    assert run.bins["written_bytes"].sum() > 0
    assert run.bins["declined_bytes"].sum() > 0


def steered(setup: ReplaySetup) -> Controlled:
    """The controller after a whole run."""
    admitted, _ = admit_measured(setup)
    (plan,) = parse_plans("greencache", setup.installed)
    controlled = Controlled(setup, admitted, plan)
    run = simulate(
        admitted,
        setup.hardware,
        setup.storage(plan),
        replicas=setup.replicas,
        steering=controlled,
    )
    assert run.overloaded is None
    return controlled


def test_intensities_that_are_no_numbers_are_filled_said_once_and_counted(
    setup: ReplaySetup,
) -> None:
    earlier = np.array([300.0, np.nan, -5.0, np.inf, 310.0] * 8)
    controlled = steered(replace(setup, grid=replace(setup.grid, earlier_gco2_per_kwh=earlier)))
    said = [notice for decision in controlled.decisions for notice in decision.notices]
    assert sum("intensity" in notice for notice in said) == 1
    assert controlled.pilot.controller.fallbacks["intensity"] == len(controlled.decisions) - 1
    assert {decision.fallback for decision in controlled.decisions} == {"learning", None}


def test_a_grid_of_which_nothing_is_known_leaves_the_largest_sizes(setup: ReplaySetup) -> None:
    grid = replace(setup.grid, gco2_per_kwh=np.full(48, np.nan))
    controlled = steered(replace(setup, grid=grid, admission=Admission.ALL))
    assert {decision.fallback for decision in controlled.decisions} == {"learning", "largest"}
    assert {decision.sizes for decision in controlled.decisions} == {Sizes(0, 2 * TB)}
    assert "at least one value" in controlled.decisions[-1].reason


def test_hours_without_traffic_are_planned_through(setup: ReplaySetup) -> None:
    later = np.where(setup.trace.arrival_s > 4000.0, 3 * HOUR_S, 0.0)
    silent = replace(setup.trace, arrival_s=setup.trace.arrival_s + later)
    controlled = steered(replace(setup, trace=silent))
    windows = controlled.pilot.controller.telemetry.windows
    assert sum(window.arrivals == 0 for window in windows) >= 17
    taken = {decision.fallback for decision in controlled.decisions}
    assert taken <= {"learning", "infeasible", None}


def test_the_load_before_a_composed_trace_is_known_and_is_none_of_its_own() -> None:
    load = LoadSeries("days", "test", "none", HOUR_S, np.arange(1.0, 241.0))
    composed = compose("conversation", load, hours=48, warmup_hours=24, mean_rate=0.01, seed=1)
    earlier = composed.earlier_load
    assert earlier is not None
    # The series goes round: before the warm-up, its last day, lie the days that are left.
    before = np.roll(load.requests_per_s, -48)[: 240 - 72]
    np.testing.assert_allclose(
        earlier.requests_per_s / earlier.requests_per_s[0], before / before[0]
    )
    assert (
        compose(
            "conversation", load, hours=220, warmup_hours=24, mean_rate=0.01, seed=1
        ).earlier_load
        is None
    )


def test_several_engines_are_steered_together(setup: ReplaySetup) -> None:
    controlled = steered(replace(setup, replicas=2))
    telemetry, profile = (
        controlled.pilot.controller.telemetry,
        controlled.pilot.lookout.shadow.profile(),
    )
    tokens = sum(window.prompt_tokens for window in telemetry.windows)
    found = sum(window.hit_tokens["hbm"] for window in telemetry.windows) / tokens
    assert profile.found[0, 0, 0] == pytest.approx(found, abs=0.05)
    assert len({decision.sizes for decision in controlled.decisions}) > 1
