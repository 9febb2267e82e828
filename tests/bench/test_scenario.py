"""From what users say to something to run: what goes together, what it becomes, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.bench.replay import run_replay
from greencache.bench.results import as_json
from greencache.bench.scenario import Scenario, build
from greencache.bench.scenario_file import scenario_from
from greencache.bench.workload import LONGEST_WARMUP_HOURS, busiest_hour_share, warmup_hours
from greencache.errors import InputError, UnknownNameError
from greencache.settings import load_settings
from greencache.traces.loads import LoadSeries, find_load

SMALL = {
    "workload": "conversation",
    "hours": 0.5,
    "warmup_hours": 0.25,
    "mean_rate": 2.0,
    "plans": "hbm-only,full",
    "ssd": "500GB",
}


def replay_json(scenario: Scenario) -> dict[str, Any]:
    ticks = itertools.count()

    def clock() -> float:
        return float(next(ticks))

    setup, plans = build(scenario, load_settings())
    return as_json(run_replay(setup, plans, clock=clock), wall_s=1.0)


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    one, again, other = (replay_json(scenario_from({**SMALL, "seed": seed})) for seed in (3, 3, 4))
    assert one == again
    assert one["runs"] != other["runs"]


def test_a_workload_says_what_it_is_made_of() -> None:
    result = replay_json(scenario_from(SMALL))
    trace, load = result["trace"], result["load"]
    assert [part["role"] for part in trace["composed_from"]] == ["sessions", "load"]
    assert any("semi-synthetic" in note for note in trace["notes"])
    assert load["mean_rate"] == 2.0
    assert load["saturation_rate"] is None
    for run in result["runs"]:
        assert run["warmup_s"] == 900.0
        # Measured: half an hour at 2 a second; Poisson starts of sessions of several requests.
        assert run["requests"] == pytest.approx(3600, rel=0.2)


def test_the_grid_begins_with_the_measured_hours() -> None:
    setup, _ = build(scenario_from({**SMALL, "warmup_hours": 2, "grid": "DE"}), load_settings())
    hours_s = np.array([0.0, 7_199.0, 7_200.0, 8_000.0])
    first = setup.grid.gco2_per_kwh[0]
    assert setup.gco2_per_kwh(hours_s).tolist() == [first] * 4
    recorded, _ = build(Scenario(grid="DE"), load_settings())
    assert recorded.grid_offset_s == 0.0


@pytest.mark.slow
def test_a_load_fraction_is_of_the_rate_that_saturates() -> None:
    """Twice the fraction, twice the rate; at nine tenths it keeps up, at 1.3 it does not."""
    options = {k: v for k, v in SMALL.items() if k != "mean_rate"} | {"load": "flat"}
    quiet, busy, over = (
        replay_json(scenario_from({**options, "plans": "full", "load_fraction": fraction}))
        for fraction in (0.45, 0.9, 1.3)
    )
    assert busy["load"]["mean_rate"] == pytest.approx(2 * quiet["load"]["mean_rate"])
    assert busy["load"]["saturation_rate"] == quiet["load"]["saturation_rate"]
    assert "overloaded" not in (busy["runs"][0]["invalid_because"] or "")
    assert "overloaded" in over["runs"][0]["invalid_because"]


def test_the_busiest_hour_carries_the_fraction() -> None:
    rates = np.ones(144)
    rates[60:66] = 3.0
    load = LoadSeries("peak", "made for a test", "none", 600.0, rates)
    mean = rates.mean()
    assert busiest_hour_share(load, 24.0) == pytest.approx(3.0 / mean)
    assert busiest_hour_share(find_load("flat"), 24.0) == pytest.approx(1.0)
    assert busiest_hour_share(load, 0.5) == 1.0


def test_warm_up_lasts_as_long_as_the_largest_tier_takes_to_fill() -> None:
    """Twice the tier or half the rate, twice as long; between an hour and a day."""
    block_bytes = 512 * 131_072
    at = [warmup_hours("conversation", 0.5, size, block_bytes, None) for size in (4e12, 8e12)]
    assert at[1] == pytest.approx(2 * at[0], abs=1)
    assert warmup_hours("conversation", 0.25, 4e12, block_bytes, None) == pytest.approx(
        at[1], abs=1
    )
    assert warmup_hours("conversation", 100.0, 1e9, block_bytes, None) == 1
    assert warmup_hours("conversation", 1e-3, 1e15, block_bytes, None) == LONGEST_WARMUP_HOURS


def test_after_its_warm_up_a_tier_no_longer_grows() -> None:
    """Without --warmup-hours: what is measured is stationary, and says so."""
    options = {k: v for k, v in SMALL.items() if k != "warmup_hours"}
    run = replay_json(scenario_from({**options, "ssd": "1TB", "dram": "64GiB"}))["runs"][1]
    assert run["plan"] == "full"
    assert run["warmup_s"] >= 3600
    assert run["stationary"]
    assert run["content_growth"]["ssd"] < 0.05
    cold = replay_json(scenario_from({**SMALL, "ssd": "16TB", "admission": "all"}))["runs"][1]
    assert not cold["stationary"]


def test_documents_are_promised_a_longer_ttft_unless_something_else_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = scenario_from({**SMALL, "workload": "document"})
    assert build(document, load_settings())[0].slo.ttft_s == 15.0
    assert build(scenario_from(SMALL), load_settings())[0].slo.ttft_s == 2.0
    monkeypatch.setenv("GREENCACHE_SLO__TTFT", "3s")
    assert build(document, load_settings())[0].slo.ttft_s == 3.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"load_fraction": 0.5, "mean_rate": 1.0}, "not both"),
        ({"load_fraction": 0.0}, "--load-fraction is more than 0"),
        ({"hours": 3.0}, "--hours is for composed workloads; name one with --workload"),
        ({"seed": 3}, "--seed is for composed workloads"),
        ({"workload": "agentic", "warmup_hours": 1e9}, "--warmup-hours lies in 0"),
        ({"replicas": 0}, r"--replicas lies in 1\.\.1024"),
        ({"workload": "conversation", "trace": "x.jsonl"}, "or --workload, not both"),
        ({"workload": "conversation", "skip_bad": True}, "--skip-bad is for traces"),
        ({"grid_start": "2020-06-01T17:30Z"}, "begins at a whole hour"),
        ({"replicas": 10**6}, r"--replicas lies in 1\.\.1024"),
        ({"factors": {"gpu_prefill_power": 1e9}}, "a share, at most 1"),
        ({"factors": {"ssd_lifetime_years": 1e-300}}, "at least a day"),
        ({"workload": "conversation", "format": "azure"}, "--format is for traces"),
        ({"workload": "conversation", "warmup": "10min"}, "takes --warmup-hours"),
        ({"workload": "conversation", "hours": -1.0}, "--hours is more than 0"),
        ({"workload": "conversation", "mean_rate": -1.0, "hours": 1.0}, "mean rate is more"),
        ({"workload": "conversation", "seed": -1, "mean_rate": 1.0}, "a seed is 0 or more"),
        ({"workload": "conversation", "block_tokens": 500, "mean_rate": 1.0}, "multiple"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build(scenario_from(options), load_settings())


def test_names_that_are_not_known_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'conversation'"):
        build(scenario_from({"workload": "conversations", "mean_rate": 1.0}), load_settings())
    with pytest.raises(UnknownNameError, match="did you mean 'm-large'"):
        build(scenario_from({"workload": "agentic", "load": "m-larg"}), load_settings())
    with pytest.raises(UnknownNameError, match="did you mean 'hardware'"):
        scenario_from({"hardwar": "H100"})


def test_a_file_may_say_numbers_where_options_are_texts() -> None:
    scenario = scenario_from({"mean_rate": 2, "ssd": 10**12, "trace": "a.jsonl", "skip_bad": True})
    assert (scenario.mean_rate, scenario.ssd, scenario.skip_bad) == (2.0, "1TB", True)
    assert scenario.trace == Path("a.jsonl")
    for options in ({"replicas": 1.5}, {"skip_bad": 1}, {"mean_rate": "2"}, {"plans": ["full"]}):
        with pytest.raises(
            InputError,
            match=r" is not a number| is not a whole number| is not true or false| is not a text",
        ):
            scenario_from(options)


def test_a_stream_of_a_few_requests_has_a_mean_intensity() -> None:
    few = {**SMALL, "mean_rate": 0.002, "hours": 1, "warmup_hours": 1, "seed": 2}
    result = replay_json(scenario_from(few))
    assert result["trace"]["requests"] < 30
    assert result["grid"]["mean_gco2_per_kwh"] > 0


def test_blocks_that_no_prompt_fills_need_no_long_warm_up() -> None:
    setup, _ = build(
        scenario_from(
            {**{k: v for k, v in SMALL.items() if k != "warmup_hours"}, "block_tokens": 2**17}
        ),
        load_settings(),
    )
    assert setup.warmup_s == 3600.0


def test_the_last_answers_may_outlast_the_grid(tmp_path: Path) -> None:
    """An hour of grid, a request near its end with a long answer: no plan is lost for it."""
    grid = tmp_path / "hour.csv"
    rows = "zone,utc_hour,gco2_per_kwh,kind\nX,2024-01-01T00:00Z,100,lifecycle\n"
    grid.write_text(rows)
    trace = tmp_path / "late.jsonl"
    line = '{"timestamp": %d, "input_length": 600, "output_length": %d, "hash_ids": [1, %d]}\n'
    trace.write_text(line % (0, 2, 2) + line % (3_500_000, 100_000, 3))
    result = replay_json(Scenario(trace=trace, grid=str(grid), plans="hbm-only", warmup="0s"))
    assert result["runs"][0]["carbon_g"]["total"] > 0
    trace.write_text(line % (0, 2, 2) + line % (4_000_000, 2, 3))
    with pytest.raises(InputError, match="--grid-start"):
        replay_json(Scenario(trace=trace, grid=str(grid), plans="hbm-only", warmup="0s"))


def test_the_busiest_hour_of_a_trace_is_a_whole_one(tmp_path: Path) -> None:
    """Two requests in the first hour, five in the second, many in a last one that is cut short."""
    trace = tmp_path / "hours.jsonl"
    times_s = [0, 10, *(3_600 + 60 * i for i in range(5)), *(7_200 + i for i in range(9))]
    line = '{"timestamp": %d, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}\n'
    trace.write_text("".join(line % (1000 * t_s) for t_s in times_s))
    setup, _ = build(Scenario(trace=trace), load_settings())
    assert setup.load is not None
    assert setup.load.busiest_hour_rate == pytest.approx(5 / 3600)
