"""The arrays of one tier's index.

One tier's content is a forest: a block is present only if the block before it in its prefix is.
Blocks have two numbers: the *id* that names them everywhere (from `KeyDirectory`) and, while they
are in the tier, the *slot* they occupy there. Everything kept per block is an array over slots, so
the index costs about 75 bytes a slot plus 4 bytes for each id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel

__all__ = ["NONE", "TierState", "allocate", "grow", "is_candidate", "occupied"]

NONE = -1
"""No slot, no id, no parent."""

# Positions in ``TierState.meta``.
CAPACITY = 0  # blocks that the tier may hold
USED = 1  # slots reserved or committed
HELD = 2  # blocks of capacity set aside without a slot: an engine's private blocks
CANDIDATES = 3  # length of the candidate heap
FREED = 4  # length of the stack of freed slots
FRESH = 5  # first slot that was never used
TICK = 6  # logical time: one per block touched
EVICTED = 7  # blocks evicted since the start
POLICY = 8
NEWEST = 9  # ends of the sieve queue
OLDEST = 10
HAND = 11  # where sieve looks next
DRAWS = 12  # state of the generator that lcs samples with
PINNED = 13  # slots leased or reserved
META_LENGTH = 14

# Positions in ``TierState.weights``.
COST_BASE = 0  # cost of recomputing the first block of a prefix
COST_PER_DEPTH = 1  # what each block before it adds: attention over a longer context
INFLATION = 2  # gdsf: cost density of the last block evicted
WEIGHTS_LENGTH = 3

# Values of ``TierState.status``.
ABSENT = 0
RESERVED = 1
COMMITTED = 2


class TierState(NamedTuple):
    """All that one tier's index knows; a tuple, so that compiled code takes it apart for free."""

    meta: NDArray[np.int64]
    """Counters and settings, by the positions named above."""
    weights: NDArray[np.float64]
    slot_of: NDArray[np.int32]
    """Slot of each id, or `NONE`."""
    id_of: NDArray[np.int32]
    """Id in each slot, or `NONE`."""
    status: NDArray[np.uint8]
    parent: NDArray[np.int32]
    """Slot of the block before it in the prefix, `NONE` for the first."""
    children: NDArray[np.int32]
    """How many blocks have it as parent."""
    leases: NDArray[np.int32]
    """Readers and writers that rely on it."""
    depth: NDArray[np.int32]
    """Blocks before it in its prefix."""
    accesses: NDArray[np.int32]
    """Insertion counts as the first, then hits."""
    touched: NDArray[np.int64]
    """Logical time of the last access; unique, and newer for a parent than for its child."""
    touched_s: NDArray[np.float64]
    """Time of the last access, on the caller's clock."""
    priority: NDArray[np.float64]
    """Lowest goes first; for sieve, 1 where visited."""
    heap: NDArray[np.int32]
    """The candidates: slots that may be evicted now."""
    place: NDArray[np.int32]
    """Position of each slot in ``heap``, or `NONE`."""
    newer: NDArray[np.int32]
    older: NDArray[np.int32]
    freed: NDArray[np.int32]
    """Stack of slots to use again."""


def _slots(count: int) -> dict[str, NDArray[np.generic]]:
    none = np.full(count, NONE, np.int32)
    zero = np.zeros(count, np.int32)
    return {
        "id_of": none.copy(),
        "status": np.zeros(count, np.uint8),
        "parent": none.copy(),
        "children": zero.copy(),
        "leases": zero.copy(),
        "depth": zero.copy(),
        "accesses": zero.copy(),
        "touched": np.zeros(count, np.int64),
        "touched_s": np.zeros(count),
        "priority": np.zeros(count),
        "heap": none.copy(),
        "place": none.copy(),
        "newer": none.copy(),
        "older": none.copy(),
        "freed": none.copy(),
    }


def allocate(
    capacity_blocks: int,
    ids: int,
    policy: int,
    *,
    cost_base: float = 1.0,
    cost_per_depth: float = 0.0,
    seed: int = 0,
) -> TierState:
    """Make an empty tier that can hold ``capacity_blocks``, for block ids below ``ids``.

    Slots are allocated for what can be there: never more than there are ids. `grow` adds to both.
    """
    meta = np.zeros(META_LENGTH, np.int64)
    meta[CAPACITY] = capacity_blocks
    meta[POLICY] = policy
    meta[[NEWEST, OLDEST, HAND]] = NONE
    meta[DRAWS] = seed
    weights = np.zeros(WEIGHTS_LENGTH)
    weights[COST_BASE] = cost_base
    weights[COST_PER_DEPTH] = cost_per_depth
    slots = _slots(min(capacity_blocks, ids))
    return TierState(meta, weights, np.full(ids, NONE, np.int32), **slots)  # type: ignore[arg-type]


def grow(state: TierState, slots: int, ids: int) -> TierState:
    """Return the state with room for at least ``slots`` slots and ``ids`` ids.

    Arrays double, so that growing one block at a time stays cheap. ``meta`` and ``weights`` are
    shared with the old state, which must no longer be used.
    """
    if ids > len(state.slot_of):
        added = max(ids, 2 * len(state.slot_of)) - len(state.slot_of)
        more_ids = np.concatenate([state.slot_of, np.full(added, NONE, np.int32)])
        state = state._replace(slot_of=more_ids)
    have = len(state.id_of)
    if slots > have:
        fresh = _slots(max(slots, 2 * have) - have)
        longer = {k: np.concatenate([getattr(state, k), tail]) for k, tail in fresh.items()}
        state = state._replace(**longer)
    return state


@kernel
def occupied(state: TierState) -> int:
    """Blocks of capacity taken: slots in use, and what is held without a slot."""
    return state.meta[USED] + state.meta[HELD]


@kernel
def is_candidate(state: TierState, slot: int) -> bool:
    """Whether the block may be evicted now: committed, no reader, nothing that builds on it."""
    return (
        state.status[slot] == COMMITTED and state.leases[slot] == 0 and state.children[slot] == 0
    )
