"""What can be done to a tier's index, compiled: the one implementation for replay and live store.

``ids`` is always one request's chain of blocks from its start, without repetition. To store:
`reserve`, write, then `commit` or `abort`. To load: `lease`, read, then `unlease`. A block is found
only once committed; a leased one is never evicted, nor is one that another builds on.

`access` does all of this at once, for a replay in which storing takes no time.

These are called from compiled code; `greencache.tiers.index` has what Python calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined, prefetch, subroutine
from greencache.tiers.candidates import add, discard, reorder, replace
from greencache.tiers.policies import (
    choose_victim,
    dequeue,
    enqueue,
    hand_over,
    keeps_order,
    note_hit,
    note_insertion,
    note_touch,
)
from greencache.tiers.state import (
    CAPACITY,
    EVICTED,
    EVICTED_AGE_S,
    FREED,
    FRESH,
    HELD,
    NONE,
    PINNED,
    POLICY,
    RESERVED,
    SIEVE,
    TICK,
    USED,
    TierState,
    int64,
    is_candidate,
    occupied,
)

__all__ = [
    "abort",
    "access",
    "acquire",
    "commit",
    "count_hits",
    "drop_with_all_beyond",
    "end_restoring",
    "evict_one",
    "hold",
    "lease",
    "make_room",
    "match",
    "reserve",
    "resize",
    "restore",
    "store",
    "touch",
    "unhold",
    "unlease",
]

Ids = NDArray[np.int32]

AHEAD = 6
"""A chain mostly goes whole, from its end: with a block goes the request to memory for the one that
many before it. Over 10 million accesses 4 to 8 did about as well."""


ASKED_EVERY = 4
"""Before a chain is searched, memory is asked for each so many-th of its lookups."""


@subroutine
def _settle(state: TierState, slot: int) -> None:
    """Enter or leave the candidates, after anything changed that decides it."""
    if is_candidate(state, slot):
        if state.slots[slot].place == NONE:
            add(state, slot, keeps_order(state))
    else:
        discard(state, slot, keeps_order(state))


@subroutine
def _match_beyond(state: TierState, ids: Ids, found: int, stop: int) -> int:
    """Length of the longest prefix of ``ids[:stop]`` that is committed, ``found`` or longer.

    A block is here only if all before it are, so halving finds where a prefix ends.
    """
    for i in range(found, stop, ASKED_EVERY):
        prefetch(state.slot_of, int64(ids[i]))
    low, high = found, stop
    while low < high:
        middle = (low + high) >> 1
        if state.slot_of[ids[middle]] == NONE:
            high = middle
        else:
            low = middle + 1
    while low > found and state.slots[state.slot_of[ids[low - 1]]].leases == RESERVED:
        low -= 1
    return low


@subroutine
def match(state: TierState, ids: Ids, stop: int) -> int:
    """Length of the longest prefix of ``ids[:stop]`` that is committed here."""
    return _match_beyond(state, ids, int64(0), stop)


@subroutine
def count_hits(state: TierState, ids: Ids, stop: int) -> None:
    """Note that ``ids[:stop]``, all present, was hit: how often, not when (see `touch`)."""
    if stop > 0:
        slot = int64(state.slot_of[ids[stop - 1]])
        note_hit(state, slot)
        if state.slots[slot].place != NONE and keeps_order(state):
            reorder(state, slot)


@subroutine
def touch(state: TierState, ids: Ids, stop: int, now_s: float) -> None:
    """Note when ``ids[:stop]``, all present, was used; the deepest counts as used first."""
    if stop > 0:
        slot = int64(state.slot_of[ids[stop - 1]])
        note_touch(state, slot, state.meta[TICK] + 1, now_s)
        state.meta[TICK] += stop
        if state.slots[slot].place != NONE and keeps_order(state):
            reorder(state, slot)


@inlined
def _remove(state: TierState, slot: int) -> None:
    """Forget a block without children; its parent may become a candidate."""
    block = state.slots[slot]
    parent = int64(block.parent)
    if block.leases != RESERVED:
        if state.meta[POLICY] == SIEVE:
            dequeue(state, slot)
        if parent != NONE:
            hand_over(state, slot, parent)
    prefetch(state.slots, int64(block.ahead))
    state.slot_of[block.id] = NONE
    block.id = NONE
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


@inlined
def evict_one(state: TierState, now_s: float) -> int:
    """Evict the block that the policy names; its id, or `NONE` if no block may go."""
    slot = choose_victim(state, now_s)
    if slot == NONE:
        return NONE
    victim = int64(state.slots[slot].id)
    if len(state.seen) > 0:
        state.weights[EVICTED_AGE_S] += now_s - state.seen[victim].last_s
    _remove(state, slot)
    state.meta[EVICTED] += 1
    return victim


@inlined
def make_room(state: TierState, blocks: int, now_s: float) -> bool:
    """Evict until ``blocks`` more fit; False if not enough may go (some may have gone by then)."""
    while occupied(state) + blocks > state.meta[CAPACITY]:
        if evict_one(state, now_s) == NONE:
            return False
    return True


@subroutine
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


@subroutine
def unhold(state: TierState, blocks: int) -> None:
    """Give held capacity back."""
    state.meta[HELD] -= blocks


@subroutine
def lease(state: TierState, ids: Ids, stop: int) -> None:
    """Keep the prefix ``ids[:stop]``, all present, from being evicted until `unlease`."""
    if stop > 0:
        discard(state, int64(state.slot_of[ids[stop - 1]]), keeps_order(state))
    for i in range(stop - 1, -1, -1):
        block = state.slots[state.slot_of[ids[i]]]
        block.leases += 1
        if block.leases > 1:
            break  # so it counts as one of its parent's already
        state.meta[PINNED] += 1


@subroutine
def acquire(state: TierState, ids: Ids, stop: int, now_s: float) -> int:
    """Find the longest prefix of ``ids[:stop]`` here, note the access and lease it; its length."""
    found = match(state, ids, stop)
    lease(state, ids, found)
    count_hits(state, ids, found)
    touch(state, ids, found, now_s)
    return found


@subroutine
def unlease(state: TierState, ids: Ids, stop: int, now_s: float) -> None:
    """End a lease of ``ids[:stop]``; what a shrink was waiting for goes now."""
    for i in range(stop - 1, -1, -1):
        block = state.slots[state.slot_of[ids[i]]]
        block.leases -= 1
        if block.leases > 0:
            break
        state.meta[PINNED] -= 1
    if stop > 0:
        _settle(state, int64(state.slot_of[ids[stop - 1]]))
    make_room(state, int64(0), now_s)


@subroutine
def resize(state: TierState, capacity_blocks: int, now_s: float) -> int:
    """Set the capacity and evict down to it; how many blocks too many are still leased or held.

    Those go as soon as their leases end.
    """
    state.meta[CAPACITY] = capacity_blocks
    make_room(state, int64(0), now_s)
    return max(0, occupied(state) - capacity_blocks)


@inlined
def _take_slot(state: TierState, block_id: int, parent: int, ahead: int, now_s: float) -> int:
    """Make a slot that of an absent block whose parent is in slot ``parent``; `NONE` if full.

    The block keeps its parent from being evicted from now on.
    """
    if parent != NONE:
        state.slots[parent].children += 1
        discard(state, parent, keeps_order(state))
    if not make_room(state, int64(1), now_s):
        if parent != NONE:
            state.slots[parent].children -= 1
            _settle(state, parent)
        return NONE
    slot = state.meta[FREED]
    if slot == NONE:
        slot = state.meta[FRESH]
        state.meta[FRESH] += 1
    else:
        state.meta[FREED] = state.slots[slot].parent
    state.meta[USED] += 1
    state.slot_of[block_id] = slot
    block = state.slots[slot]
    block.id = block_id
    block.parent = parent
    block.children = 0
    block.leases = 0
    block.place = NONE
    block.ahead = ahead
    return slot


@subroutine
def reserve(state: TierState, block_id: int, parent: int, now_s: float) -> int:
    """Take a slot for an absent block whose parent is in slot ``parent``; `NONE` if none is free.

    The block is invisible until `commit`. It keeps its parent from being evicted from now on.
    """
    slot = _take_slot(state, block_id, parent, parent, now_s)
    if slot != NONE:
        state.meta[PINNED] += 1
        state.slots[slot].leases = RESERVED
    return slot


@inlined
def _show(state: TierState, slot: int, follows_parent: bool, now_s: float) -> None:
    """Make the block in a slot just taken visible; it is not among the candidates yet."""
    block = state.slots[slot]
    block.leases = 0
    block.touched = state.meta[TICK]
    note_insertion(state, slot, now_s)
    if state.meta[POLICY] == SIEVE:
        # Within a prefix stored at once, the deeper block stands as the older one.
        enqueue(state, slot, int64(block.parent) if follows_parent else int64(NONE))


@subroutine
def commit(state: TierState, slot: int, follows_parent: bool, now_s: float) -> None:
    """Make a reserved block visible; it counts as accessed once.

    ``follows_parent``: its parent was stored just before it, by the same request.
    """
    state.meta[PINNED] -= 1
    state.meta[TICK] += 1
    _show(state, slot, follows_parent, now_s)
    _settle(state, slot)


@subroutine
def abort(state: TierState, slot: int) -> None:
    """Give a reserved block up; it must have no children."""
    state.meta[PINNED] -= 1
    _remove(state, slot)


@inlined
def _is_free(state: TierState, slot: int) -> bool:
    """Whether no block is in a slot that was used before."""
    block_id = int64(state.slots[slot].id)
    return block_id == NONE or state.slot_of[block_id] != slot


@subroutine
def drop_with_all_beyond(state: TierState, slot: int, marks: NDArray[np.int8]) -> None:
    """Forget a block and all that builds on it; nobody leases or writes any of that.

    ``marks`` has a zero for each slot that was ever used.
    """
    marks[slot] = 1
    for start in range(len(marks)):
        # Up to the next block that is known to go or to stay, then that is noted on all below it.
        above = int64(start)
        while above != NONE and marks[above] == 0 and not _is_free(state, above):
            above = int64(state.slots[above].parent)
        mark = marks[above] if above != NONE and not _is_free(state, above) else 2
        below = int64(start)
        while below != above and not _is_free(state, below):
            marks[below] = mark
            below = int64(state.slots[below].parent)
    for start in range(len(marks)):
        # A leaf, and what has become one by that.
        leaf = int64(start)
        while leaf != NONE and marks[leaf] == 1 and state.slots[leaf].children == 0:
            marks[leaf] = 2
            parent = int64(state.slots[leaf].parent)
            discard(state, leaf, keeps_order(state))
            _remove(state, leaf)
            leaf = parent


@subroutine
def restore(
    state: TierState, block_id: int, parent: int, slot: int, blocks: int, now_s: float
) -> None:
    """Put one of ``blocks`` back into its slot; parents first, then `end_restoring`."""
    if parent != NONE:
        state.slots[parent].children += 1
    block = state.slots[slot]
    block.id = block_id
    block.parent = parent
    block.children = 0
    block.place = NONE
    block.ahead = parent
    state.slot_of[block_id] = slot
    state.meta[USED] += 1
    state.meta[FRESH] = max(state.meta[FRESH], slot + 1)
    _show(state, slot, False, now_s)
    # A block that goes makes those before it newer by one each (`hand_over`): never newer than
    # what was used after it, be that restored too or the first access after all.
    state.meta[TICK] += blocks


@subroutine
def order_free(state: TierState) -> None:
    """Let free slots be taken from the lowest on, those that were never used at last."""
    state.meta[FREED] = NONE
    for slot in range(state.meta[FRESH] - 1, -1, -1):
        if _is_free(state, int64(slot)):
            state.slots[slot].id = NONE
            state.slots[slot].parent = state.meta[FREED]
            state.meta[FREED] = slot


@subroutine
def end_restoring(state: TierState, slots: NDArray[np.int32]) -> None:
    """Enter what was restored to ``slots`` among the candidates, and the slots between as free."""
    for i in range(len(slots)):
        _settle(state, int64(slots[i]))
    order_free(state)


@subroutine
def _store_beyond(state: TierState, ids: Ids, found: int, stop: int, now_s: float) -> int:
    """`store`, where ``ids[:found]`` is the longest prefix of ``ids[:stop]`` here."""
    if found < stop and state.slot_of[ids[found]] != NONE:
        stop = found  # another writer is at the next block
    parent = int64(state.slot_of[ids[found - 1]]) if found > 0 else int64(NONE)
    stored = found
    while stored < stop:
        ahead = int64(state.slot_of[ids[stored - AHEAD]]) if stored >= AHEAD else int64(NONE)
        slot = _take_slot(state, int64(ids[stored]), parent, ahead, now_s)
        if slot == NONE:
            break
        _show(state, slot, stored > found, now_s)
        parent = slot
        stored += 1
    if stored > 0:
        touch(state, ids, stored, now_s)
        _settle(state, parent)  # all before it have children
    return stored - found


@subroutine
def store(state: TierState, ids: Ids, stop: int, now_s: float) -> int:
    """Store what is missing of ``ids[:stop]`` at once and renew all of it; how many are new.

    Stops where the tier has no room that it may use: the prefix before that is kept.
    """
    return _store_beyond(state, ids, match(state, ids, stop), stop, now_s)


@subroutine
def access(state: TierState, ids: Ids, reusable: int, stop: int, now_s: float) -> int:
    """One request with storing that takes no time: how many of ``ids[:reusable]`` hit.

    Then all of ``ids[:stop]`` is stored. ``reusable`` leaves out a last block whose hit would leave
    no token to compute.
    """
    hits = match(state, ids, reusable)
    count_hits(state, ids, hits)
    _store_beyond(state, ids, _match_beyond(state, ids, hits, stop), stop, now_s)
    return hits
