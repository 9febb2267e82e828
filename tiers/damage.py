"""Blocks that are not to be found any more, though somebody still leases them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.index import TierIndex

__all__ = ["Damage"]


class Damage:
    """Blocks of an index that were damaged or deleted, until they can be dropped from it."""

    def __init__(self, index: TierIndex) -> None:
        self._index = index
        self._blocks: set[int] = set()

    def add(self, ids: NDArray[np.int32]) -> None:
        """Let blocks be found no longer."""
        self._blocks.update(ids.tolist())

    def sound(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The leading blocks before the first that may no longer be found."""
        if self._blocks:
            for place, block in enumerate(ids.tolist()):
                if block in self._blocks:
                    return ids[:place]
        return ids

    def drop(self) -> None:
        """Drop what nobody leases any more."""
        for block in list(self._blocks):
            if self._index.drop(block) or self._index.slot_of(block) < 0:
                self._blocks.discard(block)
