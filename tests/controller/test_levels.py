"""Contents of a tier over an interval, and the levels that stand for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.controller.levels import dithered, grown


@given(
    size=st.floats(0, 100),
    share=st.floats(0, 1),
    written=st.one_of(st.just(0.0), st.floats(0, 300)),
)
def test_content_grows_with_writing_up_to_the_size(
    size: float, share: float, written: float
) -> None:
    before = share * size
    after, mean = grown(np.array([before]), np.array([size]), np.array([written]))
    steps = np.minimum(size, before + written * (np.arange(1000) + 0.5) / 1000)
    assert after[0] == pytest.approx(min(size, before + written))
    assert mean[0] == pytest.approx(steps.mean(), abs=1e-3 * (1 + written))


@given(start=st.floats(0, 3), rate=st.floats(0.01, 0.9))
def test_slow_growth_is_right_over_many_intervals(start: float, rate: float) -> None:
    """Level by level, each from the one before it: in 60 intervals it has grown as it should."""
    levels = np.arange(100.0)
    at = int(start)
    for t in range(60):
        values = np.full(t + 1, at + rate)
        at = int(dithered(values, levels, 0.0)[t])
    assert at - int(start) == pytest.approx(60 * rate, abs=2)


def test_whole_levels_stay_what_they_are() -> None:
    levels = np.array([0.0, 1.5, 7.0, 8.0])
    values = np.tile(levels, (50, 1))
    np.testing.assert_array_equal(dithered(values, levels, 0.3), np.tile(np.arange(4), (50, 1)))


def test_beyond_the_last_level_is_the_last_one() -> None:
    assert dithered(np.full((3, 1), 99.0), np.array([0.0, 1.0]), 0.0).tolist() == [[1], [1], [1]]
