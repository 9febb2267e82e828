"""When live control looks, within intervals and at their ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from greencache.service.schedule import Schedule
from greencache.settings import ControlSettings

EPOCH_S = 473_000 * 3600.0


def looks_of(schedule: Schedule) -> list[float]:
    """Times to look until the interval ends, as whoever sleeps until the next one is told."""
    told = []
    while (next_s := schedule.next_look_s) < schedule.ends_s:
        assert schedule.looked(next_s - 1.0) is None
        assert schedule.looked(next_s) == next_s
        assert schedule.looked(next_s) is None, "once"
        told.append(next_s)
    assert next_s == schedule.ends_s
    assert schedule.looked(next_s) is None, "that is the next interval's"
    return told


@pytest.mark.parametrize("begins_s", [0.0, EPOCH_S])
def test_it_looks_every_ten_minutes_of_an_hour(begins_s: float) -> None:
    schedule = Schedule(ControlSettings(), begins_s)
    for hour in range(3):
        hour_s = begins_s + hour * 3600.0
        assert looks_of(schedule) == pytest.approx([hour_s + at for at in range(600, 3600, 600)])
        assert schedule.ends_s == hour_s + 3600.0
        schedule.next_interval(schedule.ends_s)


def test_it_may_look_at_the_end_only() -> None:
    schedule = Schedule(ControlSettings(looks=1), EPOCH_S + 10.0)
    assert schedule.next_look_s == schedule.ends_s == EPOCH_S + 3600.0
    assert schedule.looked(EPOCH_S + 3599.0) is None


def test_who_begins_in_the_middle_looks_at_the_same_times() -> None:
    schedule = Schedule(ControlSettings(), EPOCH_S + 1900.0)
    assert looks_of(schedule) == pytest.approx([EPOCH_S + at for at in (2400, 3000)])


def test_what_was_slept_through_is_not_made_up_for() -> None:
    schedule = Schedule(ControlSettings(), EPOCH_S)
    assert schedule.looked(EPOCH_S + 2500.0) == pytest.approx(EPOCH_S + 2400.0)
    assert schedule.next_look_s == pytest.approx(EPOCH_S + 3000.0)
    late_s = EPOCH_S + 5 * 3600.0 + 1300.0
    assert schedule.slept(late_s)
    schedule.next_interval(late_s)
    assert schedule.began_s == late_s, "nobody saw what was before"
    assert looks_of(schedule) == pytest.approx(
        [EPOCH_S + 5 * 3600.0 + at for at in (1800, 2400, 3000)]
    )


def test_a_whole_interval_is_one_that_was_seen_from_end_to_end() -> None:
    schedule = Schedule(ControlSettings(), EPOCH_S + 1800.0)
    assert not schedule.is_whole(schedule.ends_s), "it began in the middle"
    late_s = schedule.ends_s + 300.0
    assert not schedule.slept(late_s), "a meter may take its time"
    schedule.next_interval(late_s)
    assert schedule.is_whole(schedule.ends_s)
    assert schedule.slept(schedule.ends_s + 1800.0)
    assert not schedule.is_whole(schedule.ends_s + 1800.0)
    schedule.next_interval(schedule.ends_s + 1800.0)
    assert schedule.began_s == EPOCH_S + 2.5 * 3600.0
    assert not schedule.is_whole(schedule.ends_s)


def test_in_a_short_interval_a_meter_may_take_its_time_too() -> None:
    schedule = Schedule(ControlSettings(interval=60.0), EPOCH_S)
    assert not schedule.slept(schedule.ends_s + 10.0)
    assert schedule.slept(schedule.ends_s + 60.0)


@given(st.floats(60, 7200), st.integers(1, 60), st.floats(0, 1e6))
def test_looks_are_even_however_long_an_interval_is(
    interval_s: float, looks: int, since_s: float
) -> None:
    schedule = Schedule(ControlSettings(interval=interval_s, looks=looks), since_s)
    began_s = schedule.ends_s
    schedule.next_interval(began_s)
    times = [began_s, *looks_of(schedule), schedule.ends_s]
    assert len(times) == looks + 1
    for before_s, after_s in itertools.pairwise(times):
        assert after_s - before_s == pytest.approx(interval_s / looks, rel=1e-3)
