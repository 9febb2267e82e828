"""The most that any policy can hit, knowing the future: Belady's MIN for prefix caches.

Between two requests a tier holds at most ``c`` blocks. A block that request ``r`` uses and request
``s`` uses next hits there if and only if it is held in all gaps between requests from ``r`` to
``s``: it is an interval of unit size, and the most hits are the most intervals of which at most
``c`` overlap. Taking them in order of their beginning and dropping, whenever there are too many,
the one that ends last gives that maximum (Faigle and Nawijn, Discrete Applied Mathematics 58,
1995; for caches Belady, IBM Systems Journal 5(2), 1966, with the choice not to store). Dropping is
eviction, or not storing at all. So no policy has more hits.

A tier that is closed under prefixes reaches it: a request that uses a block uses the whole prefix
before it, so the next use of a parent is never later than that of its child. Of equal ends the
deeper is dropped first. Then when a parent is dropped, each of its children that is held ends no
earlier, so it was dropped before; and a child that is entered later is entered by a request that
uses the parent, which is entered anew with it. So no child is held without its parent.

One case is outside of this: the last block of a prompt that is all full blocks may not hit, since
a token must be left to compute. Such a use ends no interval of that block, though intervals of its
children run on over it. The bound then belongs to tiers that may drop the block and keep its
children until it is computed anew; one that is closed under prefixes at all times may have less. In
the Mooncake conversation trace 22 of 12,031 prompts end so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine

__all__ = ["NOT_AGAIN", "next_uses", "optimal_hits"]

NOT_AGAIN = -1
"""Next use of a block that will not be used again, or not where it could hit."""


def next_uses(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
) -> NDArray[np.int32]:
    """For each block of each request, the request that uses it next, `NOT_AGAIN` if no hit ends it.

    Parameters
    ----------
    ids:
        Blocks of all requests, one request after the other, named by chained ids from 0.
    starts, full, reusable:
        For each request: where it begins in ``ids``, how many full blocks it has, and how many of
        them may hit.
    """
    following = np.full(int(ids.max()) + 1 if len(ids) else 0, NOT_AGAIN, np.int32)
    ends = np.full(len(ids), NOT_AGAIN, np.int32)
    _look_ahead(ids, starts, full, reusable, following, ends)
    return ends


@kernel
def _look_ahead(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
    following: NDArray[np.int32],
    ends: NDArray[np.int32],
) -> None:
    for r in range(len(full) - 1, -1, -1):
        for at in range(starts[r], starts[r] + full[r]):
            ends[at] = following[ids[at]]
        for i in range(full[r]):
            following[ids[starts[r] + i]] = r if i < reusable[r] else NOT_AGAIN


def optimal_hits(
    ends: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    capacity_blocks: int,
) -> NDArray[np.int64]:
    """How many blocks of each request hit, where the sum is the most that can be.

    Parameters
    ----------
    ends:
        From `next_uses`.
    starts, full:
        As there.
    capacity_blocks:
        Blocks that fit.
    """
    held = np.zeros(len(full), np.int64)
    _hold(ends, starts, full, capacity_blocks, held, np.zeros(len(full), np.int32))
    return held


@subroutine
def _push(heap: NDArray[np.int32], size: int, end: int) -> None:
    at = size
    while at > 0 and heap[(at - 1) // 2] < end:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = end


@subroutine
def _pop(heap: NDArray[np.int32], size: int) -> None:
    """Remove the top; ``size`` is what is left."""
    last = heap[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= last:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last


@kernel
def _hold(
    ends: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    capacity: int,
    held: NDArray[np.int64],
    heap: NDArray[np.int32],
) -> None:
    """Count in ``held[s]`` the blocks held until request ``s``: when it comes, they hit.

    ``heap`` has each request that blocks are held for once, the last on top. Those that have come
    sink below all others and are never on top while a block is held.
    """
    waiting = 0
    size = 0
    for r in range(len(full)):
        waiting -= held[r]
        for at in range(starts[r], starts[r] + full[r]):
            end = ends[at]
            if end == NOT_AGAIN or (waiting == capacity and (waiting == 0 or end >= heap[0])):
                continue
            if waiting == capacity:
                held[heap[0]] -= 1
                if held[heap[0]] == 0:
                    size -= 1
                    _pop(heap, size)
            else:
                waiting += 1
            if held[end] == 0:
                _push(heap, size, end)
                size += 1
            held[end] += 1
