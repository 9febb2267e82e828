"""The arrays of one tier's index.

One tier's content is a forest: a block is present only if the block before it in its prefix is.
Blocks have two numbers: the *id* that names them everywhere (from `KeyDirectory`) and, while they
are in the tier, the *slot* they occupy there. What every policy needs of a block is one record of
32 bytes, and what only some need is another: lru never touches those, and over millions of blocks
memory is what it waits for. So the index costs 36 bytes a slot and 4 bytes an id under lru and
carbon, 32 more a slot under the others.

What a request does to a whole prefix is written on the last block of it only. Nothing asks how
often or when a block was used, or whether it is leased, while others build on it: it can't be
evicted then. When a block goes it hands what was noted on it to its parent (`policies.hand_over`),
so a block that nothing builds on knows all that happened to it and beyond it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined
from greencache.tiers.growing import room_for
from greencache.tiers.reuse import BUCKETS, CLASSES, SEEN, Reuse

__all__ = [
    "HISTORY",
    "NONE",
    "SLOT",
    "TierState",
    "allocate",
    "follow",
    "grow",
    "int64",
    "is_candidate",
    "occupied",
]

int64: Any = np.int64
"""For slots read from arrays and for literals passed on: numba compiles a function anew for each
type of argument, and a literal or an ``int32`` is another type than an ``int64``."""

NONE = -1
"""No slot, no id, no parent."""

# Positions in ``TierState.meta``.
CAPACITY = 0  # blocks that the tier may hold
USED = 1  # slots reserved or committed
HELD = 2  # blocks of capacity set aside without a slot: an engine's private blocks
PINNED = 3  # slots with leases, or reserved
CANDIDATES = 4  # length of the candidate heap
FREED = 5  # the slot freed last; the others follow by ``parent``
FRESH = 6  # first slot that was never used
TICK = 7  # logical time: one per block touched
EVICTED = 8  # blocks evicted since the start
POLICY = 9
NEWEST = 10  # ends of the sieve queue
OLDEST = 11
HAND = 12  # where sieve looks next
DRAWS = 13  # state of the generator that lcs and carbon sample with
HEIR = 14  # carbon: parent of the block evicted last, if no candidate came or changed since
META_LENGTH = 15

# Values of ``POLICY``, in the order of `greencache.tiers.policies.Policy`.
LRU = 0
LFU = 1
GDSF = 2
SIEVE = 3
LCS = 4
CARBON = 5

# Positions in ``TierState.weights``.
COST_BASE = 0  # cost of recomputing the first block of a prefix
COST_PER_DEPTH = 1  # what each block before it adds: attention over a longer context
INFLATION = 2  # gdsf: highest value evicted so far; carbon: that of the block evicted last
LOAD_COST = 3  # cost of loading a block instead, in the unit of the others
CHOSEN_S = 4  # carbon: when the block evicted last went
EVICTED_AGE_S = 5  # sum over all blocks evicted of the time since they were asked for; see `follow`
WEIGHTS_LENGTH = 6

RESERVED = -1
"""In place of leases, of which a block has none while it is written."""

SLOT = np.dtype(
    [
        ("touched", np.int64),  # logical time of the last access; unique among leaves
        ("id", np.int32),
        ("parent", np.int32),  # slot of the block before it in its prefix
        ("children", np.int32),  # how many blocks have it as parent
        ("leases", np.int32),  # readers whose prefix ends here, children with leases; or RESERVED
        ("place", np.int32),  # position among the candidates, or NONE
        ("ahead", np.int32),  # slot of an ancestor that likely goes soon after it, or NONE
    ]
)
"""What is kept of the block in a slot."""

HISTORY = np.dtype(
    [
        ("touched_s", np.float64),  # the last access on the caller's clock
        ("mark", np.float64),  # gdsf's inflation at the last hit; for sieve, whether visited
        ("depth", np.int32),  # blocks before it in its prefix
        ("accesses", np.int32),  # insertion counts as the first, then hits
        ("newer", np.int32),  # neighbours in the sieve queue
        ("older", np.int32),
    ]
)
"""What the policies but lru and carbon want to know besides: carbon asks the model of reuse."""


class TierState(NamedTuple):
    """All that one tier's index knows; a tuple, so that compiled code takes it apart for free."""

    meta: NDArray[np.int64]
    """Counters and settings, by the positions named above."""
    weights: NDArray[np.float64]
    slot_of: NDArray[np.int32]
    """Slot of each id, or `NONE`."""
    slots: NDArray[np.void]
    """A `SLOT` record for each slot; what it says of one not in use means nothing."""
    history: NDArray[np.void]
    """A `HISTORY` record for each slot; none under lru and carbon."""
    heap: NDArray[np.int32]
    """The candidates: slots that may be evicted now."""
    seen: NDArray[np.void]
    """A `greencache.tiers.reuse.SEEN` record for each id, shared with the model of reuse that the
    tier follows; none if it follows none."""
    density: NDArray[np.float64]
    """Its hits per block-second, by class and bucket of age; zeros if it follows none."""


