"""The grid's carbon intensity as a controller may know it: hours that have passed, and a forecast.

Sources publish values of five minutes to an hour, late, with gaps, and not always. `usable` throws
out what cannot be true, `by_hour` makes hours of the rest, and `IntensityBook` keeps them and
answers what `greencache.controller.lookout.IntensitySource` asks. Time is an argument everywhere:
seconds of the caller's clock, whose zero lies ``epoch_s`` after 1970.

What stands for an hour that nobody measured, in this order; each use is counted by its name:

``same hour``
    The last known value of the same hour of a day, if it is no older than 30 days.
``recorded``
    A recorded series of the zone, moved by whole years of 52 weeks.
``constant``
    A figure from the settings.

An hour that is merely not published yet needs none of these: as long as the newest value is not
older than the staleness limit, the forecast from it reaches over the lag.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.forecasts import LEVELS, Forecast, Forecaster
from greencache.controller.lookout import RollingForecast
from greencache.controller.telemetry import Window
from greencache.quantities import DAY_S, HOUR_S
from greencache.traces.grid import DIRTIEST_GCO2_PER_KWH, GridSeries

__all__ = [
    "LONGEST_PAST_H",
    "REFIT_H",
    "IntensityBook",
    "Knowledge",
    "Points",
    "Recorded",
    "by_hour",
    "forecast_intervals",
    "interval_means",
    "usable",
]

Floats = NDArray[np.float64]

LONGEST_PAST_H = 24 * 7 * 53
"""Hours of the grid's past that a forecast looks at."""

REFIT_H = 24 * 7
"""Hours after which a forecaster of carbon intensity is fitted anew."""

_YEAR_H = 24 * 7 * 52
"""By how much a recorded series is moved: hours of the day and days of the week stay in place."""

_SAME_HOUR_DAYS = 30
"""Beyond this the season has moved on."""

_LONGEST_POINT_S = DAY_S
_COVERED = 0.5
"""Share of an hour that values have to cover to stand for it."""


