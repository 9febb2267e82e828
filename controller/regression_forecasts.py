"""``LaggedRegression``: forecasts from months of history, by one linear regression for each step.

All use the same features: the last two days, the same hours a week ago and on average over the last
week, and the hour of the day. They forecast the change against the same hour a day before, so where
nothing speaks for a change the forecast is the seasonal-naive one. It is the form of the LEAR
models of electricity prices (Lago, Marcjasz, De Schutter, Weron, Applied Energy 293, 2021) with a
ridge instead of the lasso. Then a fit needs only sums over weeks, and the fits that could have been
made some weeks earlier cost no more than solving them. What those were wrong by in the week that
followed gives the intervals: errors on days that the fit had not seen. docs/forecasts.md has the
formulas and what the constants here were chosen on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.forecasts import Fitted, Forecast, check_steps, error_quantiles, fill
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.errors import InputError

__all__ = ["LaggedRegression"]

_WEEK_DAYS = 7

_LONG_WEEKS, _HALF_LIFE_WEEKS, _LONG_RIDGE = 52, 60 / 7, 0.001
_RECENT_WEEKS, _RECENT_RIDGE = 4, 0.003
"""The two fits that are averaged: one over a year in which older weeks count less, with all
features; one over the last weeks with few. Ridges are in variances of the series, for each row."""

_ERROR_WEEKS = 13
"""Weeks whose errors give the intervals, at most."""

_LEAST_WEEKS = 6
"""Weeks of rows below which there is too little for these regressions: 4 to fit, 2 of errors."""

_USUAL_WEIGHT = 0.8
"""For carbon intensity, how far to believe in the shape of a day if there is too little history."""


class _Rows(NamedTuple):
    """What regressions are made of: features [rows, features] and changes [rows, horizon]."""

    features: NDArray[np.float64]
    changes: NDArray[np.float64]


class _Sums(NamedTuple):
    """What a week of rows adds to the normal equations."""

    squares: NDArray[np.float64]
    products: NDArray[np.float64]


def _features(
    values: NDArray[np.float64], origins: NDArray[np.int64], hours: NDArray[np.int64], period: int
) -> NDArray[np.float64]:
    """Features of forecasts from each origin; the first ``2 * period`` serve the recent fit."""

    def days_ago(days: int) -> NDArray[np.float64]:
        return np.asarray(values[origins[:, None] + np.arange(-days * period, (1 - days) * period)])

    week = np.mean([days_ago(days) for days in range(1, _WEEK_DAYS + 1)], axis=0)
    clock = np.zeros((len(origins), period))
    clock[np.arange(len(origins)), hours] = 1.0
    return np.concatenate([days_ago(1), clock, days_ago(2), days_ago(_WEEK_DAYS), week], axis=1)


def _ridge(sums: list[_Sums], rows: int, ridge: float, decay: float) -> NDArray[np.float64]:
    """Weights [features, horizon] from weeks of ``rows`` each, the youngest first."""
    shares = decay ** np.arange(len(sums))
    squares = sum(share * week.squares for share, week in zip(shares, sums, strict=True))
    products = sum(share * week.products for share, week in zip(shares, sums, strict=True))
    penalty = ridge * rows * float(shares.sum()) * np.eye(len(sums[0].squares))
    return np.linalg.solve(squares + penalty, products)


@dataclass(frozen=True)
class _FittedRegression:
    period: int
    centre: float
    scale: float
    weights: NDArray[np.float64] = field(repr=False)
    errors: NDArray[np.float64] = field(repr=False)
    """[LEVELS, horizon], in the unit of the series."""

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        check_steps(steps)
        horizon, week = self.errors.shape[1], _WEEK_DAYS * self.period
        if steps > horizon:
            raise InputError(f"this forecaster was made for {horizon} steps at most, not {steps}")
        values, filled = fill(history, self.period)
        if len(values) < week:
            raise InputError(f"this forecaster needs the last {week} values, not {len(values)}")
        hour = (len(values) if origin is None else origin) % self.period
        recent = (values[-week:] - self.centre) / self.scale
        features = _features(recent, np.array([week]), np.array([hour]), self.period)[0]
        change = (features @ self.weights)[:steps]
        as_before = recent[week - self.period + np.arange(steps) % self.period]
        middle = (as_before + change) * self.scale + self.centre
        return Forecast(
            mean=np.maximum(middle, 0.0),
            quantiles=np.maximum(middle + self.errors[:, :steps], 0.0),
            filled=filled,
            method="lagged regression",
        )


@dataclass(frozen=True)
class _Weeks:
    """A history, scaled, and the rows of its weeks; week 0 is the youngest."""

    values: NDArray[np.float64]
    phase: int
    period: int
    horizon: int

    def rows_from(self, first: int, last: int) -> _Rows:
        """The rows of origins from ``first`` up to but not including ``last``."""
        origins = np.arange(first, last)
        ahead = np.arange(self.horizon)
        came = self.values[origins[:, None] + ahead]
        before = self.values[origins[:, None] - self.period + ahead % self.period]
        hours = (origins + self.phase) % self.period
        return _Rows(_features(self.values, origins, hours, self.period), came - before)

    def ending(self, age: int) -> _Rows:
        """Rows whose last step lies in week ``age``: what a fit at that week's end may use."""
        week = _WEEK_DAYS * self.period
        last = len(self.values) - age * week - self.horizon + 1
        return self.rows_from(last - week, last)

    def beginning(self, age: int) -> _Rows:
        """Rows whose origin lies in week ``age`` and whose last step is known."""
        first = len(self.values) - (age + 1) * _WEEK_DAYS * self.period
        last = min(first + _WEEK_DAYS * self.period, len(self.values) - self.horizon + 1)
        return self.rows_from(first, last)


