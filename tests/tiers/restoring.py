"""Putting what one index holds into another, as a tier that outlasts its process does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.tiers import TierIndex
from greencache.tiers.state import NONE

__all__ = ["contents", "restored"]

Ints = NDArray[np.int32]


def contents(index: TierIndex) -> tuple[Ints, Ints, Ints]:
    """Blocks, slots of their parents and slots of an index, as `TierIndex.restore` wants them."""
    records = index.state.slots
    left = np.flatnonzero(index.occupied_slots()).tolist()
    left.sort(key=lambda slot: int(records[slot]["touched"]))
    order: list[int] = []
    while left:
        for slot in list(left):
            if records[slot]["parent"] == NONE or records[slot]["parent"] in order:
                order.append(slot)
                left.remove(slot)
    slots = np.array(order, np.int32)
    return records["id"][slots], records["parent"][slots], slots


def restored(index: TierIndex, now_s: float) -> TierIndex:
    """A new index with what another one holds."""
    new = TierIndex(index.capacity_blocks, index.policy)
    new.restore(*contents(index), now_s)
    return new