class Points(NamedTuple):
    """Values as a source has them: arrays of one length, times in seconds since 1970."""

    start_s: Floats
    end_s: Floats
    gco2_per_kwh: Floats

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float, float]]) -> Points:
        """Make arrays of (start, end, value)."""
        table = np.array(list(rows), np.float64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    @classmethod
    def hourly(cls, hours: NDArray[np.int64], gco2_per_kwh: Floats) -> Points:
        """Values of whole hours, counted from 1970."""
        starts = np.asarray(hours * HOUR_S, np.float64)
        return cls(starts, starts + HOUR_S, gco2_per_kwh)

    @classmethod
    def joined(cls, parts: Iterable[Points]) -> Points:
        """Several, one after another."""
        parts = [cls.of(()), *parts]
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def usable(points: Points, earliest_s: float, latest_s: float) -> tuple[Points, int]:
    """Those points that can be true, and how many cannot.

    A value is a number between 0 and 5,000 gCO2e/kWh (no grid comes near), for a time of a day or
    less. Points outside ``earliest_s`` to ``latest_s`` are left out and not counted.
    """
    start, end, value = points
    with np.errstate(invalid="ignore"):
        true = np.isfinite(start) & np.isfinite(end) & (start < end)
        true &= end - start <= _LONGEST_POINT_S
        true &= (value >= 0) & (value <= DIRTIEST_GCO2_PER_KWH)
        wanted = true & (end > earliest_s) & (start < latest_s)
    return Points(start[wanted], end[wanted], value[wanted]), int((~true).sum())


def by_hour(points: Points) -> dict[int, float]:
    """Means over hours, by hours since 1970; an hour counts if values cover half of it."""
    if len(points.start_s) == 0:
        return {}
    first = np.floor(points.start_s / HOUR_S).astype(np.int64)
    spans = np.ceil(points.end_s / HOUR_S).astype(np.int64) - first
    point = np.repeat(np.arange(len(first)), spans)
    hour = first[point] + np.arange(len(point)) - np.repeat(np.cumsum(spans) - spans, spans)
    overlap_s = np.minimum(points.end_s[point], (hour + 1) * HOUR_S)
    overlap_s -= np.maximum(points.start_s[point], hour * HOUR_S)
    hours, at = np.unique(hour, return_inverse=True)
    covered_s = np.bincount(at, overlap_s)
    sums = np.bincount(at, overlap_s * points.gco2_per_kwh[point])
    known = covered_s >= _COVERED * HOUR_S
    means = sums[known] / covered_s[known]
    return dict(zip(hours[known].tolist(), means.tolist(), strict=True))


def interval_means(hourly: Floats, edges_h: Floats) -> Floats:
    """Means over intervals between edges in hours; one without length has its hour's value."""
    sums = np.interp(edges_h, np.arange(len(hourly) + 1), np.append(0.0, np.cumsum(hourly)))
    width_h = np.diff(edges_h)
    at_edge = hourly[np.minimum(edges_h[:-1].astype(np.int64), len(hourly) - 1)]
    means = np.divide(np.diff(sums), width_h, out=at_edge.copy(), where=width_h > 0)
    return np.asarray(means)


def forecast_intervals(
    hourly: Callable[[int], Forecast], since_s: float, interval_s: float, steps: int
) -> Forecast:
    """A forecast of intervals from one of hours.

    Parameters
    ----------
    hourly:
        Forecasts so many hours.
    since_s:
        Seconds from the beginning of the first forecast hour to that of the first interval.
    interval_s, steps:
        Length and number of the intervals.
    """
    edges_h = np.maximum((since_s + np.arange(steps + 1) * interval_s) / HOUR_S, 0.0)
    made = hourly(max(math.ceil(edges_h[-1]), 1))
    return replace(
        made,
        mean=interval_means(made.mean, edges_h),
        quantiles=np.stack([interval_means(each, edges_h) for each in made.quantiles]),
    )


@dataclass(frozen=True)
class Recorded:
    """A recorded series that stands for other years than its own.

    It is moved by multiples of 52 weeks, to the latest of its own hours that fit.

    Attributes
    ----------
    first_h:
        Its first hour, counted from 1970.
    gco2_per_kwh:
        One value an hour; one or more.
    source:
        What it is.
    """

    first_h: int
    gco2_per_kwh: Floats
    source: str

    @classmethod
    def of(cls, grid: GridSeries) -> Recorded:
        """A grid series with all that is known of its past."""
        before_h = len(grid.earlier_gco2_per_kwh)
        first_h = int(grid.start.timestamp() // HOUR_S) - before_h
        return cls(first_h, grid.past_and_future, f"{grid.zone}, {grid.source}")

    def at(self, hour: int) -> float:
        """The value that stands for an hour."""
        return float(self.gco2_per_kwh[self._places(np.array([hour]))[0]])

    def before(self, hour: int) -> Floats:
        """The values that stand for the hours before ``hour``, as many as it has or are of use.

        Of hours of its own time those before them. Elsewhere the beginning of the series follows on
        its end, once in 52 weeks.
        """
        last, length = hour - self.first_h, len(self.gco2_per_kwh)
        if 0 < last <= length:
            return self.gco2_per_kwh[max(last - LONGEST_PAST_H, 0) : last]
        hours = np.arange(hour - min(length, LONGEST_PAST_H), hour)
        return self.gco2_per_kwh[self._places(hours)]

    def _places(self, hours: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of its values stand for hours."""
        length, at = len(self.gco2_per_kwh), hours - self.first_h
        year = next((h for h in (_YEAR_H, 24 * 7, 24) if h <= length), 1)
        moved = at % year
        moved += (length - 1 - moved) // year * year
        return np.where((at >= 0) & (at < length), at, moved)


class Knowledge(NamedTuple):
    """What an `IntensityBook` has to go by at one moment.

    Attributes
    ----------
    newest_s:
        End of the newest hour that is known, in seconds since 1970; -inf if none is.
    age_s:
        How long ago that was.
    fallback:
        What stands for what is not known; None if nothing has to.
    """

    newest_s: float
    age_s: float
    fallback: str | None


class _Past(NamedTuple):
    history: Floats
    origin: int
    filled: int
    fallback: str | None


class IntensityBook:
    """What is known of a zone's carbon intensity: an `IntensitySource` of hours that are told it.

    Parameters
    ----------
    forecaster:
        Forecasts hours from the hours before.
    interval_s:
        Length of the intervals that are asked for.
    stale_s:
        Age of the newest value beyond which it is stale.
    constant_gco2_per_kwh:
        What is taken where nothing is known.
    recorded:
        What is taken before that.
    trust_forecast:
        Whether the source's own forecast goes before ours, where it has one that is not stale.
    epoch_s:
        When the caller's clock was 0, in seconds since 1970.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        interval_s: float,
        *,
        stale_s: float,
        constant_gco2_per_kwh: float,
        recorded: Recorded | None = None,
        trust_forecast: bool = False,
        epoch_s: float = 0.0,
    ) -> None:
        self.fallbacks: Counter[str] = Counter()
        """How many forecasts and intervals rested on each fallback."""
        self._dropped = {"past": 0, "ahead": 0}
        self._forecaster, self._interval_s, self._stale_s = forecaster, interval_s, stale_s
        self._constant, self._recorded = constant_gco2_per_kwh, recorded
        self._trust, self._epoch_s = trust_forecast, epoch_s
        self._hours: dict[int, float] = {}
        self._ahead: dict[int, float] = {}
        self._ahead_at_s = -math.inf
        self._rolling = RollingForecast(forecaster, REFIT_H)
        self._basis: tuple[int, str | None] = (0, None)

    @property
    def hours(self) -> Mapping[int, float]:
        """What is known, by hours since 1970."""
        return self._hours

    def learn(self, points: Points, now_s: float) -> int:
        """Take note of what was measured; returns how many values could not be true.

        Newer news of an hour replace older ones.
        """
        now_s += self._epoch_s
        oldest_h = int(now_s // HOUR_S) - LONGEST_PAST_H
        kept, dropped = usable(points, oldest_h * HOUR_S, now_s)
        hours = self._hours | by_hour(kept)
        # Replaced as a whole: who plans in another thread goes on with what it has.
        self._hours = {hour: value for hour, value in hours.items() if hour >= oldest_h}
        self._dropped["past"] = dropped
        return dropped

    def learn_forecast(self, points: Points, now_s: float) -> int:
        """Take note of the source's own forecast; returns how many values could not be true."""
        now_s += self._epoch_s
        kept, dropped = usable(points, now_s - HOUR_S, math.inf)
        self._ahead, self._ahead_at_s = by_hour(kept), now_s
        self._dropped["ahead"] = dropped
        return dropped

    @property
    def dropped(self) -> int:
        """Values that cannot be true, in what was measured and forecast last."""
        return sum(self._dropped.values())

    def knowledge(self, now_s: float) -> Knowledge:
        """What there is to go by; nothing is counted."""
        now_s += self._epoch_s
        newest = self._newest(now_s)
        newest_s = -math.inf if newest is None else (newest + 1) * HOUR_S
        stale = now_s - newest_s > self._stale_s
        fallback = self._stand_in(int(now_s // HOUR_S) - 1)[1] if stale else None
        return Knowledge(newest_s, now_s - newest_s, fallback)

    def past(self, window: Window) -> float:
        """As `greencache.controller.lookout.IntensitySource`: the mean over the interval."""
        mean, fallbacks = self._mean(window)
        self.fallbacks.update(fallbacks)
        return mean

    def reading(self, window: Window) -> float:
        """The same for whoever only looks: nothing is counted."""
        return self._mean(window)[0]

    def _mean(self, window: Window) -> tuple[float, set[str]]:
        """The mean over an interval, and the fallbacks that it rests on."""
        begin_s = window.start_s + self._epoch_s
        end_s = begin_s + window.duration_s
        first = int(begin_s // HOUR_S)
        hours = range(first, max(math.ceil(end_s / HOUR_S), first + 1))
        values, fallbacks = zip(*(self._hour(hour, end_s) for hour in hours), strict=True)
        edges_h = np.array([begin_s, end_s]) / HOUR_S - first
        mean = float(interval_means(np.array(values), edges_h)[0])
        return mean, {kind for kind in fallbacks if kind is not None}

    def forecast(self, now_s: float, steps: int) -> Forecast:
        """As `greencache.controller.lookout.IntensitySource`."""
        now_s += self._epoch_s
        past = self._past(now_s)
        if past.fallback is not None:
            self.fallbacks[past.fallback] += 1
        since_s = now_s - past.origin * HOUR_S
        return forecast_intervals(
            lambda hours: self._forecast_hours(past, hours, now_s), since_s, self._interval_s, steps
        )

    def _newest(self, now_s: float) -> int | None:
        """The last hour that is over and known."""
        return max((hour for hour in self._hours if hour < now_s // HOUR_S), default=None)

    def _past(self, now_s: float) -> _Past:
        """The history that a forecast goes by, and the hour in which it ends."""
        hours, now_h = self._hours, int(now_s // HOUR_S)
        newest = self._newest(now_s)
        if newest is None or now_h - newest > 24 * _SAME_HOUR_DAYS:
            if self._recorded is None:
                return _Past(np.empty(0), now_h, 0, "constant")
            history = self._recorded.before(now_h)
            return _Past(history, now_h, len(history), "recorded")
        fresh = now_s - (newest + 1) * HOUR_S <= self._stale_s
        origin = newest + 1 if fresh else now_h
        first = max(min(hours), origin - LONGEST_PAST_H)
        history = np.array([hours.get(hour, np.nan) for hour in range(first, origin)])
        fallback = None
        for hour in range(max(newest + 1, first), origin):
            history[hour - first], fallback = self._stand_in(hour)
        return _Past(history, origin, origin - newest - 1, fallback)

    def _stand_in(self, hour: int) -> tuple[float, str]:
        """What is taken for an hour that is not known."""
        for day in range(1, _SAME_HOUR_DAYS + 1):
            known = self._hours.get(hour - 24 * day)
            if known is not None:
                return known, "same hour"
        if self._recorded is not None:
            return self._recorded.at(hour), "recorded"
        return self._constant, "constant"

    def _hour(self, hour: int, now_s: float) -> tuple[float, str | None]:
        """The intensity of an hour that has begun, and the fallback that it rests on."""
        known = self._hours.get(hour)
        if known is not None:
            return known, None
        past = self._past(now_s)
        if past.fallback is None and hour >= past.origin:  # not published yet
            hours = hour - past.origin + 1
            return float(self._forecast_hours(past, hours, now_s).mean[-1]), None
        return self._stand_in(hour)

    def _forecast_hours(self, past: _Past, hours: int, now_s: float) -> Forecast:
        if len(past.history) == 0:
            level = np.full(hours, self._constant)
            return Forecast(level, np.tile(level, (len(LEVELS), 1)), hours, "constant")
        first = past.origin - len(past.history)
        basis = (first if len(past.history) < LONGEST_PAST_H else 0, past.fallback)
        if basis != self._basis:  # another history, not this one grown by some hours
            self._rolling, self._basis = RollingForecast(self._forecaster, REFIT_H), basis
        made = self._rolling.forecast(past.history, hours, past.origin)
        made = replace(made, filled=made.filled + past.filled * (past.fallback is not None))
        if not self._trust or now_s - self._ahead_at_s > self._stale_s:
            return made
        theirs = np.array([self._ahead.get(past.origin + hour, np.nan) for hour in range(hours)])
        if np.isnan(theirs).all():
            return made
        off = np.where(np.isnan(theirs), 0.0, theirs - made.mean)
        return replace(
            made,
            mean=made.mean + off,
            quantiles=np.maximum(made.quantiles + off, 0.0),
            method=f"its source's own, with the spread of: {made.method}",
        )
