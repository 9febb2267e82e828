"""Hit rate over capacity, for all capacities in one pass.

LRU keeps, at every capacity, the blocks of smallest *stack distance*: how many different blocks
were accessed since (Mattson et al., IBM Systems Journal 9(2), 1970). So one pass gives the hits at
all capacities. Distances are counted with a Fenwick tree over access times in which only the last
access of each block is marked (Olken, LBL-12370, 1981): O(log n) an access.

The store's prefix LRU is a stack algorithm too. Within a request the deeper block counts as touched
earlier, so a block is always more recent than those that build on it; the least recent block of all
is then always a leaf, and evicting leaves in order of recency is evicting in order of recency. So a
tier of ``c`` blocks holds the ``c`` most recent ones, whatever ``c`` is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine

__all__ = ["NEVER", "hits_at", "lru_stack_distances", "prefix_lru_stack_distances"]

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


def lru_stack_distances(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Stack distance of every access, `NEVER` for the first of a block.

    An access hits in an LRU cache of ``c`` blocks if and only if its distance is in ``1..c``.

    Parameters
    ----------
    ids:
        Blocks in order of access, named by small integers from 0.
    """
    # Plain LRU is prefix LRU over requests of one block each.
    one = np.ones(len(ids), np.int64)
    return prefix_lru_stack_distances(ids, np.arange(len(ids)), one, one)


@kernel
def _measure(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
    last: NDArray[np.int64],
    tree: NDArray[np.int64],
    distances: NDArray[np.int64],
) -> None:
    present = 0
    now = 0
    for r in range(len(full)):
        first = starts[r]
        for at in range(first, first + reusable[r]):
            before = last[ids[at]]
            if before == NEVER:
                break  # nor has anything been seen that builds on it
            distances[at] = present - _sum_through(tree, before) + 1
        for at in range(first + full[r] - 1, first - 1, -1):
            before = last[ids[at]]
            if before == NEVER:
                present += 1
            else:
                _add(tree, before, -1)
            _add(tree, now, 1)
            last[ids[at]] = now
            now += 1


def prefix_lru_stack_distances(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Stack distance of every access under prefix LRU, `NEVER` where none can hit.

    A block hits as part of a leading prefix, in a tier of ``c`` blocks that stores at once, if and
    only if its distance is in ``1..c``.

    Parameters
    ----------
    ids:
        Blocks of all requests, one request after the other, named by chained ids.
    starts, full, reusable:
        For each request: where it begins in ``ids``, how many full blocks it has, and how many of
        them may hit.
    """
    unique = int(ids.max()) + 1 if len(ids) else 0
    distances = np.full(len(ids), NEVER, np.int64)
    last = np.full(unique, NEVER, np.int64)
    tree = np.zeros(int(full.sum()) + 1, np.int64)
    _measure(ids, starts, full, reusable, last, tree, distances)
    return distances


def hits_at(distances: NDArray[np.int64], capacities: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many accesses hit at each capacity, in blocks."""
    finite = np.sort(distances[distances != NEVER])
    return np.searchsorted(finite, capacities, side="right").astype(np.int64)
