"""Corrections learned from what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from greencache.controller.calibration import Calibration


def test_factors_approach_what_is_measured() -> None:
    learned = Calibration()
    for _ in range(200):
        learned = learned.with_prompts(100.0, 120.0, 10.0, 9.0)
    assert learned.work == pytest.approx(1.2, abs=0.001)
    assert learned.energy == pytest.approx(0.9, abs=0.001)


def test_what_cannot_be_is_not_learned() -> None:
    learned = Calibration().with_prompts(0.0, 5.0, 5.0, 0.0)
    assert learned == Calibration()
    assert Calibration().with_attainment(0.9, math.nan, 10) == Calibration()
    assert Calibration().with_prompts(1.0, 1e9, 1.0, 1e-9).work < 1.06


def test_the_shift_takes_the_prediction_to_what_is_measured() -> None:
    """From shares that scatter by chance: their log odds would not have the right mean."""
    generator = np.random.default_rng(0)
    learned = Calibration()
    for _ in range(500):
        seen = generator.binomial(6000, 0.85) / 6000
        learned = learned.with_attainment(0.92, seen, 6000).with_misses(0.85, seen, 6000)
    # About 120,000 requests count, against 50 for the model, and so many more as they clump.
    assert learned.shifted(np.array(0.92)) == pytest.approx(0.85, abs=0.01)


def test_requests_that_are_late_together_say_less() -> None:
    alone = together = Calibration()
    for hour in range(400):
        alone = alone.with_misses(0.9, 0.9, 200).with_attainment(0.9, 0.8, 200)
        burst = 1.0 if hour % 5 else 0.5
        together = together.with_misses(0.9, burst, 200).with_attainment(0.9, 0.8, 200)
    assert alone.clumping == pytest.approx(3, abs=1)
    # By 20 each in four of five hours, by 80 in the fifth, over 20 expected.
    assert together.clumping == pytest.approx((4 * 20**2 + 80**2) / 5 / 20, rel=0.15)
    assert together.shift > alone.shift


def test_hours_without_requests_say_nothing_of_misses() -> None:
    assert Calibration().with_misses(0.9, np.nan, 0) == Calibration()
    assert Calibration().with_misses(np.nan, 0.5, 10) == Calibration()


def test_few_requests_change_little() -> None:
    assert Calibration().with_attainment(0.9, 0.0, 2).shifted(np.array(0.9)) > 0.88
    assert Calibration().shift == 0


def test_a_shift_is_bounded_and_finite() -> None:
    learned = Calibration()
    for _ in range(500):
        learned = learned.with_attainment(1.0, 0.0, 1000)
    assert learned.shift == -2.0
    assert learned.shifted(np.array(1.0)) == 1.0
    assert learned.shifted(np.array(0.0)) == 0.0