@dataclass(frozen=True)
class LaggedRegression:
    """Forecasts of a series with days and weeks in it, such as carbon intensity, from its history.

    It takes 50 days of history; from less, the forecasts are those of `ShapeAndLevel`.

    Attributes
    ----------
    period:
        Steps of a day.
    horizon:
        The most steps that will be asked for.
    """

    period: int = 24
    horizon: int = 24

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> Fitted:
        """Fit both regressions, and those of earlier weeks for their errors; about 30 ms."""
        values, _ = fill(history, self.period)
        week = _WEEK_DAYS * self.period
        count = min((len(values) - week - self.horizon + 1) // week, _LONG_WEEKS)
        if count < _LEAST_WEEKS:
            return ShapeAndLevel(self.period, _USUAL_WEIGHT).fit(history, origin)
        values = values[-((count + 1) * week + self.horizon - 1) :]
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        phase = (len(history) if origin is None else origin) - len(values)
        weeks = _Weeks((values - centre) / scale, phase, self.period, self.horizon)
        sums = []
        for age in range(count):
            features, changes = weeks.ending(age)
            sums.append(_Sums(features.T @ features, features.T @ changes))
        errors = []
        for age in range(min(_ERROR_WEEKS, count - _RECENT_WEEKS)):
            features, changes = weeks.beginning(age)
            errors.append(changes - features @ self._weights(sums[age + 1 :]))
        spread = error_quantiles(np.concatenate(errors)) * scale
        return _FittedRegression(self.period, centre, scale, self._weights(sums), spread)

    def _weights(self, sums: list[_Sums]) -> NDArray[np.float64]:
        """The average of both fits, the youngest week first."""
        few, rows = 2 * self.period, _WEEK_DAYS * self.period
        weights = _ridge(sums, rows, _LONG_RIDGE, 0.5 ** (1 / _HALF_LIFE_WEEKS)) / 2
        recent = [_Sums(week.squares[:few, :few], week.products[:few]) for week in sums]
        weights[:few] += _ridge(recent[:_RECENT_WEEKS], rows, _RECENT_RIDGE, 1.0) / 2
        return weights
