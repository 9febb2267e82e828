"""What can be done to a tier's index, compiled: the one implementation for replay and live store.

``ids`` is always one request's chain of blocks from its start, without repetition. To store:
`reserve`, write, then `commit` or `abort`. To load: `lease`, read, then `unlease`. A block is found
only once committed; a leased one is never evicted, nor is one that another builds on.

`access` does all of this at once, for a replay in which storing takes no time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.tiers.candidates import add, discard, reorder, replace
from greencache.tiers.policies import (
    SIEVE,
    choose_victim,
    dequeue,
    enqueue,
    keeps_order,
    score,
)
from greencache.tiers.state import (
    ABSENT,
    CAPACITY,
    COMMITTED,
    EVICTED,
    FREED,
    FRESH,
    HELD,
    NONE,
    PINNED,
    POLICY,
    RESERVED,
    TICK,
    USED,
    TierState,
    is_candidate,
    occupied,
)

__all__ = [
    "abort",
    "access",
    "acquire",
    "commit",
    "count_hits",
    "evict_one",
    "hold",
    "lease",
    "make_room",
    "match",
    "reserve",
    "resize",
    "store",
    "touch",
    "unhold",
    "unlease",
]

Ids = NDArray[np.int32]


@subroutine
def _settle(state: TierState, slot: int) -> None:
    """Enter or leave the candidates, after anything changed that decides it."""
    if is_candidate(state, slot):
        if state.slots[slot].place == NONE:
            add(state, slot, keeps_order(state))
    else:
        discard(state, slot, keeps_order(state))


@kernel
def match(state: TierState, ids: Ids, stop: int) -> int:
    """Length of the longest prefix of ``ids[:stop]`` that is committed here."""
    for i in range(stop):
        slot = state.slot_of[ids[i]]
        if slot == NONE or state.slots[slot].status != COMMITTED:
            return i
    return stop


@kernel
def count_hits(state: TierState, ids: Ids, stop: int) -> None:
    """Note that ``ids[:stop]``, all present, was hit: how often, not when (see `touch`)."""
    for i in range(stop):
        slot = state.slot_of[ids[i]]
        block = state.slots[slot]
        block.accesses += 1
        block.priority = score(state, slot)
        if block.place != NONE and keeps_order(state):
            reorder(state, slot)


@kernel
def touch(state: TierState, ids: Ids, stop: int, now_s: float) -> None:
    """Note when ``ids[:stop]``, all present, was used; the deepest counts as used first."""
    for i in range(stop - 1, -1, -1):
        slot = state.slot_of[ids[i]]
        state.meta[TICK] += 1
        block = state.slots[slot]
        block.touched = state.meta[TICK]
        block.touched_s = now_s
        if block.place != NONE and keeps_order(state):
            reorder(state, slot)


@subroutine
def _remove(state: TierState, slot: int) -> None:
    """Forget a block without children; its parent may become a candidate."""
    block = state.slots[slot]
    if block.status == COMMITTED and state.meta[POLICY] == SIEVE:
        dequeue(state, slot)
    parent = block.parent
    state.slot_of[block.id] = NONE
    block.id = NONE
    block.status = ABSENT
    block.parent = state.meta[FREED]
    state.meta[FREED] = slot
    state.meta[USED] -= 1
    if parent != NONE:
        state.slots[parent].children -= 1
        if block.place != NONE and is_candidate(state, parent):
            replace(state, slot, parent, keeps_order(state))
            return
        _settle(state, parent)
    discard(state, slot, keeps_order(state))


@subroutine
def evict_one(state: TierState, now_s: float) -> int:
    """Evict the block that the policy names; its id, or `NONE` if no block may go."""
    slot = choose_victim(state, now_s)
    if slot == NONE:
        return NONE
    victim = state.slots[slot].id
    _remove(state, slot)
    state.meta[EVICTED] += 1
    return victim


@subroutine
def make_room(state: TierState, blocks: int, now_s: float) -> bool:
    """Evict until ``blocks`` more fit; False if not enough may go (some may have gone by then)."""
    while occupied(state) + blocks > state.meta[CAPACITY]:
        if evict_one(state, now_s) == NONE:
            return False
    return True


@kernel
def hold(state: TierState, blocks: int, now_s: float) -> bool:
    """Set capacity aside for blocks without an identity; False, and nothing gone, if it can't be.

    An engine's running requests keep such blocks in HBM: unfinished prompts, generated tokens.
    """
    if state.meta[PINNED] + state.meta[HELD] + blocks > state.meta[CAPACITY]:
        return False
    if not make_room(state, blocks, now_s):
        return False
    state.meta[HELD] += blocks
    return True


@kernel
def unhold(state: TierState, blocks: int) -> None:
    """Give held capacity back."""
    state.meta[HELD] -= blocks


@kernel
def lease(state: TierState, ids: Ids, stop: int) -> None:
    """Keep the prefix ``ids[:stop]``, all present, from being evicted until `unlease`."""
    for i in range(stop):
        slot = state.slot_of[ids[i]]
        if state.slots[slot].leases == 0:
            state.meta[PINNED] += 1
        state.slots[slot].leases += 1
        _settle(state, slot)


@kernel
def acquire(state: TierState, ids: Ids, stop: int, now_s: float) -> int:
    """Find the longest prefix of ``ids[:stop]`` here, note the access and lease it; its length."""
    found = match(state, ids, stop)
    count_hits(state, ids, found)
    touch(state, ids, found, now_s)
    lease(state, ids, found)
    return found


@kernel
def unlease(state: TierState, ids: Ids, stop: int, now_s: float) -> None:
    """End a lease of ``ids[:stop]``; what a shrink was waiting for goes now."""
    for i in range(stop - 1, -1, -1):
        slot = state.slot_of[ids[i]]
        state.slots[slot].leases -= 1
        if state.slots[slot].leases == 0:
            state.meta[PINNED] -= 1
        _settle(state, slot)
    make_room(state, 0, now_s)


@kernel
def resize(state: TierState, capacity_blocks: int, now_s: float) -> int:
    """Set the capacity and evict down to it; how many blocks too many are still leased or held.

    Those go as soon as their leases end.
    """
    state.meta[CAPACITY] = capacity_blocks
    make_room(state, 0, now_s)
    return max(0, occupied(state) - capacity_blocks)


@kernel
def reserve(state: TierState, block_id: int, parent: int, now_s: float) -> int:
    """Take a slot for an absent block whose parent is in slot ``parent``; `NONE` if none is free.

    The block is invisible until `commit`. It keeps its parent from being evicted from now on.
    """
    if parent != NONE:
        state.slots[parent].leases += 1
        _settle(state, parent)
    fits = make_room(state, 1, now_s)
    if parent != NONE:
        state.slots[parent].leases -= 1
    if not fits:
        if parent != NONE:
            _settle(state, parent)
        return NONE
    slot = state.meta[FREED]
    if slot == NONE:
        slot = state.meta[FRESH]
        state.meta[FRESH] += 1
    else:
        state.meta[FREED] = state.slots[slot].parent
    state.meta[USED] += 1
    state.meta[PINNED] += 1
    state.slot_of[block_id] = slot
    block = state.slots[slot]
    block.id = block_id
    block.status = RESERVED
    block.parent = parent
    block.children = 0
    block.leases = 0
    block.accesses = 0
    block.depth = 0
    block.place = NONE
    if parent != NONE:
        block.depth = state.slots[parent].depth + 1
        state.slots[parent].children += 1
    return slot


@kernel
def commit(state: TierState, slot: int, follows_parent: bool, now_s: float) -> None:
    """Make a reserved block visible; it counts as accessed once.

    ``follows_parent``: its parent was stored just before it, by the same request.
    """
    state.meta[PINNED] -= 1
    state.meta[TICK] += 1
    block = state.slots[slot]
    block.status = COMMITTED
    block.touched = state.meta[TICK]
    block.touched_s = now_s
    block.accesses = 1
    block.priority = score(state, slot)
    if state.meta[POLICY] == SIEVE:
        # Within a prefix stored at once, the deeper block stands as the older one.
        enqueue(state, slot, state.slots[slot].parent if follows_parent else NONE)
    _settle(state, slot)


@kernel
def abort(state: TierState, slot: int) -> None:
    """Give a reserved block up; it must have no children."""
    state.meta[PINNED] -= 1
    _remove(state, slot)


@subroutine
def store(state: TierState, ids: Ids, stop: int, now_s: float) -> int:
    """Store what is missing of ``ids[:stop]`` at once and renew all of it; how many are new.

    Stops where the tier has no room that it may use: the prefix before that is kept.
    """
    parent = NONE
    stored = 0
    new = 0
    for i in range(stop):
        slot = state.slot_of[ids[i]]
        if slot == NONE:
            slot = reserve(state, ids[i], parent, now_s)
            if slot == NONE:
                break
            commit(state, slot, new > 0, now_s)
            new += 1
        elif state.slots[slot].status != COMMITTED:
            break
        parent = slot
        stored += 1
    touch(state, ids, stored, now_s)
    return new


@kernel
def access(state: TierState, ids: Ids, reusable: int, stop: int, now_s: float) -> int:
    """One request with storing that takes no time: how many of ``ids[:reusable]`` hit.

    Then all of ``ids[:stop]`` is stored. ``reusable`` leaves out a last block whose hit would leave
    no token to compute.
    """
    hits = match(state, ids, reusable)
    count_hits(state, ids, hits)
    store(state, ids, stop, now_s)
    return hits
