"""Plain LRU over block ids, block by block: what cache simulators time.

The store does not use it, since its LRU knows prefixes; it is here to compare like with like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel

__all__ = ["plain_lru_hits"]

NEVER = -1


@kernel
def _serve(ids: NDArray[np.int32], last: NDArray[np.int32], capacity: int) -> int:
    """Hits of a cache that keeps the accesses from ``oldest`` on, whose blocks are in it.

    The accesses themselves are the queue: one that was not the last of its block is passed over.
    So no links are followed, and memory need not be waited for.
    """
    hits = 0
    used = 0
    oldest = 0
    for at in range(len(ids)):
        block = np.uint32(ids[at])
        if last[block] >= oldest:
            hits += 1
        elif used < capacity:
            used += 1
        else:
            while last[np.uint32(ids[oldest])] != oldest:
                oldest += 1
            oldest += 1
        last[block] = at
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
    return int(
        _serve(ids, np.full(unique, NEVER, np.int32 if len(ids) < 2**31 else np.int64), capacity)
    )
