"""Forecasts: against closed forms, from broken histories, and how often intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.controller.forecasts import (
    LEVELS,
    Forecaster,
    Perfect,
    Perturbed,
    SeasonalNaive,
    error_quantiles,
    fill,
)
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.errors import InputError

FORECASTERS: list[Forecaster] = [SeasonalNaive(), ShapeAndLevel(), LaggedRegression()]
NAN = np.nan


def daily(days: int, low: float = 100.0, high: float = 300.0) -> NDArray[np.float64]:
    """A day with a smooth peak, again and again."""
    hours = np.arange(24 * days)
    return low + (high - low) * (1 - np.cos(2 * np.pi * hours / 24)) / 2


def noisy(days: int, seed: int, lasting: float = 0.9, spread: float = 10.0) -> NDArray[np.float64]:
    """Such days with errors that last: a first-order autoregression on top."""
    normal = np.random.default_rng(seed).normal(0, spread, 24 * days)
    for hour in range(1, len(normal)):
        normal[hour] += lasting * normal[hour - 1]
    return np.asarray(daily(days) + normal)


# What closed forms say


@pytest.mark.parametrize("forecaster", [SeasonalNaive(), LaggedRegression()])
@pytest.mark.parametrize("days", [60, 61.25])
def test_what_repeats_every_day_is_known_exactly(forecaster: Forecaster, days: float) -> None:
    history = daily(62)[: int(24 * days)]
    forecast = forecaster.fit(history).forecast(history, 24)
    future = daily(64)[len(history) : len(history) + 24]
    assert forecast.mean == pytest.approx(future, rel=1e-3)
    assert forecast.quantile(0.05) == pytest.approx(future, rel=2e-3)
    assert forecast.quantile(0.95) == pytest.approx(future, rel=2e-3)


def test_a_shape_is_believed_in_the_more_often_it_is_seen() -> None:
    errors = []
    for days in (2, 4, 8, 28):
        history = daily(days)
        forecast = ShapeAndLevel().fit(history).forecast(history, 24)
        errors.append(np.abs(forecast.mean - history[:24]).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2
    usual, firm = (
        ShapeAndLevel(usual_weight=weight).fit(daily(1)).forecast(daily(1), 24).mean
        for weight in (0.0, 1.0)
    )
    assert firm == pytest.approx(daily(1))
    assert np.ptp(usual) < np.ptp(firm)


@pytest.mark.parametrize("lasting", [0.6, 0.9])
def test_a_deviation_goes_as_an_autoregression_says(lasting: float) -> None:
    """Of an AR(1) of ln y the middle returns as a^h, and the interval grows as its variance."""
    normal = np.random.default_rng(5).normal(0, 0.05, 24 * 28)
    for hour in range(1, len(normal)):
        normal[hour] += lasting * normal[hour - 1]
    history = 100 * np.exp(normal)
    forecast = ShapeAndLevel().fit(history).forecast(history, 24)
    growth = np.sqrt(np.cumsum(lasting ** (2.0 * np.arange(24))))
    width = np.log(forecast.quantile(0.95) / forecast.quantile(0.05))
    assert width == pytest.approx(2 * 1.645 * 0.05 * growth, rel=0.35)
    history[-1] = 150
    forecast = ShapeAndLevel().fit(history).forecast(history, 24)
    expected = 100 * np.exp(np.log(1.5) * lasting ** np.arange(1, 25))
    assert forecast.mean == pytest.approx(expected, rel=0.12)


def test_the_regression_finds_an_autoregression() -> None:
    """Of a shape and an AR(1) x the best forecast is the shape and a^h x; it comes near that."""
    series = noisy(300, seed=8)
    fitted = LaggedRegression().fit(series[: 24 * 250])
    known = series - daily(300)
    ours, best, naive = [], [], []
    for origin in range(24 * 250, 24 * 299, 5):
        future = series[origin : origin + 24]
        forecast = fitted.forecast(series[:origin], 24)
        exact = daily(302)[origin : origin + 24] + known[origin - 1] * 0.9 ** np.arange(1, 25)
        ours.append(np.square(forecast.mean - future).mean())
        best.append(np.square(exact - future).mean())
        naive.append(np.square(series[origin - 24 : origin] - future).mean())
    assert np.mean(ours) < 1.1 * np.mean(best) < np.mean(naive)


def test_naive_repeats_the_day_before() -> None:
    history = np.arange(50.0)
    forecast = SeasonalNaive().fit(history).forecast(history, 30)
    assert forecast.mean.tolist() == [*range(26, 50), *range(26, 32)]
    assert forecast.quantile(0.9) == pytest.approx(forecast.mean + 24)  # each day it rose by 24
    assert SeasonalNaive().forecast(history[:5], 2).mean.tolist() == [4, 4]
    assert SeasonalNaive().forecast(history[:5], 2).method == "last value"


# Intervals


def test_quantiles_of_errors_are_those_of_conformal_prediction() -> None:
    """The k-th of n stands for k / (n + 1); beyond the sample its ends."""
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    found = dict(zip(LEVELS.tolist(), error_quantiles(errors).tolist(), strict=True))
    assert found[0.05] == 1
    assert found[0.5] == 10
    assert found[0.95] == 19
    assert found[0.005] == 1
    assert found[0.995] == 19


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_quantiles_rise_and_meet_at_the_ends(forecaster: Forecaster) -> None:
    history = noisy(70, seed=1)
    forecast = forecaster.fit(history).forecast(history, 24)
    asked = np.linspace(0.001, 0.999, 201)
    several = forecast.quantile(asked)
    assert several.shape == (201, 24)
    assert (np.diff(several, axis=0) >= 0).all()
    assert (several >= 0).all()
    for q, row in zip(asked, several, strict=True):
        assert (forecast.quantile(float(q)) == row).all()
    assert (forecast.quantile(0.05) == forecast.quantiles[LEVELS.tolist().index(0.05)]).all()
    for wrong in (0.0, 1.0, -0.1, NAN):
        with pytest.raises(InputError, match="between 0 and 1"):
            forecast.quantile(wrong)


def coverage(forecaster: Forecaster, first_day: int, seeds: range) -> float:
    held = []
    for seed in seeds:
        series = noisy(first_day + 22, seed)
        for day in range(first_day, first_day + 21, 7):
            fitted = forecaster.fit(series[: 24 * day])
            for origin in range(24 * day, 24 * (day + 7), 11):
                forecast = fitted.forecast(series[:origin], 24)
                future = series[origin : origin + 24]
                inside = (forecast.quantile(0.05) <= future) & (future <= forecast.quantile(0.95))
                held.append(inside.mean())
    return float(np.mean(held))


@pytest.mark.parametrize(
    ("forecaster", "first_day"),
    [(SeasonalNaive(), 30), (ShapeAndLevel(), 14), (LaggedRegression(), 100)],
)
def test_ninety_of_a_hundred_values_lie_in_the_interval(
    forecaster: Forecaster, first_day: int
) -> None:
    assert 0.85 <= coverage(forecaster, first_day, range(4)) <= 0.95


def test_after_two_days_the_interval_holds_more_often_rather_than_less() -> None:
    assert 0.85 <= coverage(ShapeAndLevel(), 2, range(4)) < 0.99


def test_a_short_history_has_wide_intervals() -> None:
    series = noisy(40, seed=3)
    widths = []
    for hours in (24, 48, 24 * 14):
        history = series[-hours:]
        forecast = ShapeAndLevel().fit(history).forecast(history, 24)
        widths.append(float((forecast.quantile(0.95) - forecast.quantile(0.05)).mean()))
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("forecaster", [ShapeAndLevel(), LaggedRegression()])
def test_intervals_are_wider_after_restless_days(forecaster: Forecaster) -> None:
    calm = noisy(100, seed=3)
    restless = calm.copy()
    restless[-24 * 7 : -1] += np.random.default_rng(1).normal(0, 40, 24 * 7 - 1)
    fitted = forecaster.fit(calm[: -24 * 7])

    def width(history: NDArray[np.float64]) -> float:
        forecast = fitted.forecast(history, 24)
        return float((forecast.quantile(0.95) - forecast.quantile(0.05)).mean())

    assert width(restless) > 1.2 * width(calm)


def test_a_few_values_show_no_error_and_a_usual_one_is_taken() -> None:
    history = np.array([99.0, 100.0, 101.0])
    forecast = ShapeAndLevel().fit(history).forecast(history, 24)
    low, high = forecast.quantile(0.05), forecast.quantile(0.95)
    assert high[0] / forecast.mean[0] == pytest.approx(np.exp(1.645 * 0.5), rel=0.1)
    assert (np.diff(high / low) > 0).all()


# Histories as they come


def test_short_holes_are_bridged_and_long_ones_take_the_day_before() -> None:
    values = np.arange(72.0)
    broken = values.copy()
    broken[[0, 30, 31]] = NAN, -1.0, np.inf  # at the beginning, and two in a row
    broken[40:50] = NAN
    broken[71] = -np.inf  # nothing follows: as a day before, which was missing too
    filled, missing = fill(broken)
    assert missing == 14
    assert filled[:2].tolist() == [1, 1]
    assert filled[29:33].tolist() == [29, 30, 31, 32]
    assert filled[40:50].tolist() == list(range(16, 26))
    assert filled[71] == filled[47] == 23
    assert np.isnan(broken[30 + 10])  # what was given is untouched


def test_a_hole_of_days_repeats_the_day_before_it() -> None:
    broken = daily(10)
    broken[24 * 3 + 5 : 24 * 7] = NAN
    filled, missing = fill(broken)
    assert missing == 24 * 4 - 5
    assert filled == pytest.approx(daily(10))


def test_without_a_day_before_the_last_known_value_is_kept() -> None:
    filled, missing = fill(np.array([NAN, 3.0, NAN, NAN, NAN, NAN, 8.0]))
    assert filled.tolist() == [3, 3, 3, 3, 3, 3, 8]
    assert missing == 5


def test_nothing_known_is_an_error_that_says_so() -> None:
    for history in (np.full(100, NAN), np.full(3, -1.0), np.array([])):
        with pytest.raises(InputError, match="at least one value"):
            fill(history)
        for forecaster in (ShapeAndLevel(), LaggedRegression()):
            with pytest.raises(InputError, match="at least one value"):
                forecaster.fit(history)


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_forecasts_survive_a_broken_history_and_count_what_was_missing(
    forecaster: Forecaster,
) -> None:
    history = noisy(90, seed=2)
    broken = history.copy()
    generator = np.random.default_rng(4)
    broken[generator.random(len(broken)) < 0.05] = NAN
    broken[24 * 60 : 24 * 62] = -5.0
    broken[-3:] = np.inf
    missing = int((~np.isfinite(broken) | (broken < 0)).sum())
    whole = forecaster.fit(history).forecast(history, 24)
    forecast = forecaster.fit(broken).forecast(broken, 24)
    assert whole.filled == 0
    assert forecast.filled == missing > 150
    assert np.isfinite(forecast.quantiles).all()
    assert np.abs(forecast.mean - whole.mean).mean() < 0.2 * whole.mean.mean()


@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("value", [0.0, 0.1, 42.0])
@pytest.mark.parametrize("hours", [24, 48, 24 * 60])
def test_what_never_changed_is_forecast_not_to(
    forecaster: Forecaster, value: float, hours: int
) -> None:
    history = np.full(hours, value)
    forecast = forecaster.fit(history).forecast(history, 24)
    assert forecast.mean == pytest.approx(np.full(24, value))
    assert forecast.quantiles == pytest.approx(np.full((len(LEVELS), 24), value))


@pytest.mark.parametrize("at_night", [0.0, 1.0, 50.0])
def test_a_day_after_a_quiet_night_is_no_million(at_night: float) -> None:
    past = np.array([at_night] * 8 + [1000.0] * 8)
    forecast = ShapeAndLevel(24).fit(past).forecast(past, 24)
    assert forecast.quantile(0.95).max() < 5000.0


def test_traffic_after_a_day_without_any_is_followed() -> None:
    fitted = ShapeAndLevel().fit(np.zeros(48))
    forecast = fitted.forecast(np.append(np.zeros(48), 100.0), 3)
    assert 100 > forecast.mean[0] > forecast.mean[1] > forecast.mean[2] > 1


@settings(max_examples=60)
@given(
    history=st.lists(
        st.floats(0, 1e6) | st.sampled_from([NAN, -1.0, np.inf]), min_size=1, max_size=60
    ).filter(lambda values: any(np.isfinite(v) and v >= 0 for v in values)),
    steps=st.integers(1, 24),
)
def test_any_history_with_a_value_in_it_is_enough(history: list[float], steps: int) -> None:
    given_values = np.array(history)
    for forecaster in FORECASTERS:
        forecast = forecaster.fit(given_values).forecast(given_values, steps)
        assert forecast.mean.shape == (steps,)
        assert np.isfinite(forecast.quantiles).all()
        assert (forecast.mean >= 0).all()
        assert (forecast.quantiles >= 0).all()
        assert (np.diff(forecast.quantiles, axis=0) >= 0).all()


def test_from_little_history_the_simpler_method_forecasts_and_says_so() -> None:
    long, short = noisy(50, seed=1), noisy(49, seed=1)
    forecaster = LaggedRegression()
    assert forecaster.fit(long).forecast(long, 24).method == "lagged regression"
    assert forecaster.fit(short).forecast(short, 24).method == "shape and level"


def test_steps_out_of_reach_are_refused() -> None:
    history = noisy(60, seed=1)
    with pytest.raises(InputError, match="24 steps at most"):
        LaggedRegression().fit(history).forecast(history, 25)
    with pytest.raises(InputError, match="last 360 values"):
        LaggedRegression().fit(history).forecast(history[:100], 24)
    for forecaster in FORECASTERS:
        with pytest.raises(InputError, match="one step or more"):
            forecaster.fit(history).forecast(history, 0)
    two_days = LaggedRegression(horizon=48).fit(history).forecast(history, 48)
    assert two_days.mean.shape == (48,)


# Time


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_nothing_after_the_origin_matters(forecaster: Forecaster) -> None:
    """The history is a view into a longer series whose rest changes."""
    series = noisy(80, seed=6)
    origin = 24 * 70 + 5
    fitted_on, now = series[: 24 * 69], series[:origin]
    before = forecaster.fit(fitted_on).forecast(now, 24)
    series[origin:] = np.random.default_rng(1).random(len(series) - origin) * 1e9
    after = forecaster.fit(fitted_on).forecast(now, 24)
    assert (before.mean == after.mean).all()
    assert (before.quantiles == after.quantiles).all()


@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("cut", [24, 31])
def test_a_history_may_lose_its_beginning_if_the_origin_is_told(
    forecaster: Forecaster, cut: int
) -> None:
    """The year and the weeks that are looked at lie within what remains."""
    series = noisy(400, seed=9)
    origin = 24 * 399 + 7
    whole = forecaster.fit(series[: origin - 7]).forecast(series[:origin], 24)
    fitted = forecaster.fit(series[cut : origin - 7], origin=origin - 7)
    late = fitted.forecast(series[cut:origin], 24, origin=origin)
    assert late.mean == pytest.approx(whole.mean)
    if not isinstance(forecaster, SeasonalNaive):  # its interval is from all history there is
        assert late.quantiles == pytest.approx(whole.quantiles)


# The oracle, and errors put in on purpose


def test_the_oracle_knows_what_comes_and_begins_again_at_the_end() -> None:
    series = np.arange(100.0)
    oracle = Perfect(series).fit(series[:10])
    assert oracle.forecast(series[:90], 12).mean.tolist() == [*range(90, 100), 0, 1]
    assert oracle.forecast(series[:3], 2, origin=50).mean.tolist() == [50, 51]
    assert (oracle.forecast(series[:90], 5).quantile(0.95) == np.arange(90, 95)).all()


def test_a_bias_alone_is_a_factor() -> None:
    series = daily(3)
    forecast = Perturbed(Perfect(series), bias=-0.2).fit(series).forecast(series[:30], 12)
    assert forecast.mean == pytest.approx(0.8 * series[30:42])
    assert forecast.quantile(0.5) == pytest.approx(0.8 * series[30:42])


def test_noise_has_the_spread_asked_for_no_bias_and_lasts_from_step_to_step() -> None:
    series = np.ones(48)
    factors = np.array(
        [
            Perturbed(Perfect(series), noise=0.3, seed=seed).fit(series).forecast(series, 24).mean
            for seed in range(4_000)
        ]
    )
    assert factors.mean(axis=0) == pytest.approx(np.ones(24), abs=0.02)
    assert factors.std(axis=0) == pytest.approx(np.full(24, 0.3), rel=0.08)
    logs = np.log(factors)
    assert np.corrcoef(logs[:, 3], logs[:, 4])[0, 1] == pytest.approx(0.9, abs=0.02)
    assert np.corrcoef(logs[:, 3], logs[:, 5])[0, 1] == pytest.approx(0.81, abs=0.03)


def test_noise_comes_again_by_its_seed_and_origin() -> None:
    series = daily(5)

    def made(seed: int, origin: int) -> list[float]:
        perturbed = Perturbed(Perfect(np.ones(24)), noise=0.5, seed=seed).fit(series)
        return list(perturbed.forecast(series[:origin], 24).mean)

    assert made(1, 50) == made(1, 50)
    assert made(1, 50) != made(1, 51)
    assert made(1, 50) != made(2, 50)


@pytest.mark.parametrize(("bias", "noise"), [(-1.0, 0.0), (0.0, -0.1), (NAN, 0.0), (0.0, np.inf)])
def test_errors_that_make_no_sense_are_refused(bias: float, noise: float) -> None:
    with pytest.raises(InputError, match="a bias is above -1"):
        Perturbed(SeasonalNaive(), bias, noise)
