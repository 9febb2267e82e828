"""Forgetting blocks that no tier has, so that what a cache knows of blocks stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.directory import KeyDirectory
from greencache.tiers.index import TierIndex
from greencache.tiers.learning import Learner
from greencache.tiers.state import NONE

__all__ = ["IDS_PER_BLOCK", "Remembered"]

FEWEST_IDS = 1 << 16
IDS_PER_BLOCK = 1.2
"""Blocks that are known for each one that a tier has: those that went last, from which most is
learned when they come again. `greencache.bench.control_plane` says what they take."""


class Remembered:
    """The blocks that a cache knows.

    Parameters
    ----------
    directory, indexes, learner:
        What knows of them.
    most:
        How many at the most; None for `IDS_PER_BLOCK`, and `FEWEST_IDS` at the least.
    """

    def __init__(
        self,
        directory: KeyDirectory,
        indexes: Sequence[TierIndex],
        learner: Learner | None,
        most: int | None,
    ) -> None:
        self._directory, self._indexes, self._learner = directory, indexes, learner
        self._fixed = most
        self._most = most or FEWEST_IDS

    def make_room(self, coming: int) -> None:
        """Forget blocks that are in no tier if with ``coming`` more there would be too many.

        Many at once, as it takes time in proportion to all that are known: half of those that may
        be known besides what tiers have.
        """
        if len(self._directory) + coming <= self._most:
            return
        unused = self._unused()
        held = len(self._directory) - len(unused)
        left = int(held * (1 + IDS_PER_BLOCK) / 2)
        if self._fixed is not None:
            left = self._fixed // 2 - coming
        self._forget(unused[: max(0, len(self._directory) - left)])
        self._most = self._fixed or max(FEWEST_IDS, int(IDS_PER_BLOCK * held)) + coming

    def _unused(self) -> NDArray[np.int32]:
        """Blocks that are in no tier, those asked for the longest time ago first."""
        unused = self._directory.live_ids()
        for index in self._indexes:
            slot_of = index.state.slot_of[: len(unused)]
            unused[: len(slot_of)] &= slot_of == NONE
        ids = np.flatnonzero(unused).astype(np.int32)
        if self._learner is None:
            return ids
        return ids[np.argsort(self._learner.last_asked_s(ids), kind="stable")]

    def _forget(self, ids: NDArray[np.int32]) -> None:
        self._directory.forget(ids)
        for index in self._indexes:
            index.forget(ids)
        if self._learner is not None:
            self._learner.forget(ids)
