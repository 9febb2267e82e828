"""Counters that restart and wrap."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from greencache.adapters.counters import Counters

steps = st.lists(
    st.tuples(st.sampled_from(["grow", "read", "restart"]), st.integers(0, 1000)), max_size=60
)


@given(steps)
def test_what_grew_is_never_too_much_and_misses_only_what_came_before_a_restart(
    history: list[tuple[str, int]],
) -> None:
    counters = Counters()
    counters.grown({"c": 0.0})
    value = found = true = unread = lost_at_most = 0.0
    for what, by in history:
        if what == "grow":
            value += by
            true += by
            unread += by
        elif what == "restart":
            lost_at_most += unread + value  # if it grows past its old value, more seems less
            value = unread = 0.0
        else:
            found += counters.grown({"c": value})["c"]
            unread = 0.0
    found += counters.grown({"c": value})["c"]
    assert true - lost_at_most <= found <= true


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=40))
def test_told_of_restarts_it_misses_what_was_not_read_before_them_and_no_more(
    history: list[tuple[int, bool]],
) -> None:
    counters = Counters()
    counters.grown({"c": 7.0})
    value, found, true = 7.0, 0.0, 0.0
    for by, restarts in history:
        value = by if restarts else value + by
        true += by
        found += counters.grown({"c": value}, restarted=restarts)["c"]
    assert found == true
    assert counters.restarts == sum(restarts for _, restarts in history)


@given(st.lists(st.integers(0, 999), max_size=60), st.integers(0, 999))
def test_a_wrap_loses_nothing_if_it_is_read_within_one_round(growth: list[int], at: int) -> None:
    counters = Counters()
    counters.grown({"c": float(at)}, wraps_at={"c": 1000.0})
    value, found = at, 0.0
    for by in growth:
        value = (value + by) % 1000
        found += counters.grown({"c": float(value)}, wraps_at={"c": 1000.0})["c"]
    assert found == sum(growth)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_counters_value_is_left_out(wrong: float) -> None:
    counters = Counters()
    counters.grown({"a": 5.0, "b": 5.0})
    assert counters.grown({"a": wrong, "b": 6.0}) == {"b": 1.0}
    assert counters.grown({"a": 8.0}) == {"a": 3.0}


def test_a_counter_never_read_before_counts_from_then_on() -> None:
    counters = Counters()
    counters.grown({"a": 1.0})
    assert counters.grown({"a": 2.0, "b": 100.0}) == {"a": 1.0, "b": 0.0}
    assert counters.grown({"c": 100.0}, restarted=True) == {"c": 100.0}
    assert counters.fallen({"b": 99.0})
    assert not counters.fallen({"b": 100.0, "z": 0.0})
