"""How a tier's content changes over an interval, and states as levels of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.tiers.state import int64

__all__ = ["between", "dithered", "grown", "level_of", "thresholds"]

Floats = NDArray[np.float64]

_GOLDEN = (5**0.5 - 1) / 2


def grown(before: Floats, size: Floats, written: Floats) -> tuple[Floats, Floats]:
    """Content of a tier after an interval of even writing, and its mean over the interval.

    It is ``min(size, before + written * x)`` at the share ``x`` of the interval.

    Parameters
    ----------
    before:
        Content at the beginning, no more than the size.
    size, written:
        Its size, and what is written to it in the interval. All three broadcast.
    """
    room = size - before
    fills = written > room
    filling = np.where(fills, room, 1.0) / np.where(fills, written, 1.0)
    mean = before + written * filling * filling / 2 + room * (1 - filling)
    return np.minimum(size, before + written), np.minimum(size, mean)


@subroutine
def between(value: float, points: Floats) -> tuple[int, float]:
    """Where a value lies among rising points: after which one, and the share of the way onwards.

    Below the first and above the last one it is at that one.
    """
    last = len(points) - 1
    if last == 0 or value <= points[0]:
        return int64(0), 0.0
    if value >= points[last]:
        return int64(last - 1), 1.0
    low, high = int64(0), int64(last)
    while high - low > 1:
        middle = (low + high) >> 1
        if points[middle] <= value:
            low = middle
        else:
            high = middle
    return low, (value - points[low]) / (points[high] - points[low])


@subroutine
def level_of(value: float, levels: Floats, threshold: float) -> int:
    """The level before a value, or the one after it if it is farther on the way than so much."""
    low, share = between(value, levels)
    # What is at a level but for rounding is at that level.
    return low + 1 if share > max(threshold, 1e-9) else low


def thresholds(count: int, phase: float) -> Floats:
    """Numbers in 0..1 that lie evenly there, however many of them are taken.

    Multiples of the golden ratio, less their whole parts (Weyl, Math. Annalen 77, 1916).
    """
    return np.asarray(((np.arange(count) + 0.5) * _GOLDEN + phase) % 1)


@kernel
def _dither(values: Floats, levels: Floats, thresholds: Floats, chosen: NDArray[np.int64]) -> None:
    for t in range(len(values)):
        for i in range(values.shape[1]):
            chosen[t, i] = level_of(values[t, i], levels, thresholds[t])


def dithered(values: Floats, levels: Floats, phase: float) -> NDArray[np.int64]:
    """The level that stands for each value: of the two around it, one or the other by interval.

    Parameters
    ----------
    values:
        The first axis is of intervals.
    levels:
        Rising; beyond their ends values are those of the ends.
    phase:
        Which part of the sequence of `thresholds` is taken.
    """
    chosen = np.empty(values.shape, np.int64)
    rows = len(values), values[0].size
    _dither(
        np.ascontiguousarray(values).reshape(rows),
        levels,
        thresholds(len(values), phase),
        chosen.reshape(rows),
    )
    return chosen
