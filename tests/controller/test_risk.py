from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.controller.risk import Days, planned_targets


def one_day(before: float, missed: float, ahead: float, share: float = 1.0) -> Days:
    return Days(*(np.array([value]) for value in (before, missed, ahead, share)))


def test_what_is_expected_is_planned_where_no_certainty_is_asked_for() -> None:
    for certainty in (0.1, 0.5):
        assert planned_targets(0.9, certainty, 30.0, one_day(0, 0, 1000))[0] == pytest.approx(0.9)


@given(
    target=st.floats(0.5, 0.99),
    certainty=st.floats(0.5, 0.999),
    clumping=st.floats(1, 100),
    requests=st.floats(10, 1e6),
)
def test_a_day_planned_so_is_just_as_likely_to_be_kept(
    target: float, certainty: float, clumping: float, requests: float
) -> None:
    planned = planned_targets(target, certainty, clumping, one_day(0, 0, requests))[0]
    missed, allowed = (1 - planned) * requests, (1 - target) * requests
    reach = NormalDist().inv_cdf(certainty) * math.sqrt(clumping * missed)
    assert missed + reach == pytest.approx(allowed, rel=1e-6)


def test_bursts_keep_the_target_as_often_as_was_asked_for() -> None:
    """Against bursts drawn at random, of which the formula knows but mean and variance."""
    generator = np.random.default_rng(1)
    requests, target, mean_size = 5500, 0.9, 12.0
    clumping = 2 * mean_size - 1  # of geometric sizes
    planned = planned_targets(target, 0.95, clumping, one_day(0, 0, requests))[0]
    bursts = generator.poisson((1 - planned) * requests / mean_size, size=4000)
    missed = np.array([generator.geometric(1 / mean_size, n).sum() for n in bursts])
    kept = (missed <= (1 - target) * requests).mean()
    assert 0.92 < kept < 0.97
    expected_only = generator.poisson((1 - target) * requests / mean_size, size=4000)
    missed = np.array([generator.geometric(1 / mean_size, n).sum() for n in expected_only])
    assert (missed <= (1 - target) * requests).mean() < 0.6


def test_what_a_day_has_missed_is_made_up_for_in_its_rest() -> None:
    fresh = planned_targets(0.9, 0.9, 30.0, one_day(1000, 20, 1000))[0]
    behind = planned_targets(0.9, 0.9, 30.0, one_day(1000, 120, 1000))[0]
    # Of 2,000 requests it may miss 200: 180 more, or 80 more.
    assert (1 - fresh) * 2000 - 20 > (1 - behind) * 2000 - 120 > 0


def test_a_day_that_is_lost_asks_for_its_target_and_is_infeasible() -> None:
    assert planned_targets(0.9, 0.9, 30.0, one_day(1000, 500, 100))[0] == pytest.approx(0.9)
    assert planned_targets(0.9, 0.9, 30.0, one_day(0, 0, 0))[0] == pytest.approx(0.9)


def test_the_first_hour_of_a_day_answers_for_itself_alone() -> None:
    whole = planned_targets(0.9, 0.95, 30.0, one_day(0, 0, 2400))[0]
    hour = planned_targets(0.9, 0.95, 30.0, one_day(0, 0, 100, 1 / 24))[0]
    assert hour == pytest.approx(whole)
