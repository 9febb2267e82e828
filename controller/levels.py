"""How a tier's content changes over an interval, and states as levels of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["dithered", "grown"]

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
    with np.errstate(divide="ignore", invalid="ignore"):
        filling = np.where(written > room, room / written, 1.0)
    mean = before + written * filling * filling / 2 + room * (1 - filling)
    return np.minimum(size, before + written), np.minimum(size, mean)


def dithered(values: Floats, levels: Floats, phase: float) -> NDArray[np.int64]:
    """The level that stands for each value: of the two around it, one or the other by interval.

    Parameters
    ----------
    values:
        The first axis is of intervals.
    levels:
        Rising; beyond their ends values are those of the ends.
    phase:
        Where in the sequence of thresholds the first interval is.
    """
    at = np.interp(values, levels, np.arange(len(levels), dtype=np.float64))
    low = np.floor(at + 1e-9)
    # Multiples of the golden ratio lie evenly in 0..1 however many are taken (Weyl).
    threshold = ((np.arange(len(values)) + 0.5) * _GOLDEN + phase) % 1
    above = at - low > threshold.reshape(-1, *[1] * (values.ndim - 1))
    return np.minimum(low + above, len(levels) - 1).astype(np.int64)
