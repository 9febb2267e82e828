"""How far forecasts are off on held-out days, beside those of the seasonal-naive baseline.

``python -m greencache.bench.forecast_backtest [--zones A,B] [--days N] [--json FILE]``: on the last
days of every shipped zone and load, forecasts of 24 hours are made again and again, each from
values before its origin only, and compared with what came. The methods and their constants were
chosen on days before the last 90 of each zone, and on the first week of the load `m-large`:
``--days`` above 90 looks at days that were chosen on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from greencache.controller.forecasts import Fitted, Forecaster, SeasonalNaive
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.errors import InputError
from greencache.output import check_outputs, write_json
from greencache.quantities import HOUR_S
from greencache.traces.loads import find_load
from greencache.traces.samples import grid_zones, sample_grid

__all__ = ["HELD_OUT_DAYS", "Score", "Trial", "backtest", "hourly_load", "main", "trials"]

HELD_OUT_DAYS = 90
DAY_H = 24
ZONE_STRIDE_H = 6
"""Between origins in a zone: at 00:00, 06:00, 12:00 and 18:00 UTC."""

LOAD_DAYS = 7
"""Of the 14 of `m-large`: the first half was chosen on."""

LOAD_HISTORY_DAYS = (1, 2, 3, 7, None)
"""How many of the last days are known to a forecast of a load; None is all so far."""

INTERVAL = (0.05, 0.95)
COVERED = (0.85, 0.95)
"""Shares of values in the 90 % interval that are near enough to it."""


@dataclass(frozen=True)
class Trial:
    """A series, and the forecasts to make of it.

    Attributes
    ----------
    name:
        Zone or load, and what is known of it.
    unit:
        Of the values.
    values:
        One an hour.
    forecaster:
        What is compared with the baseline.
    origins:
        How many values are known to each forecast, rising.
    refit_h:
        Hours that a fit serves.
    history_h:
        How many of the last values are known; None if all are.
    steps:
        Hours forecast.
    """

    name: str
    unit: str
    values: NDArray[np.float64] = field(repr=False)
    forecaster: Forecaster
    origins: NDArray[np.int64] = field(repr=False)
    refit_h: int
    history_h: int | None = None
    steps: int = DAY_H


@dataclass(frozen=True)
class Score:
    """How one way to forecast did.

    Attributes
    ----------
    mae:
        Mean absolute error.
    mape:
        Mean of the absolute error over the value; None where a value is 0.
    coverage:
        Share of values inside the 90 % interval.
    relative_width:
        Mean width of that interval over the mean of the values.
    fit_s, forecast_s:
        Mean time of each.
    """

    mae: float
    mape: float | None
    coverage: float
    relative_width: float
    fit_s: float
    forecast_s: float


def backtest(trial: Trial, forecaster: Forecaster) -> Score:
    """Forecast from every origin, from what was known then."""
    fitted: Fitted | None = None
    fitted_at = 0
    fit_s: list[float] = []
    forecast_s: list[float] = []
    means, lows, highs = [], [], []
    for origin in trial.origins.tolist():
        first = 0 if trial.history_h is None else max(origin - trial.history_h, 0)
        known = trial.values[first:origin].copy()  # what comes later is not even in reach
        began_s = time.perf_counter()
        if fitted is None or origin - fitted_at >= trial.refit_h:
            fitted, fitted_at = forecaster.fit(known, origin), origin
            fit_s.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        forecast = fitted.forecast(known, trial.steps, origin)
        low, high = forecast.quantile(np.array(INTERVAL))
        forecast_s.append(time.perf_counter() - began_s)
        means.append(forecast.mean)
        lows.append(low)
        highs.append(high)
    came = trial.values[trial.origins[:, None] + np.arange(trial.steps)]
    errors = np.abs(np.array(means) - came)
    low, high = np.array(lows), np.array(highs)
    return Score(
        mae=float(errors.mean()),
        mape=float((errors / came).mean()) if (came > 0).all() else None,
        coverage=float(((low <= came) & (came <= high)).mean()),
        relative_width=float((high - low).mean() / came.mean()),
        fit_s=float(np.mean(fit_s)),
        forecast_s=float(np.mean(forecast_s)),
    )


def hourly_load(name: str) -> NDArray[np.float64]:
    """Mean requests per second in each whole hour of a load."""
    load = find_load(name)
    windows = round(HOUR_S / load.window_s)
    hours = len(load.requests_per_s) // windows
    return np.asarray(load.requests_per_s[: hours * windows].reshape(hours, windows).mean(axis=1))


def _zone_trial(zone: str, days: int, refit_days: int) -> Trial:
    values = sample_grid(zone).gco2_per_kwh
    last = len(values) - DAY_H
    first = max(len(values) - days * DAY_H, 8 * DAY_H)
    origins = np.arange(first, last + 1)
    origins = origins[origins % ZONE_STRIDE_H == 0]
    return Trial(zone, "g/kWh", values, LaggedRegression(), origins, refit_days * DAY_H)


def _load_trials() -> Iterator[Trial]:
    values = hourly_load("m-large")
    origins = np.arange(len(values) - LOAD_DAYS * DAY_H, len(values) - DAY_H + 1)
    for days in LOAD_HISTORY_DAYS:
        known = "all so far" if days is None else f"last {days} d"
        history_h = None if days is None else days * DAY_H
        name = f"m-large, {known}"
        yield Trial(name, "req/s", values, ShapeAndLevel(), origins, 1, history_h)
    values = hourly_load("deepseek-r1")
    first, steps = 12, 6
    origins = np.arange(first, len(values) - steps + 1)
    name = "deepseek-r1, 12 h and more, 6 h ahead"
    yield Trial(name, "req/s", values, ShapeAndLevel(), origins, 1, None, steps)


def trials(zones: list[str], days: int = HELD_OUT_DAYS, refit_days: int = 7) -> list[Trial]:
    """What is compared: the zones' last days, then the loads.

    Raises
    ------
    UnknownNameError
        If a zone does not ship.
    """
    return [*(_zone_trial(zone, days, refit_days) for zone in zones), *_load_trials()]


def _run(trial: Trial) -> dict[str, Any]:
    naive, ours = backtest(trial, SeasonalNaive()), backtest(trial, trial.forecaster)
    return {
        "series": trial.name,
        "unit": trial.unit,
        "forecasts": len(trial.origins),
        "method": type(trial.forecaster).__name__,
        "naive": asdict(naive),
        "ours": asdict(ours),
        "mae_ratio": ours.mae / naive.mae,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _remarks(run: dict[str, Any]) -> str:
    remarks = ["naive is better"] if run["mae_ratio"] >= 1 else []
    low, high = COVERED
    if not low <= run["ours"]["coverage"] <= high:
        remarks.append(f"interval not within {low:.0%} to {high:.0%}")
    return ", ".join(remarks)


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("series")
    for heading in (
        "unit",
        "forecasts",
        "MAE\nnaive",
        "\nours",
        "\nratio",
        "MAPE\nnaive",
        "\nours",
        "in 90 %\nnaive",
        "\nours",
        "width\nnaive",
        "\nours",
        "fit\nms",
        "forecast\nms",
    ):
        table.add_column(heading, justify="right")
    table.add_column("")
    for run in runs:
        naive, ours = run["naive"], run["ours"]
        table.add_row(
            run["series"],
            run["unit"],
            str(run["forecasts"]),
            f"{naive['mae']:.3g}",
            f"{ours['mae']:.3g}",
            f"{run['mae_ratio']:.2f}",
            *(_percent(score["mape"]) for score in (naive, ours)),
            *(_percent(score["coverage"]) for score in (naive, ours)),
            *(f"{score['relative_width']:.0%}" for score in (naive, ours)),
            f"{ours['fit_s'] * 1e3:.1f}",
            f"{ours['forecast_s'] * 1e3:.2f}",
            _remarks(run),
        )
    return table


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    low, high = COVERED
    ratios = np.array([run["mae_ratio"] for run in runs])
    coverages = np.array([run["ours"]["coverage"] for run in runs])
    return {
        "zones": len(runs),
        "better_than_naive": int((ratios < 1).sum()),
        "geometric_mean_mae_ratio": float(np.exp(np.log(ratios).mean())),
        "coverage": float(coverages.mean()),
        "coverage_within": int(((low <= coverages) & (coverages <= high)).sum()),
    }


def main(
    zones: Annotated[
        str | None, typer.Option(help="Zones, separated by commas; all that ship by default.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=2, help="Last days of each zone that are forecast.")
    ] = HELD_OUT_DAYS,
    refit_days: Annotated[int, typer.Option(min=1, help="Days that a zone's fit serves.")] = 7,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Forecast held-out days of all zones and loads, and compare with the day before."""
    check_outputs(json)
    try:
        chosen = trials(zones.split(",") if zones else grid_zones(), days, refit_days)
    except InputError as fault:
        raise typer.BadParameter(str(fault)) from None
    runs = [_run(trial) for trial in chosen]
    summary = _summary([run for run in runs if run["unit"] == "g/kWh"])
    console = Console(highlight=False, width=180)
    console.print(_table(runs))
    console.print(
        f"\n{summary['better_than_naive']} of {summary['zones']} zones are forecast better than by"
        f" the day before (MAE ratio {summary['geometric_mean_mae_ratio']:.3f}, geometric mean);"
        f" 90 % intervals held {summary['coverage']:.1%}, between {COVERED[0]:.0%} and"
        f" {COVERED[1]:.0%} in {summary['coverage_within']} zones"
    )
    if json is not None:
        write_json(
            json,
            {
                "schema": "greencache.bench.forecast_backtest/1",
                "days": days,
                "refit_days": refit_days,
                "summary": summary,
                "runs": runs,
            },
        )


if __name__ == "__main__":
    typer.run(main)
