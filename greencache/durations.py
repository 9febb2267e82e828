"""``Durations``: how long operations took, in the buckets of a Prometheus histogram."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["BOUNDS_S", "Durations"]

BOUNDS_S = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0),
)
"""Upper ends of the buckets: from one block's copy in memory to a batch that a deadline ends."""


class Durations:
    """Counts of durations by bucket, and their sum.

    Attributes
    ----------
    counts:
        For each bucket of `BOUNDS_S`, and one for all beyond: how many fell into it.
    total_s:
        Their sum.

    Examples
    --------
    >>> took = Durations()
    >>> took.add(0.003)
    >>> len(took), took.total_s
    (1, 0.003)
    """

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def __len__(self) -> int:
        return sum(self.counts)

    def add(self, duration_s: float) -> None:
        """Count one; a clock that went back counts as no time."""
        duration_s = max(0.0, duration_s)
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s

    @contextmanager
    def timing(self, clock: Callable[[], float]) -> Iterator[None]:
        """Count how long the block takes, also if it raises."""
        began_s = clock()
        try:
            yield
        finally:
            self.add(clock() - began_s)

    def __add__(self, other: Durations) -> Durations:
        both = Durations()
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total_s = self.total_s + other.total_s
        return both

    def copy(self) -> Durations:
        """The same, which later durations do not change."""
        return self + Durations()

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, infinity last: how many took no longer."""
        below, ends = 0, []
        for bound, count in zip((*BOUNDS_S, float("inf")), self.counts, strict=True):
            below += count
            ends.append((bound, below))
        return ends
