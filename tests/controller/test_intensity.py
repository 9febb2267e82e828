"""What is known of the grid by the hour, what is thrown out, and what stands for the rest."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.controller.forecasts import SeasonalNaive
from greencache.controller.intensity import (
    IntensityBook,
    Points,
    Recorded,
    by_hour,
    usable,
)
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.telemetry import Spread, Window
from greencache.quantities import HOUR_S
from greencache.traces.samples import sample_grid

NOW_H = 500_000
NOW_S = NOW_H * HOUR_S
NAN = math.nan


def window(start_s: float, duration_s: float = HOUR_S) -> Window:
    none = Spread.of(np.empty(0))
    return Window(start_s, duration_s, 0, 0, 0, {}, 0, 0, none, none, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def hourly(first_h: int, values: list[float]) -> Points:
    return Points.hourly(first_h + np.arange(len(values)), np.array(values))


def book(**options: object) -> IntensityBook:
    given = {"stale_s": 6 * HOUR_S, "constant_gco2_per_kwh": 480.0, **options}
    return IntensityBook(SeasonalNaive(), HOUR_S, **given)  # type: ignore[arg-type]


def day(hour: int) -> float:
    """A grid with a shape of the day."""
    return 300 + 100 * math.sin(hour * 2 * math.pi / 24)


def test_five_minute_values_become_hourly_means_and_half_an_hour_is_enough() -> None:
    starts = np.arange(0, 5400, 300.0)
    found = by_hour(Points(starts, starts + 300, np.arange(18.0)))
    assert found == {0: pytest.approx(5.5), 1: pytest.approx(14.5)}
    starts = starts[:17]
    assert list(by_hour(Points(starts, starts + 300, np.arange(17.0)))) == [0]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30), st.floats(0, 5000)), max_size=30))
def test_hours_agree_with_the_sum_over_minutes(rows: list[tuple[int, int, float]]) -> None:
    points = Points.of((ten * 600.0, (ten + tens) * 600.0, value) for ten, tens, value in rows)
    minutes: dict[int, list[float]] = {}
    for ten, tens, value in rows:
        for slot in range(ten, ten + tens):
            minutes.setdefault(slot // 6, []).append(value)
    wanted = {hour: sum(v) / len(v) for hour, v in minutes.items() if len(v) >= 3}
    assert by_hour(points) == pytest.approx(wanted, abs=1e-6)


def test_what_cannot_be_true_is_thrown_out_and_counted() -> None:
    rows = [
        (0.0, 3600.0, 100.0),
        (3600.0, 7200.0, NAN),
        (3600.0, 7200.0, -1.0),
        (3600.0, 7200.0, 6000.0),
        (3600.0, 7200.0, math.inf),
        (7200.0, 3600.0, 100.0),
        (0.0, 1e9, 100.0),
        (NAN, 3600.0, 100.0),
    ]
    kept, dropped = usable(Points.of(rows), 0.0, 1e9)
    assert (len(kept.start_s), dropped) == (1, 7)


def test_hours_outside_of_what_is_wanted_are_no_mistakes() -> None:
    kept, dropped = usable(hourly(0, [1.0, 2.0, 3.0]), HOUR_S, 2 * HOUR_S)
    assert (kept.gco2_per_kwh.tolist(), dropped) == ([2.0], 0)


def test_a_lag_is_bridged_by_the_forecast_from_the_last_known_hour() -> None:
    known = book()
    known.learn(hourly(NOW_H - 75, [day(h) for h in range(NOW_H - 75, NOW_H - 3)]), NOW_S)
    forecast = known.forecast(NOW_S, 24)
    wanted = [day(hour) for hour in range(NOW_H, NOW_H + 24)]
    assert forecast.mean == pytest.approx(wanted)
    assert known.past(window(NOW_S - HOUR_S)) == pytest.approx(day(NOW_H - 1))
    assert known.knowledge(NOW_S) == ((NOW_H - 3) * HOUR_S, 3 * HOUR_S, None)
    assert not known.fallbacks
    assert forecast.filled == 0


def test_stale_values_give_way_to_the_same_hour_of_an_earlier_day_and_that_is_counted() -> None:
    known = book()
    known.learn(hourly(NOW_H - 75, [day(h) for h in range(NOW_H - 75, NOW_H - 7)]), NOW_S)
    assert known.knowledge(NOW_S).fallback == "same hour"
    forecast = known.forecast(NOW_S, 6)
    assert forecast.mean == pytest.approx([day(h) for h in range(NOW_H, NOW_H + 6)])
    assert forecast.filled == 7
    assert known.past(window(NOW_S - HOUR_S)) == pytest.approx(day(NOW_H - 1))
    assert known.fallbacks == {"same hour": 2}
    assert known.reading(window(NOW_S - HOUR_S)) == known.past(window(NOW_S - HOUR_S))
    assert known.fallbacks == {"same hour": 3}, "who only looks is not counted"


def test_after_a_month_the_recorded_series_stands_in_and_without_one_the_setting() -> None:
    later_s = NOW_S + 31 * 24 * HOUR_S
    recorded = Recorded(0, np.arange(24.0) + 1, "a day")
    for series, kind, value in [(recorded, "recorded", 9.0), (None, "constant", 480.0)]:
        known = book(recorded=series)
        known.learn(hourly(NOW_H - 24, [100.0] * 24), NOW_S)
        assert known.knowledge(later_s).fallback == kind
        assert known.past(window(later_s)) == value  # 8 past midnight
        known.forecast(later_s, 3)
        assert known.fallbacks == {kind: 2}


def test_where_nothing_was_ever_known() -> None:
    forecast = book().forecast(NOW_S, 5)
    assert forecast.mean.tolist() == [480.0] * 5
    assert forecast.quantile(0.95).tolist() == [480.0] * 5
    assert forecast.method == "constant"
    recorded = Recorded.of(sample_grid("GB"))
    known = book(recorded=recorded)
    year_h = 52 * 7 * 24
    place = (NOW_H - 24 - recorded.first_h) % year_h
    wanted = recorded.gco2_per_kwh[place : place + 24]
    assert known.forecast(NOW_S, 24).mean == pytest.approx(wanted)
    assert known.knowledge(NOW_S) == (-math.inf, math.inf, "recorded")


@given(st.integers(-(10**6), 10**6), st.integers(1, 30_000))
def test_a_recorded_series_stands_for_any_year_by_hour_and_weekday(hour: int, length: int) -> None:
    recorded = Recorded(1000, np.arange(float(length)), "numbers")
    place = recorded.at(hour)
    year = next((h for h in (24 * 7 * 52, 24 * 7, 24) if h <= length), 1)
    assert (hour - 1000 - place) % year == 0
    if 1000 <= hour < 1000 + length:
        assert place == hour - 1000
    before = recorded.before(hour)
    assert [before[-1], before[0]] == [recorded.at(hour - 1), recorded.at(hour - len(before))]
    assert len(before) <= min(length, 24 * 7 * 53)
    assert len(before) > 0


def test_a_gap_in_the_past_is_filled_and_counted_but_is_no_staleness() -> None:
    known = book()
    values = [day(hour) for hour in range(NOW_H - 96, NOW_H)]
    values[50:60] = [NAN] * 10
    assert known.learn(hourly(NOW_H - 96, values), NOW_S) == 10
    assert known.knowledge(NOW_S).fallback is None
    forecast = known.forecast(NOW_S, 24)
    assert forecast.filled == 10
    assert forecast.mean == pytest.approx([day(h) for h in range(NOW_H, NOW_H + 24)])
    assert known.past(window((NOW_H - 40) * HOUR_S)) == pytest.approx(day(NOW_H - 40))
    assert known.fallbacks == {"same hour": 1}


def test_revisions_replace_and_the_hour_that_has_begun_is_not_known_yet() -> None:
    known = book()
    known.learn(hourly(NOW_H - 2, [1.0, 2.0, 3.0]), NOW_S + 2000)
    assert known.knowledge(NOW_S + 2000).newest_s == NOW_S
    known.learn(hourly(NOW_H - 1, [20.0]), NOW_S + 2000)
    assert known.past(window(NOW_S - 2 * HOUR_S, 2 * HOUR_S)) == 10.5
    assert known.past(window(NOW_S - 1.5 * HOUR_S)) == 10.5


def test_the_sources_forecast_goes_first_if_trusted_and_fresh_with_the_spread_of_ours() -> None:
    rng = np.random.default_rng(1)
    values = [day(h) + 20 * rng.standard_normal() for h in range(NOW_H - 240, NOW_H)]
    theirs = hourly(NOW_H, [1000.0] * 12)
    for trust in (True, False):
        known = book(trust_forecast=trust)
        known.learn(hourly(NOW_H - 240, values), NOW_S)
        own = known.forecast(NOW_S, 24)
        known.learn_forecast(theirs, NOW_S)
        made = known.forecast(NOW_S, 24)
        if not trust:
            assert (made.mean == own.mean).all()
            continue
        assert made.mean[:12] == pytest.approx([1000.0] * 12)
        assert made.mean[12:] == pytest.approx(own.mean[12:])
        width = made.quantile(0.95) - made.quantile(0.05)
        assert width == pytest.approx(own.quantile(0.95) - own.quantile(0.05), rel=0.2)
        assert made.method.startswith("its source's own")
        stale_s = NOW_S + 7 * HOUR_S
        known.learn(hourly(NOW_H, [300.0] * 7), stale_s)
        assert not known.forecast(stale_s, 3).method.startswith("its source's")


def test_the_callers_clock_may_begin_at_any_time() -> None:
    begin = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    first_h = int(begin // HOUR_S)
    known = book(epoch_s=begin)
    known.learn(hourly(first_h, [day(h) for h in range(48)]), 48 * HOUR_S)
    assert known.past(window(5 * HOUR_S)) == pytest.approx(day(5))
    assert known.forecast(48 * HOUR_S, 2).mean == pytest.approx([day(48), day(49)])


def test_a_history_that_becomes_another_one_is_fitted_anew() -> None:
    recorded = Recorded.of(sample_grid("GB"))
    known = IntensityBook(
        LaggedRegression(),
        HOUR_S,
        stale_s=6 * HOUR_S,
        constant_gco2_per_kwh=480.0,
        recorded=recorded,
    )
    assert known.forecast(NOW_S, 24).method == "lagged regression"
    known.learn(hourly(NOW_H - 3, [1.0, 2.0, 3.0]), NOW_S)
    assert known.forecast(NOW_S, 24).mean.max() < 20
    known.learn(Points.of([(0.0, HOUR_S, 1.0)]), NOW_S)  # from 1970: not kept
    assert len(known.hours) == 3
