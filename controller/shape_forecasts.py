"""``ShapeAndLevel``: forecasts from a day to a few weeks of history.

What the same hours of the last days were on average is the *shape* of a day around its mean. How
far to believe in it, and how much of the present deviation from it is left an hour later, are two
numbers; both are learnt from forecasts made inside the history, beginning at usual values. All of
it happens in logarithms, because a load varies by factors. docs/forecasts.md has the formulas and
what the constants here were chosen on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.forecasts import LEVELS, Forecast, check_steps, error_quantiles, fill

__all__ = ["ShapeAndLevel"]

_OFFSET = 0.05
"""Of the mean: added to values before their logarithm is taken, so that hours without traffic have
one, and the difference between few requests and none does not count as a large one."""

_SHAPE_DAYS = 7
_LEARNT_DAYS = 28
"""What is older is not looked at, for the shape and for learning."""

_FIRST_ORIGIN = 3
"""Values before the first forecast inside a history."""

_LASTING = np.array([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98])
"""Shares of a deviation left after an hour, among which the best is taken."""

_USUAL_LASTING = 0.8
_WEIGHT_VARIANCE, _LASTING_VARIANCE = 0.1, 0.05
_BELIEF = 0.5
"""How firmly usual values are believed in: as if half a day's forecast had spoken for them."""

_WIDER_DAYS = 1.0
"""An interval learnt from ``d`` days is wider than their errors by this over ``d``."""

_UNREST_STEPS = 24
_CALM_SHARE = 0.5
"""Intervals follow the mean absolute change from step to step over so many steps, to which this
share of its usual size is added: a quiet day does not promise the next one."""

_MOST_OVER_SEEN = 4.0
"""No quantile is above this many times the most that ever came: growth is learned as it comes."""

_FEWEST_ERRORS = 12
_UNKNOWN_SPREAD = 0.5
"""Standard deviation of the logarithm, one step ahead, where there are too few errors to learn it:
a factor of 2.3 either way in 90 of 100 cases."""


class _Days(NamedTuple):
    """What is known of the days before each of some origins.

    Attributes
    ----------
    level:
        Mean of the whole days before each origin, 7 at most; of what there is if that is less.
    shape:
        [origins, period]: how far the same hours of those days were above that mean, beginning with
        the hour after the origin.
    """

    level: NDArray[np.float64]
    shape: NDArray[np.float64]


