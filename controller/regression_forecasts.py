"""``LaggedRegression``: forecasts from months of history, by one linear regression for each step.

All use the same features: the last two days, the same hours a week ago and on average over the last
week, and the hour of the day. They forecast the change against the same hour a day before, so where
nothing speaks for a change the forecast is the seasonal-naive one. It is the form of the LEAR
models of electricity prices (Lago, Marcjasz, De Schutter, Weron, Applied Energy 293, 2021) with a
ridge instead of the lasso. Then a fit needs only sums over weeks, and the fits that could have been
made some weeks earlier cost no more than solving them. What those were wrong by in the week that
followed gives the intervals: errors on days that the fit had not seen, each over how much the
series changed from day to day at the time, because a windy month is harder to forecast than a calm
one (normalised conformal prediction: Papadopoulos, Proedrou, Vovk, Gammerman, ECML 2002).
docs/forecasts.md has the formulas and what the constants here were chosen on.
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

_ERROR_WEEKS = 26
"""Weeks whose errors give the intervals, at most."""

_UNREST_DAYS = 14
_LEAST_UNREST = 0.01
"""Mean absolute change from day to day over so many days; and what is added to it, in standard
deviations of the series, for series that stand still."""

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


def _unrest(
    values: NDArray[np.float64], origins: NDArray[np.int64], period: int
) -> NDArray[np.float64]:
    """How much the series changed from day to day before each origin."""
    sums = np.cumsum(np.abs(values[period:] - values[:-period]))
    sums = np.concatenate([np.zeros(1), sums])
    span = _UNREST_DAYS * period
    return np.asarray((sums[origins - period] - sums[origins - period - span]) / span)


def _solve(sums: _Sums, rows: float, ridge: float) -> NDArray[np.float64]:
    penalty = ridge * rows * np.eye(len(sums.squares))
    return np.asarray(np.linalg.solve(sums.squares + penalty, sums.products), np.float64)


def _weights(weeks: list[_Sums], period: int) -> list[NDArray[np.float64]]:
    """The average of both fits, [features, horizon], as it is now and was each week before.

    ``weeks`` begins with the youngest; so does what is returned, as long as there were 4 weeks.
    """
    rows = float(_WEEK_DAYS * period)
    few = 2 * period
    decay = 0.5 ** (1 / _HALF_LIFE_WEEKS)
    squares, products = (np.zeros_like(part) for part in weeks[0])
    long_rows = 0.0
    found: list[NDArray[np.float64]] = []
    for age in range(len(weeks) - 1, -1, -1):
        squares = decay * squares + weeks[age].squares
        products = decay * products + weeks[age].products
        long_rows = decay * long_rows + rows
        recent = weeks[age : age + _RECENT_WEEKS]
        if len(recent) < _RECENT_WEEKS or age > _ERROR_WEEKS:
            continue
        weights = _solve(_Sums(squares, products), long_rows, _LONG_RIDGE) / 2
        last = _Sums(
            np.sum([week.squares[:few, :few] for week in recent], axis=0),
            np.sum([week.products[:few] for week in recent], axis=0),
        )
        weights[:few] += _solve(last, _RECENT_WEEKS * rows, _RECENT_RIDGE) / 2
        found.append(weights)
    return found[::-1]


@dataclass(frozen=True)
class _FittedRegression:
    period: int
    centre: float
    scale: float
    weights: NDArray[np.float64] = field(repr=False)
    errors: NDArray[np.float64] = field(repr=False)
    """[LEVELS, horizon], over the unrest before the forecast."""

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        check_steps(steps)
        horizon, least = self.errors.shape[1], (_UNREST_DAYS + 1) * self.period
        if steps > horizon:
            raise InputError(f"this forecaster was made for {horizon} steps at most, not {steps}")
        values, filled = fill(history, self.period)
        if len(values) < least:
            raise InputError(f"this forecaster needs the last {least} values, not {len(values)}")
        recent = (values[-least:] - self.centre) / self.scale
        now = np.array([least])
        hour = np.array([(len(values) if origin is None else origin) % self.period])
        change = (_features(recent, now, hour, self.period)[0] @ self.weights)[:steps]
        as_before = recent[least - self.period + np.arange(steps) % self.period]
        middle = (as_before + change) * self.scale + self.centre
        unrest = (_unrest(recent, now, self.period)[0] + _LEAST_UNREST) * self.scale
        return Forecast(
            mean=np.maximum(middle, 0.0),
            quantiles=np.maximum(middle + self.errors[:, :steps] * unrest, 0.0),
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

    def rows(self, origins: NDArray[np.int64]) -> _Rows:
        """The rows of forecasts from these origins."""
        ahead = np.arange(self.horizon)
        came = self.values[origins[:, None] + ahead]
        before = self.values[origins[:, None] - self.period + ahead % self.period]
        hours = (origins + self.phase) % self.period
        return _Rows(_features(self.values, origins, hours, self.period), came - before)

    def ending(self, age: int) -> _Rows:
        """Rows whose last step lies in week ``age``: what a fit at that week's end may use."""
        week = _WEEK_DAYS * self.period
        last = len(self.values) - age * week - self.horizon + 1
        return self.rows(np.arange(last - week, last))

    def beginning(self, age: int) -> tuple[NDArray[np.int64], _Rows]:
        """Origins in week ``age`` of which the last step is known, and their rows."""
        week = _WEEK_DAYS * self.period
        first = len(self.values) - (age + 1) * week
        origins = np.arange(first, min(first + week, len(self.values) - self.horizon + 1))
        return origins, self.rows(origins)


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
        now, *earlier = _weights(sums, self.period)
        errors = []
        for age, weights in enumerate(earlier):
            origins, (features, changes) = weeks.beginning(age)
            unrest = _unrest(weeks.values, origins, self.period) + _LEAST_UNREST
            errors.append((changes - features @ weights) / unrest[:, None])
        spread = error_quantiles(np.concatenate(errors))
        return _FittedRegression(self.period, centre, scale, now, spread)
