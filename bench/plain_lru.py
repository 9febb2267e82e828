"""Plain LRU over block ids, block by block: what cache simulators time.

The store does not use it, since its LRU knows prefixes; it is here to compare like with like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel

__all__ = ["plain_lru_hits"]

ABSENT = 0xFFFFFFFF


@kernel
def _serve(
    ids: NDArray[np.int32], older: NDArray[np.uint32], newer: NDArray[np.uint32], capacity: int
) -> int:
    """Hits of a ring of blocks in order of use, entered where the last index stands.

    Indices are unsigned: numba need not look whether one counts from the end.
    """
    gate = np.uint32(len(older) - 1)
    older[gate] = gate
    newer[gate] = gate
    hits = 0
    used = 0
    for at in range(len(ids)):
        block = np.uint32(ids[at])
        before = older[block]
        if before != ABSENT:
            hits += 1
            after = newer[block]
            newer[before] = after
            older[after] = before
        elif used < capacity:
            used += 1
        else:
            oldest = newer[gate]
            after = newer[oldest]
            newer[gate] = after
            older[after] = gate
            older[oldest] = ABSENT
        newest = older[gate]
        newer[newest] = block
        older[block] = newest
        newer[block] = gate
        older[gate] = block
    return hits


def plain_lru_hits(ids: NDArray[np.int32], capacity: int) -> int:
    """How many accesses hit in an LRU cache of ``capacity`` blocks.

    Parameters
    ----------
    ids:
        Blocks in order of access, named by small integers from 0.
    capacity:
        Blocks that fit.
    """
    if capacity == 0:
        return 0
    unique = int(ids.max()) + 1 if len(ids) else 0
    older = np.full(unique + 1, ABSENT, np.uint32)
    return int(_serve(ids, older, np.zeros(unique + 1, np.uint32), capacity))
