"""Counters that only grow, read now and then: what they grew by, over restarts and wraps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

__all__ = ["Counters"]

Key = TypeVar("Key", bound=Hashable)


class Counters(Generic[Key]):
    """Sums what a set of counters grew by from reading to reading.

    A counter that was never read before counts from then on. One that is lower than before either
    wrapped, if it is known where it does, or began anew at 0. What it counted between the last
    reading and its restart is lost, so the sum is never too high; what wraps has to be read more
    often than it does.
    """

    def __init__(self) -> None:
        self.restarts = 0
        """How often a counter began anew."""
        self._last: dict[Key, float] = {}

    def grown(
        self,
        values: Mapping[Key, float],
        *,
        wraps_at: Mapping[Key, float] | None = None,
        restarted: bool = False,
    ) -> dict[Key, float]:
        """What each has grown by since it was last read; what is no counter's value is left out.

        Parameters
        ----------
        values:
            What they show now; those that are missing keep what they showed last.
        wraps_at:
            By how much those fall that begin at 0 again when they are full.
        restarted:
            Whether all of them are known to have begun anew, also those that look grown.
        """
        increases: dict[Key, float] = {}
        for key, value in values.items():
            if not (math.isfinite(value) and value >= 0):
                continue
            last = self._last.get(key)
            self._last[key] = value
            if last is None:
                increases[key] = value if restarted else 0.0
                continue
            full = (wraps_at or {}).get(key)
            if restarted or (value < last and full is None):
                self.restarts += 1
                increases[key] = value
            elif value >= last or full is None:
                increases[key] = value - last
            else:
                increases[key] = max(value + full - last, 0.0)
        return increases

    def fallen(self, values: Mapping[Key, float]) -> bool:
        """Whether any of them shows less than when it was last read."""
        return any(value < self._last.get(key, -math.inf) for key, value in values.items())
