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
        seen = generator.binomial(60, 0.85) / 60
        learned = learned.with_attainment(0.92, seen, 60)
    # About 1,200 requests count, against the 200 that stand for the model.
    assert learned.shifted(np.array(0.92)) == pytest.approx(0.86, abs=0.02)


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
