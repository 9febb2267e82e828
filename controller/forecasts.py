"""Forecasts of an hourly series with their intervals: what they are, and the plain ones.

A *forecaster* is fitted to a history and then asked again and again, with the history as it grows:

    fitted = LaggedRegression().fit(history)        # once a day, say: some 30 ms
    forecast = fitted.forecast(history, steps=24)   # each hour: under 1 ms
    forecast.mean, forecast.quantile(0.95)

A history is equally spaced; its last value has just ended. What is not a number of 0 or more is
missing, is filled (`fill`), and is counted in the forecast. docs/forecasts.md has the formulas and
how well they do on held-out days.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError

__all__ = [
    "LEVELS",
    "Fitted",
    "Forecast",
    "Forecaster",
    "Perfect",
    "Perturbed",
    "SeasonalNaive",
    "check_steps",
    "error_quantiles",
    "fill",
    "seasonal_repeat",
]

LEVELS = np.array(
    [0.005, 0.01, 0.025, 0.05, *np.arange(0.1, 0.91, 0.1).round(1), 0.95, 0.975, 0.99, 0.995]
)
"""Where the distribution of a forecast is known; between them it is a straight line."""

_LONGEST_LINE = 3
"""Missing values that a straight line bridges: longer gaps take the same hours of a day before."""

_NOISE_CORRELATION = 0.9
"""Of a perturbed forecast's errors from one step to the next: an hour's error in a forecast of
load or weather is mostly still there an hour later."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of the coming steps, none below 0.

    Attributes
    ----------
    mean:
        What is expected of each step: the mean, or of a method in logarithms the median.
    quantiles:
        [LEVELS, steps]: the value below which each step stays with that probability.
    filled:
        Values of the history that were missing or unusable, and were filled.
    method:
        What made it: its name tells when something simpler had to do.
    """

    mean: NDArray[np.float64]
    quantiles: NDArray[np.float64] = field(repr=False)
    filled: int
    method: str

    def quantile(self, q: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """The value below which each step by itself stays with probability ``q``.

        0.05 and 0.95 are the ends of the 90 % interval. Below 0.005 and above 0.995 the ends of
        what is known are returned.

        Parameters
        ----------
        q:
            One probability, or several [n].

        Returns
        -------
        [steps], or [n, steps]; never decreasing in ``q``.

        Raises
        ------
        InputError
            If a probability is not between 0 and 1.
        """
        asked = np.atleast_1d(np.asarray(q, np.float64))
        if not ((asked > 0) & (asked < 1)).all():
            raise InputError(f"a quantile lies between 0 and 1: {q}")
        at = np.clip(np.searchsorted(LEVELS, asked, side="right"), 1, len(LEVELS) - 1)
        share = np.clip((asked - LEVELS[at - 1]) / (LEVELS[at] - LEVELS[at - 1]), 0.0, 1.0)[:, None]
        values = self.quantiles[at - 1] * (1 - share) + self.quantiles[at] * share
        return np.asarray(values if np.ndim(q) else values[0])


class Fitted(Protocol):
    """A forecaster that knows a history and can be asked."""

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        """Forecast the steps after a history.

        Parameters
        ----------
        history:
            The history of the fit as it has grown since.
        steps:
            How many are wanted.
        origin:
            How many steps have ended since step 0, where the fit's history began. It is the
            history's length unless its beginning was cut off.
        """
        ...


class Forecaster(Protocol):
    """A way to forecast, which is first fitted."""

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> Fitted:
        """Learn from a history; its arguments are those of `Fitted.forecast`."""
        ...


def fill(history: NDArray[np.float64], period: int = 24) -> tuple[NDArray[np.float64], int]:
    """A history without holes, and how many values were missing.

    Missing is what is not finite or below 0. Up to three in a row between known values are filled
    by a straight line; longer gaps by the values a period before, however these came about; and
    where there are none by the last known value, or at the very beginning the first.

    Raises
    ------
    InputError
        If nothing is known: there is nothing to forecast from.
    """
    values = np.asarray(history, np.float64)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(values) & (values >= 0)
    if known.all() and values.size:
        return values, 0
    places = np.flatnonzero(known)
    if places.size == 0:
        raise InputError("a forecast needs at least one value of the past that is 0 or more")
    values = values.copy()
    first, last = places[0], places[-1]
    values[:first] = values[first]
    missing = np.flatnonzero(~known)
    missing = missing[missing > first]
    next_known = places[np.minimum(np.searchsorted(places, missing), places.size - 1)]
    last_known = places[np.searchsorted(places, missing) - 1]
    for at, before, after in zip(missing, last_known, next_known, strict=True):
        if at < last and after - before - 1 <= _LONGEST_LINE:
            share = (at - before) / (after - before)
            values[at] = values[before] * (1 - share) + values[after] * share
        else:
            values[at] = values[at - period] if at - period >= first else values[before]
    return values, int(values.size - places.size)


def check_steps(steps: int) -> None:
    """Raise `InputError` if that many steps cannot be forecast."""
    if steps < 1:
        raise InputError(f"a forecast has one step or more, not {steps}")


def error_quantiles(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles at `LEVELS` of a sample of errors along its first axis.

    The k-th of n errors in order stands for the level k / (n + 1), which is what makes an interval
    from exchangeable errors hold on the next one (split conformal prediction: Vovk, Gammerman,
    Shafer, Algorithmic Learning in a Random World, 2005). Levels further out than the sample goes
    get its ends.
    """
    return np.asarray(np.quantile(errors, LEVELS, axis=0, method="weibull"))


