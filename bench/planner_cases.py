"""Instances of a planner's problem with the structure of a day of serving, drawn from a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greencache.controller.planner import Instance, affordable, plan

__all__ = ["scattered", "serving_days", "tightened"]

LEVELS_PER_TB = 4
SSD_TB = np.arange(17.0)
DRAM_TB = np.array([0.0, 0.064, 0.128, 0.256, 0.512])
BACKLOGS = np.array([0.0, 0.05, 0.2])
"""Work that waits when an interval begins, in intervals of a saturated engine."""

_ANY_PRICE = 1e6
"""gCO2e for a request within the SLO: more than all of a day costs."""

_LEVELS = int(SSD_TB[-1]) * LEVELS_PER_TB + 1


def tightened(instance: Instance, share: float) -> Instance:
    """``instance`` with targets that bind on every day.

    They lie at ``share`` of the way from what the cheapest plan attains to the most that can be.
    """
    least = plan(replace(instance, target=0.0)).day_attained
    most = affordable(instance, _ANY_PRICE).day_attained
    wanted = np.minimum(least + share * (most - least), most)
    return replace(instance, target=wanted / instance.day_requests)


def serving_days(
    seed: int, *, intervals: int = 24, first_hour: int = 15, target: float = 0.9
) -> Instance:
    """Hourly intervals of an engine whose load and grid swing over the day.

    17 SSD sizes, 5 DRAM sizes; a node is one of 65 levels of content, a quarter of a terabyte each,
    and one of 3 backlogs. Magnitudes are those of a 70B model on four 300 W GPUs; load, grid, reuse
    and prices of storage are drawn anew for each seed.
    """
    draws = np.random.default_rng(seed)
    hours = first_hour + np.arange(intervals)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * (hours - 4) / 24)
    peak = draws.uniform(0.4, 0.7)
    load = peak * (draws.uniform(0.2, 0.5) * (1 - swing) + swing) * draws.normal(1, 0.05, intervals)
    kg_per_kwh = draws.choice([0.03, 0.1, 0.4])
    grid_g = 1e3 * kg_per_kwh * (1 + 0.3 * np.sin(2 * np.pi * (hours - draws.uniform(0, 24)) / 24))
    grid_g *= draws.normal(1, 0.03, intervals)

    content = np.arange(_LEVELS) / LEVELS_PER_TB
    ssd = np.repeat(SSD_TB, len(DRAM_TB))
    dram = np.tile(DRAM_TB, len(SSD_TB))
    # [T, C, B, K]
    asked = load[:, None, None, None]
    held = np.minimum(content[None, :, None, None], ssd)
    written = asked * draws.uniform(0.8, 2.5)
    after = np.minimum(ssd, held + written)
    reach_tb, most_hits = draws.uniform(1.5, 6), draws.uniform(0.5, 0.75)
    seen = 0.1 + dram + (held + after) / 2
    hits = most_hits * (1 - np.exp(-seen / reach_tb))
    work = asked * (1 - hits) / (1 - most_hits) + BACKLOGS[:, None]
    busy = np.minimum(work, 1.0)
    left = np.maximum(work - 1.0, 0.0)
    late = 1 / (1 + np.exp(-(work - draws.uniform(0.8, 0.9)) * draws.uniform(8, 20)))
    requests = 580 * load
    attained = requests[:, None, None, None] * (1 - late)
    watts = 300 + 900 * busy + 375 * dram + 1.5 * ssd
    drive_g = draws.choice([5.0, 30.0, 160.0]) * 1e3 / (5 * 8766)
    memory_g = 1.65 * 1e6 / (5 * 8766)
    grams = grid_g[:, None, None, None] * watts / 1e3 + drive_g * ssd + memory_g * dram

    levels = np.floor(after * LEVELS_PER_TB + 1e-9).astype(np.int32)
    waits = (left[..., None] > (BACKLOGS[:-1] + BACKLOGS[1:]) / 2).sum(axis=-1)
    next_node = levels * len(BACKLOGS) + waits
    shape = (intervals, _LEVELS * len(BACKLOGS), len(ssd))

    def flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.broadcast_to(values, (intervals, _LEVELS, len(BACKLOGS), len(ssd)))
        return np.ascontiguousarray(whole).reshape(shape)

    return Instance(
        grams=flat(grams),
        attained=flat(attained),
        requests=requests,
        next_node=np.ascontiguousarray(
            np.broadcast_to(next_node, (intervals, _LEVELS, len(BACKLOGS), len(ssd)))
        )
        .reshape(shape)
        .astype(np.int32),
        start_node=int(draws.integers(_LEVELS // 2, _LEVELS)) * len(BACKLOGS),
        target=target,
        floor=0.3,
        day=hours // 24,
    )


def scattered(seed: int) -> Instance:
    """As large as `serving_days`, with next nodes and attainment drawn at random.

    Attaining more costs more, ever more steeply, from every node: nearly everything is a trade, and
    a great many plans are about as good as the best. The hardest kind that was found.
    """
    draws = np.random.default_rng(seed)
    shape = (24, _LEVELS * len(BACKLOGS), len(SSD_TB) * len(DRAM_TB))
    share = draws.uniform(0, 1, shape)
    return Instance(
        grams=100 * (1 + share**2 + draws.uniform(0, 0.02, shape)),
        attained=400 * share,
        requests=np.full(shape[0], 400.0),
        next_node=draws.integers(0, shape[1], shape).astype(np.int32),
        start_node=0,
        target=0.85,
        floor=0.0,
        day=(15 + np.arange(shape[0])) // 24,
    )