def allocate(
    capacity_blocks: int,
    ids: int,
    policy: int,
    *,
    cost_base: float = 1.0,
    cost_per_depth: float = 0.0,
    load_cost: float = 0.0,
    seed: int = 0,
) -> TierState:
    """Make an empty tier that can hold ``capacity_blocks``, for block ids below ``ids``.

    Slots are allocated for what can be there: never more than there are ids. `grow` adds to both.
    A tier under carbon needs a model of reuse besides, see `follow`.
    """
    meta = np.zeros(META_LENGTH, np.int64)
    meta[CAPACITY] = capacity_blocks
    meta[POLICY] = policy
    meta[[FREED, NEWEST, OLDEST, HAND, HEIR]] = NONE
    meta[DRAWS] = seed
    weights = np.zeros(WEIGHTS_LENGTH)
    weights[COST_BASE] = cost_base
    weights[COST_PER_DEPTH] = cost_per_depth
    weights[LOAD_COST] = load_cost
    slots = min(capacity_blocks, ids)
    records = 0 if policy in (LRU, CARBON) else slots
    none = np.full(slots, NONE, np.int32)
    slot_of = np.full(ids, NONE, np.int32)
    return TierState(
        meta,
        weights,
        slot_of,
        slots=np.zeros(slots, SLOT),
        history=np.zeros(records, HISTORY),
        heap=none,
        seen=np.zeros(0, SEEN),
        density=np.zeros((CLASSES, BUCKETS)),
    )


def follow(state: TierState, model: Reuse) -> TierState:
    """The tier with what a model of reuse knows of each block, shared with the model."""
    return state._replace(seen=model.seen, density=model.density)


def grow(state: TierState, slots: int, ids: int) -> TierState:
    """Return the state with room for at least ``slots`` slots and ``ids`` ids.

    Slots double, so that growing one block at a time stays cheap, but are no more than the tier
    may hold blocks; of ids there may be more than that, see `room_for`. ``meta`` and ``weights``
    are shared with the old state, which must no longer be used.
    """
    have_ids, have_slots = len(state.slot_of), len(state.slots)
    if ids > have_ids:
        more = np.full(room_for(ids, have_ids) - have_ids, NONE, np.int32)
        state = state._replace(slot_of=np.concatenate([state.slot_of, more]))
    if slots > have_slots:
        added = max(slots, min(2 * have_slots, int(state.meta[CAPACITY]))) - have_slots
        records = added if state.meta[POLICY] not in (LRU, CARBON) else 0
        state = state._replace(
            slots=np.concatenate([state.slots, np.zeros(added, SLOT)]),
            history=np.concatenate([state.history, np.zeros(records, HISTORY)]),
            heap=np.concatenate([state.heap, np.full(added, NONE, np.int32)]),
        )
    return state


@inlined
def occupied(state: TierState) -> int:
    """Blocks of capacity taken: slots in use, and what is held without a slot."""
    return state.meta[USED] + state.meta[HELD]


@inlined
def is_candidate(state: TierState, slot: int) -> bool:
    """Whether a block may be evicted now: committed, no reader, nothing that builds on it."""
    block = state.slots[slot]
    return block.leases == 0 and block.children == 0
