"""The controller's models against the simulated engine, on composed requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from greencache.bench import prospects_error
from greencache.bench.prospects_error import FED, PAIRS, compare
from greencache.bench.scenario import Scenario, build
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import admit_measured
from greencache.settings import Settings
from greencache.traces.requests import RequestTrace


@pytest.fixture(scope="module")
def setup() -> ReplaySetup:
    """A day of documents at about half of what saturates the engine, after three hours."""
    scenario = Scenario(
        workload="document",
        mean_rate=0.05,
        hours=24,
        warmup_hours=3,
        seed=2,
        model="llama-3.1-70b",
        hardware="4xL40",
        weight_dtype="int8",
        dram="512GB",
        ssd="16TB",
        grid="SE-SE3",
        plans="full",
    )
    return build(scenario, Settings())[0]


@pytest.fixture(scope="module")
def admitted(setup: ReplaySetup) -> RequestTrace:
    return admit_measured(setup)[0]


@pytest.fixture(scope="module")
def rows(setup: ReplaySetup, admitted: RequestTrace) -> list[dict[str, Any]]:
    return [each.as_json() for each in compare(setup, admitted)]


def test_hit_rates_of_every_size_are_close(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        rates = row["hit_rate"]
        for tier in ("hbm", "dram", "ssd"):
            assert rates[f"{tier}_model"] == pytest.approx(rates[f"{tier}_engine"], abs=0.03)
        model, engine = (
            sum(rates[f"{tier}_{side}"] for tier in ("hbm", "dram", "ssd"))
            for side in ("model", "engine")
        )
        assert model == pytest.approx(engine, abs=0.02)


def test_attainment_is_close_and_closer_than_poisson_arrivals(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert abs(row["attainment_off_points"]) < 7
    for row in (rows[FED], rows[-1]):
        queued, poisson = (row[f"ttft_s_{name}"] for name in ("model", "pollaczek_khinchine"))
        assert abs(queued - row["ttft_s_engine"]) < abs(poisson - row["ttft_s_engine"])


def test_grams_are_close_and_so_is_what_sizes_differ_by(rows: list[dict[str, Any]]) -> None:
    none = rows[0]
    for row in rows:
        assert row["grams_model"] == pytest.approx(row["grams_engine"], rel=0.02)
        assert row["prefill_j_model"] == pytest.approx(row["prefill_j_engine"], rel=0.06)
        model, engine = (
            row[f"grams_{side}"] - none[f"grams_{side}"] for side in ("model", "engine")
        )
        assert model == pytest.approx(engine, rel=0.1, abs=20)


def test_what_is_written_is_close(rows: list[dict[str, Any]]) -> None:
    for (_, ssd), row in zip(PAIRS, rows, strict=True):
        if ssd == 0:
            assert row["written_bytes_model"] == row["written_bytes_engine"] == 0
        else:
            assert row["written_bytes_model"] == pytest.approx(
                row["written_bytes_engine"], rel=0.05
            )


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For one workload and load."""
    monkeypatch.setattr(prospects_error, "LOADS", (0.3,))
    monkeypatch.setattr(prospects_error, "WORKLOADS", ("document",))
    prospects_error.main(hours=6.0, seed=1, json=tmp_path / "errors.json")
    assert "document" in capsys.readouterr().out
    assert '"attainment_off_points"' in (tmp_path / "errors.json").read_text()