def _days_before(values: NDArray[np.float64], origins: NDArray[np.int64], period: int) -> _Days:
    days = np.clip(origins // period, 0, _SHAPE_DAYS)
    sums = np.zeros((len(origins), period))
    hours = np.arange(period)
    for day in range(1, int(days.max(initial=0)) + 1):
        reaches = days >= day
        sums[reaches] += values[origins[reaches, None] - day * period + hours]
    profile = sums / np.maximum(days, 1)[:, None]
    so_far = np.cumsum(values)[origins - 1] / origins
    level = np.where(days > 0, profile.mean(axis=1), so_far)
    return _Days(level, np.where(days[:, None] > 0, profile - level[:, None], 0.0))


def _unrest(
    logs: NDArray[np.float64], origins: NDArray[np.int64], usual: float
) -> NDArray[np.float64]:
    """How restless the steps before each origin were, over what is usual; 1 if that is not known.

    ``usual`` is the mean absolute change from one step to the next.
    """
    if usual == 0 or len(logs) < 2:
        return np.ones(len(origins))
    sums = np.concatenate([np.zeros(1), np.cumsum(np.abs(np.diff(logs)))])
    last = origins - 1
    first = np.maximum(last - _UNREST_STEPS, 0)
    lately = (sums[last] - sums[first]) / (last - first)
    return np.asarray((lately + _CALM_SHARE * usual) / ((1 + _CALM_SHARE) * usual))


def _growth(lasting: float, steps: int) -> NDArray[np.float64]:
    """Errors of a first-order autoregression 1, 2, ... steps ahead, over those of one step."""
    return np.sqrt(np.cumsum(lasting ** (2.0 * np.arange(steps))))


def _unknown_spread() -> NDArray[np.float64]:
    normal = NormalDist(sigma=_UNKNOWN_SPREAD)
    return np.array([normal.inv_cdf(level) for level in LEVELS])


@dataclass(frozen=True)
class _Inside:
    """The forecasts that could have been made inside a history, but for the two numbers."""

    origins: NDArray[np.int64]
    above: NDArray[np.float64]
    """[origins, period]: how far what came was above the level."""
    last: NDArray[np.float64]
    """[origins]: how far the last value before was."""
    shape: NDArray[np.float64]
    came: NDArray[np.bool_]
    """Whether the step lies inside the history."""

    def split(self, lasting: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Errors without the shape, and what a weight of 1 on the shape takes off them."""
        decay = lasting ** np.arange(1, self.above.shape[1] + 1)
        without_shape = self.above - self.last[:, None] * decay
        of_shape = self.shape - self.shape[:, -1:] * decay
        return np.where(self.came, without_shape, 0.0), np.where(self.came, of_shape, 0.0)


def _inside(logs: NDArray[np.float64], period: int) -> _Inside:
    origins = np.arange(min(_FIRST_ORIGIN, len(logs)), len(logs))
    targets = origins[:, None] + np.arange(period)
    days = _days_before(logs, origins, period)
    above = logs[np.minimum(targets, len(logs) - 1)] - days.level[:, None]
    last = logs[origins - 1] - days.level
    return _Inside(origins, above, last, days.shape, targets < len(logs))


def _learn(inside: _Inside, belief: float, usual_weight: float) -> tuple[float, float]:
    """The weight of the shape and the share that lasts: least squares, drawn to the usual ones."""
    best = (np.inf, usual_weight, _USUAL_LASTING)
    pull = belief / _WEIGHT_VARIANCE
    for lasting in _LASTING:
        rest, part = inside.split(lasting)
        squares = float(np.vdot(part, part)) + pull
        products = float(np.vdot(part, rest)) + pull * usual_weight
        weight = min(max(products / squares, 0.0), 1.0)
        errors = rest - weight * part
        cost = float(np.vdot(errors, errors)) + pull * (weight - usual_weight) ** 2
        cost += belief / _LASTING_VARIANCE * (lasting - _USUAL_LASTING) ** 2
        best = min(best, (cost, weight, float(lasting)))
    return best[1], best[2]


@dataclass(frozen=True)
class _FittedShape:
    period: int
    offset: float
    weight: float
    lasting: float
    usual_change: float
    spread: NDArray[np.float64] = field(repr=False)
    """Quantiles at `LEVELS` of errors of the logarithm one step ahead, at usual unrest."""

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        check_steps(steps)
        values, filled = fill(history, self.period)
        logs = np.log(values[-(_SHAPE_DAYS + 1) * self.period :] + self.offset)
        now = np.array([len(logs)])
        days = _days_before(logs, now, self.period)
        ahead = np.arange(steps)
        shape = self.weight * days.shape[0]
        deviation = logs[-1] - days.level[0] - shape[-1]
        middle = (
            days.level[0] + shape[ahead % self.period] + deviation * self.lasting ** (ahead + 1)
        )
        unrest = _unrest(logs, now, self.usual_change)[0]
        errors = self.spread[:, None] * unrest * _growth(self.lasting, steps)
        # Errors of calm hours say nothing of restless ones: after a night without a request, an
        # hour's 90 % quantile would be millions.
        most = math.log(_MOST_OVER_SEEN * float(values.max()) + self.offset)
        errors = np.minimum(errors, np.maximum(most - middle, 0.0))
        return Forecast(
            mean=np.maximum(np.exp(middle) - self.offset, 0.0),
            quantiles=np.maximum(np.exp(middle + errors) - self.offset, 0.0),
            filled=filled,
            method="shape and level",
        )


@dataclass(frozen=True)
class ShapeAndLevel:
    """Forecasts from a short history: a day's shape, believed in part, and a level that returns.

    One value is enough; with less than a day there is no shape, and with less than about half a day
    the intervals are wide ones that no data speaks for. The forecast is a median.

    Attributes
    ----------
    period:
        Steps of a day.
    usual_weight:
        How far to believe in the shape, 0 to 1, as long as the history does not say: the default is
        for loads.
    """

    period: int = 24
    usual_weight: float = 0.4

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> _FittedShape:
        """Learn the two numbers and the errors from forecasts made inside the history."""
        values, _ = fill(history, self.period)
        values = values[-(_LEARNT_DAYS + 1) * self.period :]
        offset = _OFFSET * float(values.mean()) or 1.0
        logs = np.log(values + offset)
        inside = _inside(logs, self.period)
        belief = _BELIEF * self.period * max(float(logs.var()), 1e-9)
        weight, lasting = _learn(inside, belief, self.usual_weight)
        if len(inside.last) < _FEWEST_ERRORS:
            return _FittedShape(self.period, offset, weight, lasting, 0.0, _unknown_spread())
        rest, part = inside.split(lasting)
        usual_change = float(np.abs(np.diff(logs)).mean())
        unrest = _unrest(logs, inside.origins, usual_change)[:, None]
        one_step = (rest - weight * part) / (unrest * _growth(lasting, self.period))
        wider = 1 + _WIDER_DAYS * self.period / len(logs)
        spread = error_quantiles(one_step[inside.came]) * wider
        return _FittedShape(self.period, offset, weight, lasting, usual_change, spread)
