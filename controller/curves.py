"""Hit rate over capacity.

LRU keeps, at every capacity, the blocks of smallest *stack distance*: how many different blocks
were accessed since (Mattson et al., IBM Systems Journal 9(2), 1970). So one pass gives the hits at
all capacities. Distances are counted with a Fenwick tree over access times in which only the last
access of each block is marked (Olken, LBL-12370, 1981): O(log n) an access.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine

__all__ = ["NEVER", "hits_at", "lru_stack_distances"]

NEVER = -1
"""Distance of a first access: a miss at any capacity."""


@subroutine
def _add(tree: NDArray[np.int64], at: int, amount: int) -> None:
    at += 1
    while at < len(tree):
        tree[at] += amount
        at += at & -at


@subroutine
def _sum_through(tree: NDArray[np.int64], at: int) -> int:
    at += 1
    total = 0
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@kernel
def _measure(
    ids: NDArray[np.int32],
    last: NDArray[np.int64],
    tree: NDArray[np.int64],
    distances: NDArray[np.int64],
) -> None:
    present = 0
    for now in range(len(ids)):
        before = last[ids[now]]
        if before == NEVER:
            distances[now] = NEVER
            present += 1
        else:
            distances[now] = present - _sum_through(tree, before) + 1
            _add(tree, before, -1)
        _add(tree, now, 1)
        last[ids[now]] = now


def lru_stack_distances(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Stack distance of every access, `NEVER` for the first of a block.

    An access hits in an LRU cache of ``c`` blocks if and only if its distance is in ``1..c``.

    Parameters
    ----------
    ids:
        Blocks in order of access, named by small integers from 0.
    """
    unique = int(ids.max()) + 1 if len(ids) else 0
    last = np.full(unique, NEVER, np.int64)
    distances = np.empty(len(ids), np.int64)
    _measure(ids, last, np.zeros(len(ids) + 1, np.int64), distances)
    return distances


def hits_at(distances: NDArray[np.int64], capacities: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many accesses hit at each capacity, in blocks."""
    finite = np.sort(distances[distances != NEVER])
    return np.searchsorted(finite, capacities, side="right").astype(np.int64)
