"""Which slots of a tier have memory or disk behind them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backing"]

Slots = NDArray[np.int32]


class Backing:
    """A set of slots."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.bool_)
        self._count = 0

    def __len__(self) -> int:
        """Slots that are backed."""
        return self._count

    def _make_room_for(self, slots: int) -> None:
        have = len(self._bits)
        if slots > have:
            more = np.zeros(max(slots, 2 * have) - have, np.bool_)
            self._bits = np.concatenate([self._bits, more])

    def between(self, begin: int, end: int) -> int:
        """How many slots from ``begin`` to before ``end`` are backed."""
        return int(self._bits[begin:end].sum())

    def missing(self, slots: Slots) -> Slots:
        """Those of ``slots`` that are not backed."""
        self._make_room_for(int(slots.max(initial=-1)) + 1)
        return slots[~self._bits[slots]]

    def lowest_missing(self, count: int, below: int) -> Slots:
        """The first ``count`` slots that are not backed, of those below ``below``."""
        self._make_room_for(below)
        return np.flatnonzero(~self._bits[:below])[:count].astype(np.int32)

    def free(self, occupied: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which slots are backed and not in ``occupied``."""
        free = self._bits.copy()
        both = min(len(free), len(occupied))
        free[:both] &= ~occupied[:both]
        return free

    def mask(self) -> NDArray[np.bool_]:
        """Which slots are backed."""
        return self._bits.copy()

    def runs(self, begin: int, end: int) -> list[tuple[int, int]]:
        """First slot and length of each run of backed slots from ``begin`` to before ``end``."""
        backed = np.concatenate([[False], self._bits[begin:end], [False]])
        ends = np.flatnonzero(backed[1:] != backed[:-1]) + begin
        return [(int(first), int(after - first)) for first, after in ends.reshape(-1, 2)]

    def add(self, slots: Slots) -> None:
        """Note that slots are backed now that were not."""
        self._make_room_for(int(slots.max(initial=-1)) + 1)
        self._bits[slots] = True
        self._count += len(slots)

    def remove(self, slots: Slots) -> None:
        """Note that slots are no longer backed that were."""
        self._bits[slots] = False
        self._count -= len(slots)
