"""How results move with their factors: each end as if the replay had been run with it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from rich.console import Console

from greencache.bench.accounting import Installed
from greencache.bench.plans import parse_plans
from greencache.bench.replay import Replay, run_replay
from greencache.bench.report import html_report
from greencache.bench.results import as_json
from greencache.bench.sensitivity import Sensitivity, cheapest, sci_g, sensitivity_of
from greencache.bench.sensitivity_views import sensitivity_table
from greencache.bench.setup import SIMULATED_FACTORS, ReplaySetup
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import serving_hardware
from greencache.controller.slo import Slo
from greencache.factors import Factors
from greencache.tiers import Admission, Policy
from greencache.traces import RequestTrace, sample_grid

PLANS = "hbm-only,full,static:0+200GB"


def setup_with(
    catalog: Catalog, trace: RequestTrace, overrides: dict[str, float] | None = None
) -> ReplaySetup:
    model = find_model("llama-3.1-8b")
    factors = Factors.of(catalog, catalog.part("gpu", "H100"), overrides)
    hardware = serving_hardware(catalog, model, "4xH100", block_tokens=512, factors=factors)
    return ReplaySetup(
        trace=trace,
        hardware=hardware,
        factors=factors,
        grid=sample_grid("PL"),
        slo=Slo(5.0, 0.2, 0.9),
        installed=Installed(2**36, 10**12),
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=60.0,
        admission=Admission.ALL,
    )


def run(setup: ReplaySetup) -> Replay:
    ticks = itertools.count()
    plans = parse_plans(PLANS, setup.installed)
    return run_replay(setup, plans, clock=lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def short_trace(conversation: RequestTrace) -> RequestTrace:
    return conversation.select(np.arange(len(conversation)) < 600)


@pytest.fixture(scope="module")
def sensitivity(catalog: Catalog, short_trace: RequestTrace) -> Sensitivity:
    replay = run(setup_with(catalog, short_trace))
    ticks = itertools.count()
    plans = parse_plans(PLANS, replay.setup.installed)
    return sensitivity_of(replay, plans, clock=lambda: float(next(ticks)))


def test_every_factor_with_a_range_is_varied_to_both_ends(sensitivity: Sensitivity) -> None:
    factors = sensitivity.base.setup.factors
    for name, factor in factors.as_json().items():
        ends = {bound.factor_value for bound in sensitivity.of(name)}
        assert ends == {factor["low"], factor["high"]} - {factor["value"]}, name
    assert [bound.at for bound in sensitivity.of("scope")] == ["provisioned"]


@pytest.mark.parametrize("name", ["ssd_kg_per_tb", "pue", "gpu_decode_power", "host_kg_per_gpu"])
def test_each_end_is_what_a_replay_with_that_factor_gives(
    catalog: Catalog, short_trace: RequestTrace, sensitivity: Sensitivity, name: str
) -> None:
    """Also where nothing is simulated again."""
    for bound in sensitivity.of(name):
        assert bound.factor_value is not None
        alone = run(setup_with(catalog, short_trace, {name: bound.factor_value}))
        for result in alone.results:
            assert sci_g(bound.replay, result.plan) == sci_g(alone, result.plan)
        assert cheapest(bound.replay) == cheapest(alone)


def test_factors_taken_for_valued_only_leave_the_simulation_alone(
    catalog: Catalog, short_trace: RequestTrace
) -> None:
    """Each factor doubled: those that are not simulated change no time, hit or joule."""
    base = run(setup_with(catalog, short_trace)).simulated

    def fingerprint(name: str) -> list[bytes]:
        value = Factors.of(catalog, catalog.part("gpu", "H100")).as_json()[name]["value"]
        changed = run(setup_with(catalog, short_trace, {name: value * 2})).simulated
        return [each.bins.tobytes() for outcomes in changed.outcomes.values() for each in outcomes]

    unchanged = [each.bins.tobytes() for outcomes in base.outcomes.values() for each in outcomes]
    for name in base.setup.factors.as_json():
        if name not in SIMULATED_FACTORS:
            assert fingerprint(name) == unchanged, name
    assert fingerprint("gpu_tdp_w") != unchanged


def test_it_is_in_the_json_the_table_and_the_page(sensitivity: Sensitivity) -> None:
    written = as_json(sensitivity.base, wall_s=1.0, sensitivity=sensitivity)["sensitivity"]
    assert {entry["factor"] for entry in written} == set(sensitivity.names)
    swings = [sensitivity.swing(name) for name in sensitivity.names]
    assert swings == sorted(swings, reverse=True)
    console = Console(width=140, record=True, file=None)
    with console.capture() as captured:
        console.print(sensitivity_table(sensitivity))
    assert "ssd_kg_per_tb" in captured.get()
    assert html_report(sensitivity.base, sensitivity).count("<svg") == 5
    assert as_json(sensitivity.base, wall_s=1.0)["sensitivity"] is None


def test_a_gpu_that_would_idle_at_full_power_is_left_out(
    catalog: Catalog, short_trace: RequestTrace
) -> None:
    setup = setup_with(catalog, short_trace)
    quantity = dataclasses.replace(setup.factors.gpu_idle_w, high=10_000.0)
    hot = dataclasses.replace(
        setup, factors=dataclasses.replace(setup.factors, gpu_idle_w=quantity)
    )
    ticks = itertools.count()
    plans = parse_plans("hbm-only", setup.installed)
    replay = run_replay(hot, plans, clock=lambda: float(next(ticks)))
    varied = sensitivity_of(replay, plans, clock=lambda: float(next(ticks)))
    assert [bound.at for bound in varied.of("gpu_idle_w")] == ["low"]