def seasonal_repeat(history: NDArray[np.float64], steps: int, period: int) -> NDArray[np.float64]:
    """The last period again and again; of a history shorter than that, its last value."""
    tail = history[-period:] if len(history) >= period else history[-1:]
    return np.asarray(tail[np.arange(steps) % len(tail)])


@dataclass(frozen=True)
class SeasonalNaive:
    """As it was at the same hour a day before: the baseline of every comparison.

    Its distribution is that of all changes from one day to the next in the history.

    Attributes
    ----------
    period:
        Steps of a day.
    """

    period: int = 24

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> SeasonalNaive:
        """Nothing needs to be learnt."""
        return self

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        """As `Fitted.forecast`; a history shorter than a day is continued by its last value."""
        check_steps(steps)
        values, filled = fill(history, self.period)
        mean = seasonal_repeat(values, steps, self.period)
        lag = self.period if len(values) > self.period else 1
        changes = values[lag:] - values[:-lag] if len(values) > 1 else np.zeros(1)
        spread = error_quantiles(changes)[:, None]
        method = "seasonal naive" if len(values) >= self.period else "last value"
        return Forecast(mean, np.maximum(mean + spread, 0.0), filled, method)


@dataclass(frozen=True)
class Perfect:
    """The future itself, for an oracle: its quantiles are all the value that comes.

    Attributes
    ----------
    series:
        All values from step 0 on, the future included. After its end it begins again.
    """

    series: NDArray[np.float64] = field(repr=False)

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> Perfect:
        """Nothing needs to be learnt."""
        return self

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        """As `Fitted.forecast`; of the history only its length matters, and that by default."""
        check_steps(steps)
        first = len(history) if origin is None else origin
        future = self.series[(first + np.arange(steps)) % len(self.series)]
        return Forecast(future, np.tile(future, (len(LEVELS), 1)), 0, "perfect")


@dataclass(frozen=True)
class Perturbed:
    """Another's forecasts made worse by a known amount, to see what errors cost.

    Each forecast is multiplied by ``(1 + bias)`` and by lognormal noise of mean 1 that is
    correlated from step to step; the same seed and origin give the same noise.

    Attributes
    ----------
    base:
        Who forecasts.
    bias:
        Relative error that is always there; above -1.
    noise:
        Standard deviation of the noise, relative to the forecast.
    seed:
        Of the noise.
    """

    base: Forecaster
    bias: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (-1 < self.bias < np.inf and 0 <= self.noise < np.inf):
            raise InputError(
                f"a bias is above -1 and a noise at least 0: {self.bias:g}, {self.noise:g}"
            )

    def fit(self, history: NDArray[np.float64], origin: int | None = None) -> Fitted:
        """Fit what is perturbed."""
        return _FittedPerturbed(self.base.fit(history, origin), self)


@dataclass(frozen=True)
class _FittedPerturbed:
    base: Fitted
    by: Perturbed

    def forecast(
        self, history: NDArray[np.float64], steps: int, origin: int | None = None
    ) -> Forecast:
        forecast = self.base.forecast(history, steps, origin)
        generator = np.random.default_rng(
            [self.by.seed, len(history) if origin is None else origin]
        )
        normal = generator.standard_normal(steps)
        fresh = np.sqrt(1 - _NOISE_CORRELATION**2)
        for step in range(1, steps):
            normal[step] = _NOISE_CORRELATION * normal[step - 1] + fresh * normal[step]
        variance = np.log1p(self.by.noise**2)  # of the logarithm, so that the noise has its spread
        factor = (1 + self.by.bias) * np.exp(np.sqrt(variance) * normal - variance / 2)
        return replace(
            forecast,
            mean=forecast.mean * factor,
            quantiles=forecast.quantiles * factor,
            method=f"{forecast.method}, perturbed",
        )
