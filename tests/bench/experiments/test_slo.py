"""Limits on latency by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.bench.experiments.slo import TPOT_LIMITS_S, TTFT_LIMITS_S, least_kept

LATENCY = st.floats(0, 1000)


def test_the_least_limits_that_every_day_keeps() -> None:
    day = np.repeat([0, 1], 10)
    ttft_s = np.array([1.0] * 9 + [99.0] + [12.0] * 9 + [99.0])
    tpot_s = np.array([0.1] * 10 + [0.25] * 9 + [np.nan])
    slo = least_kept(day, ttft_s, tpot_s, 0.9)
    assert slo is not None
    assert (slo.ttft_s, slo.tpot_s, slo.target) == (15.0, 0.3, 0.9)
    first = least_kept(day[:10], ttft_s[:10], tpot_s[:10], 0.9)
    assert first is not None
    assert (first.ttft_s, first.tpot_s) == (2.0, 0.2)


def test_both_limits_are_met_together() -> None:
    # Nine of ten meet each limit, but they are not the same nine.
    ttft_s = np.array([3.0] + [1.0] * 9)
    tpot_s = np.array([0.1] * 9 + [0.4])
    slo = least_kept(np.zeros(10, int), ttft_s, tpot_s, 0.9)
    assert slo is not None
    assert (slo.ttft_s, slo.tpot_s) == (5.0, 0.2)


def test_what_keeps_no_limit_has_none() -> None:
    assert least_kept(np.zeros(5, int), np.full(5, 601.0), np.full(5, 0.1), 0.9) is None
    assert least_kept(np.zeros(5, int), np.full(5, 1.0), np.full(5, 2.1), 0.9) is None


@given(
    st.lists(st.tuples(st.integers(0, 2), LATENCY, st.floats(0, 3)), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_no_lower_limit_would_do(requests: list[tuple[int, float, float]], target: float) -> None:
    day, ttft_s, tpot_s = (np.array(column) for column in zip(*requests, strict=True))

    def kept(ttft_limit_s: float, tpot_limit_s: float) -> bool:
        meets = (ttft_s <= ttft_limit_s) & (tpot_s <= tpot_limit_s)
        return all(meets[day == each].mean() >= target for each in set(day))

    pairs = [(ttft, tpot) for tpot in TPOT_LIMITS_S for ttft in TTFT_LIMITS_S if kept(ttft, tpot)]
    slo = least_kept(day, ttft_s, tpot_s, target)
    if slo is None:
        assert not pairs
    else:
        assert (slo.ttft_s, slo.tpot_s) == pytest.approx(pairs[0])
