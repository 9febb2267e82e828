"""The backtest: it scores what it should, on days that a forecast cannot see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray

from greencache.bench.forecast_backtest import Trial, backtest, hourly_load, main, trials
from greencache.controller.forecasts import Forecast, Perfect, SeasonalNaive
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.traces.loads import find_load
from greencache.traces.samples import sample_grid


@dataclass
class Witness:
    """Notes what it was shown, and forecasts as the day before was."""

    fits: list[tuple[int, int | None]]
    shown: list[tuple[NDArray[np.float64], int | None]]

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> Witness:
        self.fits.append((len(history), origin))
        return self

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        self.shown.append((history, origin))
        return SeasonalNaive().forecast(history, steps, origin)


def trial(values: NDArray[np.float64], history_h: int | None = None) -> Trial:
    origins = np.arange(48, len(values) - 24 + 1, 6)
    return Trial("test", "g/kWh", values, SeasonalNaive(), origins, 24, history_h)


@pytest.mark.parametrize("history_h", [None, 30])
def test_a_forecast_is_shown_what_came_before_and_nothing_else(history_h: int | None) -> None:
    values = np.random.default_rng(0).random(120)
    witness = Witness([], [])
    backtest(trial(values, history_h), witness)
    assert [origin for _, origin in witness.shown] == [*range(48, 97, 6)]
    for known, origin in witness.shown:
        assert origin is not None
        assert (known == values[origin - (history_h or origin) : origin]).all()
        assert known.base is None  # a copy: no way from it to the values that follow
    assert [origin for _, origin in witness.fits] == [48, 72, 96]


def test_the_oracle_is_never_off_and_the_baseline_by_what_changed() -> None:
    values = np.arange(1.0, 121.0)
    perfect = backtest(trial(values), Perfect(values))
    assert perfect.mae == perfect.mape == perfect.relative_width == 0
    assert perfect.coverage == 1
    naive = backtest(trial(values), SeasonalNaive())
    assert naive.mae == 24  # each day is 24 higher than the one before
    came = values[trial(values).origins[:, None] + np.arange(24)]
    assert naive.mape == pytest.approx((24 / came).mean())
    assert naive.coverage == 1  # which it knows by then


def test_relative_errors_are_not_given_where_there_are_zeros() -> None:
    values = np.arange(120.0)
    values[60] = 0
    assert backtest(trial(values), SeasonalNaive()).mape is None


def test_loads_are_taken_as_means_of_hours() -> None:
    rates = find_load("m-large").requests_per_s
    hourly = hourly_load("m-large")
    assert len(hourly) == 14 * 24
    assert hourly[5] == pytest.approx(rates[30:36].mean())


def test_origins_lie_in_the_held_out_days_and_their_steps_in_the_series() -> None:
    zone, *loads = trials(["FR"], days=10)
    assert zone.values is sample_grid("FR").gco2_per_kwh
    assert zone.origins[0] >= len(zone.values) - 240
    assert (zone.origins % 6 == 0).all()
    for each in (zone, *loads):
        assert each.origins[-1] + each.steps <= len(each.values)
    week = loads[0].origins
    assert (week[0], week[-1]) == (7 * 24, 13 * 24)


def test_a_load_of_noise_around_a_level_is_forecast_better_than_by_the_day_before() -> None:
    """Its yesterday is one draw, the level many: errors fall by about the square root of 2."""
    values = 100 + np.random.default_rng(3).normal(0, 10, 24 * 20)
    score, naive = (backtest(trial(values), way) for way in (ShapeAndLevel(), SeasonalNaive()))
    assert 0.65 < score.mae / naive.mae < 0.8
    assert 0.85 <= score.coverage <= 0.95


def test_the_command_writes_every_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "backtest.json"
    main(zones="SE-SE3,FR", days=4, json=path)
    result = json.loads(path.read_text())
    assert result["schema"] == "greencache.bench.forecast_backtest/1"
    series = [run["series"] for run in result["runs"]]
    assert series[:2] == ["SE-SE3", "FR"]
    assert result["summary"]["zones"] == 2
    better = sum(run["mae_ratio"] < 1 for run in result["runs"][:2])
    assert result["summary"]["better_than_naive"] == better
    for run in result["runs"]:
        assert run["mae_ratio"] == pytest.approx(run["ours"]["mae"] / run["naive"]["mae"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in series)


def test_a_zone_that_does_not_ship_is_named() -> None:
    with pytest.raises(typer.BadParameter, match="unknown zone 'XX'"):
        main(zones="XX")
