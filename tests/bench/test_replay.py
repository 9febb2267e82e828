"""Replays: plans side by side, and what must hold between them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.bench.accounting import Installed
from greencache.bench.plans import parse_plans
from greencache.bench.replay import Replay, run_replay
from greencache.bench.report import html_report, png_picture
from greencache.bench.results import as_json
from greencache.bench.setup import ReplaySetup
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware
from greencache.controller.slo import Slo
from greencache.errors import InputError, QuantityError, UnknownNameError
from greencache.factors import FACTOR_NAMES, Factors
from greencache.tiers import Admission, Policy
from greencache.traces import GridSeries, RequestTrace, sample_grid
from tests.bench.traces import fresh_prompts

INSTALLED = Installed(dram_bytes=64 * 2**30, ssd_bytes=2 * 10**12)


def flat_grid(gco2_per_kwh: float, hours: int = 48) -> GridSeries:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return GridSeries("flat", start, np.full(hours, gco2_per_kwh), "lifecycle", "made for a test")


@pytest.fixture(scope="module")
def short_trace(conversation: RequestTrace) -> RequestTrace:
    """The first 400 requests of the real trace: two minutes."""
    return conversation.select(np.arange(len(conversation)) < 400)


@pytest.fixture(scope="module")
def setup(short_trace: RequestTrace, catalog: Catalog) -> ReplaySetup:
    hardware = serving_hardware(
        catalog, find_model("llama-3.1-8b"), "4xH100", weight_dtype="fp8", block_tokens=512
    )
    return ReplaySetup(
        trace=short_trace,
        hardware=hardware,
        factors=Factors.of(catalog, hardware.gpu),
        grid=flat_grid(300.0),
        slo=Slo(ttft_s=5.0, tpot_s=0.2, target=0.9),
        installed=INSTALLED,
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=0.0,
        admission=Admission.ALL,
    )


def replay_of(setup: ReplaySetup, plans: str) -> Replay:
    ticks = itertools.count()
    return run_replay(setup, parse_plans(plans, setup.installed), clock=lambda: float(next(ticks)))


def run_json(replay: Replay) -> dict[str, Any]:
    written = json.dumps(as_json(replay, wall_s=1.0), allow_nan=False)
    loaded: dict[str, Any] = json.loads(written)
    return loaded


@pytest.fixture(scope="module")
def replay(setup: ReplaySetup) -> Replay:
    return replay_of(setup, "none,hbm-only,full,static:16GiB+500GB,best-static")


def by_plan(replay: Replay) -> dict[str, dict[str, Any]]:
    return {run["plan"]: run for run in run_json(replay)["runs"]}


def test_none_has_no_hits_and_others_have(replay: Replay) -> None:
    runs = by_plan(replay)
    assert runs["none"]["hit_rate_tokens"] == 0
    assert 0 < runs["hbm-only"]["hit_rate_tokens"] <= runs["full"]["hit_rate_tokens"]
    assert runs["hbm-only"]["hit_rate_tokens_by_tier"]["ssd"] == 0


def test_components_add_up(replay: Replay) -> None:
    for run in by_plan(replay).values():
        for carbon in (run["carbon_g"], *run["carbon_g_by_scope"].values()):
            parts = carbon["by_component"].values()
            assert carbon["operational"] == pytest.approx(sum(p["operational"] for p in parts))
            assert carbon["embodied"] == pytest.approx(sum(p["embodied"] for p in parts))
            assert carbon["total"] == pytest.approx(carbon["operational"] + carbon["embodied"])
        assert run["energy_kwh"] == pytest.approx(sum(run["energy_kwh_by_component"].values()))
        grams = run["carbon_g"]["total"]
        tokens = run["output_tokens"]
        assert run["sci_g_per_1k_output_tokens"] == pytest.approx(grams / tokens * 1000)
        assert run["sci_g_per_request"] == pytest.approx(grams / run["requests"])
        by_tier = run["hit_rate_tokens_by_tier"]
        assert run["hit_rate_tokens"] == pytest.approx(sum(by_tier.values()))


def test_no_more_is_charged_for_what_is_allocated_than_for_what_is_installed(
    replay: Replay,
) -> None:
    for run in by_plan(replay).values():
        scopes = run["carbon_g_by_scope"]
        assert scopes["attributable"]["embodied"] <= scopes["provisioned"]["embodied"] * (1 + 1e-9)
        assert scopes["attributable"]["operational"] == scopes["provisioned"]["operational"]


def test_best_static_is_the_best_of_its_candidates(setup: ReplaySetup, replay: Replay) -> None:
    runs = by_plan(replay)
    best = runs["best-static"]
    assert best["valid"]
    for name in ("hbm-only", "full"):
        ours, other = best["sci_g_per_1k_output_tokens"], runs[name]["sci_g_per_1k_output_tokens"]
        assert ours <= other * (1 + 1e-9)
    sizes = set(setup.sizes_to_try.pairs())
    chosen = best["capacity_bytes"][0][1]
    assert (chosen["dram"], chosen["ssd"]) in sizes
    assert len(sizes) == 81
    assert {(0, 0), (INSTALLED.dram_bytes, INSTALLED.ssd_bytes)} <= sizes


@given(factor=st.sampled_from([2.0, 3.0, 0.5]), base=st.floats(1.0, 1000.0))
@settings(max_examples=5)
def test_the_grid_scales_operational_carbon_and_leaves_embodied(
    setup: ReplaySetup, factor: float, base: float
) -> None:
    one, other = (
        by_plan(replay_of(dataclasses.replace(setup, grid=flat_grid(intensity)), "full"))["full"]
        for intensity in (base, base * factor)
    )
    carbon, scaled = one["carbon_g"], other["carbon_g"]
    assert scaled["operational"] == pytest.approx(carbon["operational"] * factor)
    assert scaled["embodied"] == carbon["embodied"]
    assert one["energy_kwh"] == other["energy_kwh"]


@pytest.mark.parametrize("name", FACTOR_NAMES)
def test_every_factor_that_is_printed_has_an_effect(catalog: Catalog, name: str) -> None:
    """Halved, it changes the result: where SSDs are worn (a burst) or where they age (hours)."""
    model, gpu = find_model("llama-3.1-8b"), catalog.part("gpu", "H100")

    def results(overrides: dict[str, float]) -> list[Any]:
        factors = Factors.of(catalog, gpu, overrides)
        hardware = serving_hardware(catalog, model, "H100", block_tokens=512, factors=factors)
        # The same prompts once more, so that what was written is read again.
        burst = fresh_prompts(100, 0.2, blocks=16)
        names: NDArray[np.int64] = np.tile(burst.block_names, 2)
        again = dataclasses.replace(
            burst,
            arrival_s=np.concatenate([burst.arrival_s, burst.arrival_s + 60.0]),
            input_tokens=np.tile(burst.input_tokens, 2) + 1,
            output_tokens=np.tile(burst.output_tokens, 2),
            block_names=names,
            block_starts=np.arange(201) * 16,
        )
        runs = []
        for trace in (again, fresh_prompts(2, 7200.0)):
            setup = ReplaySetup(
                trace=trace,
                hardware=hardware,
                factors=factors,
                grid=flat_grid(300.0),
                slo=Slo(60.0, 1.0, 0.9),
                installed=Installed(dram_bytes=2**30, ssd_bytes=7 * 10**12),
                policy=Policy.LRU,
                scope=Scope.ATTRIBUTABLE,
                warmup_s=0.0,
                admission=Admission.ALL,
            )
            runs.append(run_json(replay_of(setup, "full"))["runs"])
        return runs

    half = Factors.of(catalog, gpu).as_json()[name]["value"] / 2
    assert results({name: max(half, 1.05) if name == "pue" else half}) != results({})


def test_savings_are_in_grams_per_output_token_among_valid_plans(replay: Replay) -> None:
    runs = by_plan(replay)
    none, full = runs["none"], runs["full"]
    ratio = none["sci_g_per_1k_output_tokens"] / full["sci_g_per_1k_output_tokens"]
    assert none["saving_vs_full"] == pytest.approx(1 - ratio)
    assert full["saving_vs_full"] == 0
    without = by_plan(replay_of(replay.setup, "full"))["full"]
    assert without["saving_vs_hbm_only"] is None


def test_a_missed_slo_makes_a_run_invalid_but_keeps_its_numbers(setup: ReplaySetup) -> None:
    strict = dataclasses.replace(setup, slo=Slo(ttft_s=1e-6, tpot_s=0.2, target=0.9))
    runs = by_plan(replay_of(strict, "full,best-static"))
    assert not runs["full"]["valid"]
    assert runs["full"]["invalid_because"].startswith("SLO missed: 0.0% of requests")
    assert runs["full"]["ttft_s"]["p50"] > 0
    assert runs["full"]["saving_vs_full"] is None
    assert "none of 81 sizes is valid" in runs["best-static"]["invalid_because"]


def test_an_overloaded_engine_gives_no_number(setup: ReplaySetup, catalog: Catalog) -> None:
    slow = serving_hardware(
        catalog, find_model("llama-3.1-8b"), "T4", weight_dtype="int8", block_tokens=512
    )
    overloaded = dataclasses.replace(setup, hardware=slow)
    replay = replay_of(overloaded, "hbm-only,best-static")
    for run in run_json(replay)["runs"]:
        assert not run["valid"]
        assert "overloaded: " in run["invalid_because"]
        measured = (
            "ttft_s",
            "tpot_s",
            "carbon_g",
            "slo_attainment",
            "energy_kwh",
            "saving_vs_full",
        )
        assert all(run[name] is None for name in measured)
    page = html_report(replay)
    assert "not a result" in page


def test_warm_up_is_not_measured(setup: ReplaySetup) -> None:
    whole, late = (
        by_plan(replay_of(dataclasses.replace(setup, warmup_s=warmup_s), "full"))["full"]
        for warmup_s in (0.0, 60.0)
    )
    after = int((setup.trace.arrival_s >= 60.0).sum())
    assert (whole["requests"], late["requests"]) == (len(setup.trace), after)
    assert late["carbon_g"]["total"] < whole["carbon_g"]["total"]
    assert late["ssd_bytes_written"] < whole["ssd_bytes_written"]
    with pytest.raises(InputError, match="no request arrives after"):
        replay_of(dataclasses.replace(setup, warmup_s=6000.0), "full")


def test_the_grid_must_cover_the_trace(setup: ReplaySetup) -> None:
    one_hour = dataclasses.replace(
        setup, grid=flat_grid(100.0, hours=1), trace=fresh_prompts(3, 3000.0)
    )
    with pytest.raises(InputError, match="--grid-start"):
        replay_of(one_hour, "hbm-only")


def test_the_json_has_the_fields_that_others_rely_on(replay: Replay) -> None:
    result = run_json(replay)
    assert result["schema"] == "greencache.replay/1"
    assert result["simulated"] is True
    assert set(result) >= {
        "trace", "grid", "model", "hardware", "slo", "factors", "runs", "wall_s",
        "block_accesses_per_s",
    }  # fmt: skip
    assert set(result["trace"]) >= {
        "name", "requests", "duration_s", "input_tokens", "output_tokens", "composed_from",
    }  # fmt: skip
    assert set(result["grid"]) >= {"zone", "mean_gco2_per_kwh", "kind", "source"}
    assert result["grid"]["mean_gco2_per_kwh"] == pytest.approx(300.0)
    for run in result["runs"]:
        assert set(run) >= {
            "plan", "policy", "valid", "invalid_because", "requests", "rejected", "output_tokens",
            "warmup_s", "hit_rate_tokens", "hit_rate_tokens_by_tier", "ttft_s", "tpot_s",
            "slo_attainment", "energy_kwh", "carbon_g", "embodied_scope",
            "sci_g_per_1k_output_tokens", "saving_vs_full", "saving_vs_hbm_only",
            "saving_vs_best_static", "ssd_bytes_written", "capacity_bytes",
        }  # fmt: skip
        assert set(run["ttft_s"]) == {"mean", "p50", "p90", "p99"}
        assert run["capacity_bytes"][0][0] == 0
        assert set(run["capacity_bytes"][0][1]) == {"dram", "ssd"}
    for factor in result["factors"].values():
        assert factor["low"] <= factor["value"] <= factor["high"]
        assert factor["source"]


def test_equal_runs_give_equal_results(setup: ReplaySetup) -> None:
    one, other = (run_json(replay_of(setup, "full,best-static")) for _ in range(2))
    assert one == other


def test_the_report_stands_alone(replay: Replay) -> None:
    page = html_report(replay)
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert 'src="http' not in page
    assert "href=" not in page.replace('xlink:href="#', "")
    for result in replay.results:
        assert result.plan in page
    assert png_picture(replay).startswith(b"\x89PNG")


def test_names_are_escaped(replay: Replay) -> None:
    named = dataclasses.replace(replay.setup.trace, name="<script>alert(1)</script>")
    evil = dataclasses.replace(replay, setup=dataclasses.replace(replay.setup, trace=named))
    assert "<script" not in html_report(evil)


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("fulll", UnknownNameError, "unknown plan 'fulll'; did you mean 'full'"),
        ("static:12XB", QuantityError, "plan static:12XB: '12XB' is not a size"),
        ("static:9TB", InputError, "more than the"),
        ("static:1GB+1GB+1GB", InputError, "write static:SSD or static:DRAM"),
        ("", InputError, "at least one plan"),
        (" , ", InputError, "at least one plan"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, error: type[InputError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        parse_plans(text, INSTALLED)


def test_static_plans() -> None:
    ssd, both = parse_plans("static:1TB,static:16GiB+0", INSTALLED)
    assert (ssd.dram_bytes, ssd.ssd_bytes) == (INSTALLED.dram_bytes, 10**12)
    assert (both.dram_bytes, both.ssd_bytes) == (16 * 2**30, 0)
    assert len(parse_plans("full,full", INSTALLED)) == 1


def test_more_storage_means_more_hits_in_the_real_trace(
    conversation: RequestTrace, catalog: Catalog, hardware: ServingHardware
) -> None:
    """The whole trace under the default engine, with the known hit rate of everything kept.

    In trace order 37.3 % of prompt tokens hit at most (the curve at full capacity); a store filled
    at the end of each prefill comes close, from below.
    """
    engine = serving_hardware(
        catalog, find_model("llama-3.1-8b"), "4xH100", weight_dtype="fp8", block_tokens=512
    )
    setup = ReplaySetup(
        trace=conversation,
        hardware=engine,
        factors=Factors.of(catalog, engine.gpu),
        grid=sample_grid("CISO"),
        slo=Slo(2.0, 0.2, 0.9),
        installed=Installed(512 * 2**30, 16 * 10**12),
        policy=Policy.LRU,
        scope=Scope.ATTRIBUTABLE,
        warmup_s=0.0,
        admission=Admission.ALL,
    )
    runs = by_plan(replay_of(setup, "hbm-only,static:0,static:4TB,full"))
    rates = [
        runs[name]["hit_rate_tokens"] for name in ("hbm-only", "static:0", "static:4TB", "full")
    ]
    assert rates == sorted(rates)
    assert 0.36 < rates[-1] < 0.3734
