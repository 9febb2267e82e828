"""The planner's benchmark plans what it says, and both of its sides the same."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from greencache.bench.planner_cases import scattered, serving_days, tightened
from greencache.bench.planner_speed import measure
from greencache.controller.planner import plan


def test_both_sides_find_the_same_grams() -> None:
    ticks = itertools.count()
    result = measure(
        lambda: float(next(ticks)),
        kinds={"short": lambda seed: tightened(serving_days(seed, intervals=2), 0.5)},
        seeds=3,
        program_seeds=2,
        turns=2,
    )
    assert [case["seed"] for case in result["cases"]] == [0, 1, 2]
    for case in result["cases"]:
        ours = case["decomposition"]
        assert ours["lower_bound"] == ours["grams"]
        assert ours["median_s"] == 1
        assert ("program" in case) == (case["seed"] < 2)
        if "program" in case:
            assert case["program"]["grams"] == pytest.approx(ours["grams"], rel=1e-12)
    assert (result["intervals"], result["nodes"], result["choices"]) == (24, 195, 85)


def test_a_day_of_serving_has_the_structure_of_one() -> None:
    day = serving_days(4)
    content, backlog = np.divmod(day.next_node, 3)
    size_levels = np.repeat(np.arange(17) * 4, 5)
    assert (content <= size_levels).all(), "no tier holds more than its size"
    from_empty = content[:, 0, -1]
    assert (from_empty < 16 * 4).all(), "a cold tier is not full an hour later"
    held = content.reshape(24, 65, 3, 85)[:, :, 0, -1]
    assert (held >= np.arange(65)).all(), "what fits stays"
    attained = day.attained.reshape(24, 65, 3, 85)
    assert (np.diff(attained[:, :, 0, -1], axis=1) >= 0).all(), "more content attains no less"
    assert (np.diff(attained, axis=2) <= 0).all(), "more backlog attains no more"
    assert backlog.any(), "some work is left over where nothing is held"
    assert set(day.day.tolist()) == {0, 1}


def test_tightened_targets_bind() -> None:
    day = serving_days(5)
    grams = [plan(replace(day, target=0.0)).grams]
    for share in (0.3, 0.7, 0.95):
        made = plan(tightened(day, share))
        assert made.prices.max() > 0
        grams.append(made.grams)
    assert grams == sorted(set(grams)), "each costs more than the one before"


def test_without_structure_a_gap_is_still_proven() -> None:
    made = plan(scattered(1), most_labels=500)
    assert 0 < made.gap < 0.01
