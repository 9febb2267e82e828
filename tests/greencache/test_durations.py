"""Durations: a histogram that adds up."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from greencache.durations import BOUNDS_S, Durations

SECONDS = st.lists(st.floats(0, 100))


def of(seconds: list[float]) -> Durations:
    took = Durations()
    for each in seconds:
        took.add(each)
    return took


@given(SECONDS)
def test_each_bound_counts_all_that_took_no_longer(seconds: list[float]) -> None:
    took = of(seconds)
    for bound, count in took.cumulative():
        assert count == sum(each <= bound for each in seconds)
    assert took.cumulative()[-1] == (float("inf"), len(took))
    assert took.total_s == pytest.approx(sum(seconds))


@given(SECONDS, SECONDS)
def test_a_sum_is_as_if_all_had_been_counted_together(a: list[float], b: list[float]) -> None:
    both = of(a) + of(b)
    assert both.counts == of(a + b).counts
    assert both.total_s == pytest.approx(sum(a) + sum(b))


def test_a_copy_stays_as_it_was() -> None:
    took = of([0.1])
    copied = took.copy()
    took.add(0.1)
    assert (len(copied), len(took)) == (1, 2)


def test_what_raises_is_timed_too_and_no_time_is_negative() -> None:
    took, times = Durations(), iter([5.0, 7.0, 7.0, 6.0])
    with pytest.raises(OSError, match="no"), took.timing(lambda: next(times)):
        raise OSError("no")
    with took.timing(lambda: next(times)):
        pass
    assert (len(took), took.total_s) == (2, 2.0)


def test_bounds_grow() -> None:
    assert list(BOUNDS_S) == sorted(set(BOUNDS_S))
