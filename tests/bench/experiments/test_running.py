"""Experiments end to end, small: two zones, three plans, nine sizes, a few hundred requests."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from greencache.bench.experiments.cells import base_setup
from greencache.bench.experiments.running import (
    Results,
    read_results,
    run_experiment,
)
from greencache.bench.experiments.spec import ExperimentSpec, read_experiment
from greencache.bench.plans import Plan
from greencache.bench.replay import run_replay
from greencache.carbon import Scope
from greencache.errors import InputError
from greencache.output import write_json
from greencache.settings import load_settings
from greencache.tiers.admission import Admission
from greencache.traces.samples import sample_grid

LINE = '{"timestamp": %d, "input_length": 3100, "output_length": 40, "hash_ids": [%s]}\n'

SPEC = """
[experiment]
title = "Small"
slo = "full-keeps"
references = ["hbm-only", "full"]
[replay]
model = "llama-3.1-8b"
hardware = "L40"
weight_dtype = "bf16"
[workloads.chat]
trace = "trace.jsonl"
warmup = "0"
[sizes]
dram = ["0", "16GiB", "64GiB"]
ssd = ["0", "50GB", "500GB"]
[zones]
NO = "2022-06-13T00:00Z"
PL = "2021-06-14T00:00Z"
[runs.hbm-only]
plan = "hbm-only"
policy = "lru"
[runs.full]
plan = "full"
policy = "lru"
[runs.best-static]
plan = "best-static"
policy = "lru"
[runs.later]
plan = "as-yet-unknown"
policy = "lru"
[[blocks]]
name = "all"
why = "small"
workloads = ["chat"]
load_fractions = [0.5, 0.8]
zones = ["NO", "PL"]
ssd_kg_per_tb = [30, 3000]
scopes = ["attributable", "provisioned"]
wear = [true, false]
seeds = [1]
runs = ["hbm-only", "full", "best-static", "later"]
[timeline]
workload = "chat"
load_fraction = 0.5
zone = "NO"
ssd_kg_per_tb = 30
runs = ["full"]
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentSpec:
    """Users who come again, with more prefixes of 2,560 tokens than HBM holds."""
    users = 150
    requests = (
        LINE
        % (
            i * 1000,
            ",".join(str(10 * (i * 7 % users) + j) for j in range(5)) + f",{100_000 + i}",
        )
        for i in range(600)
    )
    (tmp_path / "trace.jsonl").write_text("".join(requests))
    (tmp_path / "small.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return read_experiment(tmp_path / "small.toml")


def run(spec: ExperimentSpec, folder: str = "out", **said: Any) -> Results:
    return run_experiment(spec, load_settings(), Path(folder), **{"jobs": 1, **said})


def row_of(results: Results, **axes: object) -> dict[str, Any]:
    (row,) = (r for r in results.rows if all(r[name] == value for name, value in axes.items()))
    return row


@pytest.mark.slow
def test_rows_are_what_replaying_alone_gives(spec: ExperimentSpec) -> None:
    results = run(spec)
    assert len(results.rows) == 2 * 2 * 2 * 2 * 2 * 4
    axes = {"load_fraction": 0.8, "zone": "PL", "ssd_kg_per_tb": 30.0, "scope": "provisioned"}
    setup = base_setup(spec, load_settings(), "chat", 0.8, 1)
    limits = results.limits["chat"]
    assert not isinstance(limits, str)
    kg = replace(setup.factors.ssd_kg_per_tb, value=30.0)
    setup = replace(
        setup,
        factors=replace(setup.factors, ssd_kg_per_tb=kg),
        grid=sample_grid("PL").beginning_at(
            sample_grid("PL").start.replace(year=2021, month=6, day=14)
        ),
        scope=Scope.PROVISIONED,
        admission=Admission.ALL,
        slo=replace(setup.slo, ttft_s=limits["ttft_s"], tpot_s=limits["tpot_s"]),
    )
    sizes = [
        Plan(f"static:{dram}+{ssd}", dram_bytes=dram, ssd_bytes=ssd)
        for dram in spec.sizes.dram_bytes
        for ssd in spec.sizes.ssd_bytes
    ]
    alone = run_replay(setup, sizes, clock=time.perf_counter).results
    grams = {
        each.plan: each.measured.sci_g_per_1k_output_tokens
        for each in alone
        if each.valid and each.measured is not None
    }
    of_run = {
        name: row_of(results, **axes, wear=True, run=name)
        for name in ("hbm-only", "full", "best-static")
    }
    hbm_only = of_run.pop("hbm-only")
    assert hbm_only["invalid_because"].startswith("overloaded")
    assert hbm_only["saving_vs"] == {"hbm-only": None, "full": None}
    measured = {name: row["sci_g_per_1k_output_tokens"] for name, row in of_run.items()}
    assert measured["full"] == grams[sizes[-1].name]
    assert measured["best-static"] == min(grams.values())
    assert measured["best-static"] < measured["full"]
    assert of_run["best-static"]["saving_vs"]["full"] == pytest.approx(
        1 - measured["best-static"] / measured["full"]
    )
    assert of_run["full"]["saving_vs"]["full"] == 0
    assert of_run["full"]["ssd_bytes_mean"] == 500 * 10**9
    assert of_run["full"]["resizes"] == 0
    assert of_run["full"]["slo_attainment_worst_day"] >= 0.9, "the rule is what full keeps"


def test_what_is_only_counted_otherwise_moves_grams_as_it_should(spec: ExperimentSpec) -> None:
    results = run(spec)
    axes = {"load_fraction": 0.5, "run": "full"}

    def grams(**said: object) -> float:
        row = row_of(results, **axes, **said)
        return float(row["embodied_g_per_1k_output_tokens"])

    usual = {"zone": "NO", "scope": "attributable", "wear": True}
    assert grams(**usual, ssd_kg_per_tb=3000.0) > grams(**usual, ssd_kg_per_tb=30.0)
    no_wear = {**usual, "wear": False}
    assert grams(**no_wear, ssd_kg_per_tb=30.0) <= grams(**usual, ssd_kg_per_tb=30.0)
    ttfts_s = {row["ttft_p90_s"] for row in results.rows if row["run"] == "full"}
    assert len(ttfts_s) == 2, "one for each load: the simulation knows nothing of carbon"
    cheap = row_of(results, **{**usual, **axes, "run": "best-static"}, ssd_kg_per_tb=3000.0)
    assert cheap["ssd_bytes_mean"] < 500 * 10**9


def test_a_run_that_cannot_be_made_is_a_row_with_an_error(spec: ExperimentSpec) -> None:
    results = run(spec, only=["load_fraction=0.5", "zone=NO", "ssd_kg_per_tb=30"])
    failed = [row for row in results.rows if row["error"] is not None]
    assert [row["run"] for row in failed] == ["later"] * 4
    assert "unknown plan 'as-yet-unknown'" in failed[0]["error"]
    assert all(value is None for value in failed[0]["saving_vs"].values())


@pytest.mark.slow
def test_an_experiment_that_was_cut_short_goes_on_and_gives_the_same(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(spec, only=["load_fraction=0.5"])
    (part,) = Path("out/parts").iterdir()
    lines = part.read_bytes().splitlines(keepends=True)
    for kept in (lines[:9], [*lines[:9], lines[9][:50]], lines[9:], []):
        part.write_bytes(b"".join(kept))
        assert run(spec, only=["load_fraction=0.5"]) == whole
    monkeypatch.setattr(
        "greencache.bench.experiments.tasks.Cells", None
    )  # nothing is left to compute
    assert run(spec, only=["load_fraction=0.5"]) == whole


def test_parts_add_up_in_their_folder(spec: ExperimentSpec) -> None:
    axes = ["load_fraction=0.5", "zone=NO", "scope=attributable", "wear=true", "ssd_kg_per_tb=3000"]
    alone = run(spec, only=[*axes, "run=best-static"])
    assert alone.rows[0]["saving_vs"]["full"] is None
    both = run(spec, only=[*axes, "run=full"])
    full, best = both.rows
    assert (full["run"], best["run"]) == ("full", "best-static")
    grams = "sci_g_per_1k_output_tokens"
    assert best["saving_vs"]["full"] == pytest.approx(1 - best[grams] / full[grams])


@pytest.mark.slow
def test_processes_give_what_one_process_gives(spec: ExperimentSpec) -> None:
    said: list[tuple[int, int]] = []
    only = ["zone=NO", "scope=attributable"]
    apart = run(spec, "apart", jobs=2, only=only, on_progress=lambda *each: said.append(each))
    assert apart == run(spec, "here", only=only)
    assert said[-1] == (32, 32)
    write_json(Path("apart/results.json"), apart.as_json())
    read = read_results(Path("apart"))
    assert (read.rows, read.checks) == (apart.rows, apart.checks)
    with pytest.raises(InputError, match="run the experiment first"):
        read_results(Path("here"))


def test_one_run_is_kept_hour_by_hour(spec: ExperimentSpec) -> None:
    results = run(spec)
    (row,) = (row for row in results.rows if row.get("by_hour"))
    assert (row["run"], row["zone"], row["load_fraction"], row["wear"]) == ("full", "NO", 0.5, True)
    by_hour = row["by_hour"]
    assert sum(by_hour["requests"]) == row["requests"]
    assert set(by_hour["ssd_bytes"]) == {500 * 10**9}
    assert {len(values) for values in by_hour.values()} == {len(by_hour["requests"])}


def test_where_no_limits_are_kept_every_row_says_so(spec: ExperimentSpec) -> None:
    text = SPEC.replace('weight_dtype = "bf16"', 'weight_dtype = "bf16"\nkv_dtype = "int3"')
    Path("small.toml").write_text(text)
    results = run(read_experiment(Path("small.toml")), only=["zone=NO"])
    assert isinstance(results.limits["chat"], str)
    assert {row["error"] for row in results.rows} == {results.limits["chat"]}
    assert results.checks == []
