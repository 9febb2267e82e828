"""Hit rate over capacity, for all capacities in one pass.

LRU keeps, at every capacity, the blocks of smallest *stack distance*: how many different blocks
were accessed since (Mattson et al., IBM Systems Journal 9(2), 1970). So one pass gives the hits at
all capacities; how distances are counted is in `greencache.controller.recency`.

The store's prefix LRU is a stack algorithm too. Within a request the deeper block counts as touched
earlier, so a block is always more recent than those that build on it; the least recent block of all
is then always a leaf, and evicting leaves in order of recency is evicting in order of recency. So a
tier of ``c`` blocks holds the ``c`` most recent ones, whatever ``c`` is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.recency import ABSENT, Recency, depth_of, new_recency, renew

__all__ = ["NEVER", "hits_at", "lru_stack_distances", "prefix_lru_stack_distances"]

NEVER = -1
"""Distance of a first access: a miss at any capacity."""


def lru_stack_distances(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Stack distance of every access, `NEVER` for the first of a block.

    An access hits in an LRU cache of ``c`` blocks if and only if its distance is in ``1..c``.

    Parameters
    ----------
    ids:
        Blocks in order of access, named by small integers from 0.
    """
    distances = np.full(len(ids), NEVER, np.int64)
    _measure(ids, _room_for(ids), distances)
    return distances


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
    distances = np.full(len(ids), NEVER, np.int64)
    _measure_prefixes(ids, starts, full, reusable, _room_for(ids), distances)
    return distances


def _room_for(ids: NDArray[np.int32]) -> Recency:
    return new_recency(int(ids.max()) + 1 if len(ids) else 0)


@kernel
def _measure(ids: NDArray[np.int32], recency: Recency, distances: NDArray[np.int64]) -> None:
    for at in range(len(ids)):
        if recency.tick_of[ids[at]] != ABSENT:
            distances[at] = depth_of(recency, ids[at])
        renew(recency, ids[at])


@kernel
def _measure_prefixes(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
    recency: Recency,
    distances: NDArray[np.int64],
) -> None:
    for r in range(len(full)):
        first = starts[r]
        for at in range(first, first + reusable[r]):
            if recency.tick_of[ids[at]] == ABSENT:
                break  # nor has anything been seen that builds on it
            distances[at] = depth_of(recency, ids[at])
        for at in range(first + full[r] - 1, first - 1, -1):
            renew(recency, ids[at])


def hits_at(distances: NDArray[np.int64], capacities: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many accesses hit at each capacity, in blocks."""
    at_distance = np.bincount(np.maximum(distances, 0), minlength=1)
    at_distance[0] = 0  # those that never hit
    hits = np.cumsum(at_distance)
    return hits[np.clip(capacities, 0, len(hits) - 1)].astype(np.int64)
