"""Numbers for the blocks that shadow caches follow, in memory that stays bounded.

Shadow caches know of blocks by ids. A replay numbers all blocks of its trace; a daemon is told keys
for as long as it runs, so it forgets those that no shadow cache holds and that nobody has asked for
the longest time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.controller.shadow import ShadowCaches
from greencache.errors import InputError
from greencache.tiers.directory import KeyDirectory

__all__ = ["BlockNames"]

_IDS_PER_BLOCK = 1.2
"""Blocks that are known for each one of the largest sizes, as `greencache.tiers.forgetting`."""
_FEWEST_IDS = 1 << 16


class BlockNames:
    """Ids for block keys.

    Parameters
    ----------
    shadow:
        What follows the blocks.
    most:
        Blocks known at the most; None for 1.2 times those that the largest sizes have, and 65,536
        at the least.
    """

    def __init__(self, shadow: ShadowCaches, most: int | None = None) -> None:
        sizes = shadow.sizes
        largest = sizes.hbm + sizes.drams[-1] + sizes.ssds[-1]
        self.most = max(_FEWEST_IDS, round(_IDS_PER_BLOCK * largest)) if most is None else most
        if self.most < 1:
            raise InputError("block names are kept of 1 block or more")
        self._shadow, self._directory = shadow, KeyDirectory()
        self._last_s = np.zeros(0)

    def __len__(self) -> int:
        return len(self._directory)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all of it."""
        return self._directory.nbytes + self._last_s.nbytes

    def ids(self, keys: bytes, now_s: float) -> NDArray[np.int32]:
        """Ids of keys that follow one another, all asked for now."""
        ids = self._directory.intern(keys)
        if self._directory.ids > len(self._last_s):
            more = max(self._directory.ids, 2 * len(self._last_s)) - len(self._last_s)
            self._last_s = np.concatenate([self._last_s, np.full(more, -np.inf)])
        self._last_s[ids] = now_s
        return ids

    def forget(self) -> int:
        """Forget what is too much; how many blocks. To be called when none of the ids is in use.

        Down to three quarters of the most, as it takes time in proportion to all that are known.
        """
        if len(self._directory) <= self.most:
            return 0
        live = self._directory.live_ids()
        free = live & ~self._shadow.needed(len(live))
        ids = np.flatnonzero(free).astype(np.int32)
        oldest = ids[np.argsort(self._last_s[ids], kind="stable")]
        gone = oldest[: max(0, len(self._directory) - 3 * self.most // 4)]
        self._directory.forget(gone)
        self._shadow.forget(gone)
        return len(gone)
