"""The transactions as Python calls them: a whole request's blocks in one call.

Only these are compiled with the code that takes Python's arguments apart, each when first called;
a replay, which calls the transactions from compiled code, needs none of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.tiers.reuse import Reuse, observe
from greencache.tiers.state import NONE, RESERVED, TierState, int64
from greencache.tiers.transactions import (
    abort,
    access,
    acquire,
    commit,
    drop_with_all_beyond,
    end_restoring,
    hold,
    lease,
    reserve,
    resize,
    restore,
    touch,
    unlease,
)
from greencache.tiers.worth import is_due, learn, rank

__all__ = [
    "abort_blocks",
    "access_blocks",
    "acquire_blocks",
    "commit_blocks",
    "drop_block",
    "hold_blocks",
    "lease_blocks",
    "match_blocks",
    "observe_blocks",
    "release_blocks",
    "reserve_blocks",
    "resize_tier",
    "restore_blocks",
]

Ids = NDArray[np.int32]


@subroutine
def _match_chain(state: TierState, ids: Ids, stop: int) -> int:
    """Length of the longest prefix of ``ids[:stop]`` that is a chain committed here.

    Callers may pass what no prompt is: blocks of several, or one twice. A lease of that would not
    end as it began, as both go by the block before; so only what is a chain is found.
    """
    parent = int64(NONE)
    for i in range(stop):
        slot = int64(state.slot_of[ids[i]])
        if slot == NONE:
            return i
        block = state.slots[slot]
        if block.parent != parent or block.leases == RESERVED:
            return i
        parent = slot
    return stop


@kernel
def match_blocks(state: TierState, ids: Ids, stop: int) -> int:
    """Length of the longest prefix of ``ids[:stop]`` that is committed here."""
    return _match_chain(state, ids, stop)


@kernel
def acquire_blocks(state: TierState, ids: Ids, stop: int, now_s: float) -> int:
    """Find the longest prefix of ``ids[:stop]`` here, note the access and lease it; its length."""
    return acquire(state, ids, _match_chain(state, ids, stop), now_s)


@kernel
def release_blocks(state: TierState, ids: Ids, now_s: float) -> None:
    """End a lease of ``ids``."""
    unlease(state, ids, len(ids), now_s)


@kernel
def access_blocks(state: TierState, ids: Ids, reusable: int, now_s: float) -> int:
    """One request with storing that takes no time: how many of ``ids[:reusable]`` hit."""
    return access(state, ids, reusable, len(ids), now_s)


@kernel
def reserve_blocks(
    state: TierState, ids: Ids, slots: NDArray[np.int32], now_s: float
) -> tuple[int, int]:
    """Find what is here of ``ids``, lease it, and reserve what follows; the length of each.

    ``slots`` takes where each reserved block is to be written. None is reserved from a block on
    that is here otherwise: another writer's, or one of another prompt. Where none is, nothing is
    leased either, and what is here counts as used now.
    """
    found = _match_chain(state, ids, len(ids))
    reserved = int64(0)
    if found < len(ids) and state.slot_of[ids[found]] == NONE:
        lease(state, ids, found)
        parent = int64(state.slot_of[ids[found - 1]]) if found > 0 else int64(NONE)
        while found + reserved < len(ids) and state.slot_of[ids[found + reserved]] == NONE:
            slot = reserve(state, int64(ids[found + reserved]), parent, now_s)
            if slot == NONE:
                break
            slots[reserved] = slot
            reserved += 1
            parent = slot
        if reserved == 0:
            unlease(state, ids, found, now_s)
    if reserved == 0:
        touch(state, ids, found, now_s)
    return found, reserved


@kernel
def commit_blocks(
    state: TierState, prefix: Ids, slots: NDArray[np.int32], whole: Ids, now_s: float
) -> None:
    """Make the blocks in ``slots`` visible and end the lease of the ``prefix`` before them.

    ``whole`` is the prefix and the new blocks; all of it counts as used now.
    """
    for i in range(len(slots)):
        commit(state, int64(slots[i]), i > 0, now_s)
    touch(state, whole, len(whole), now_s)
    unlease(state, prefix, len(prefix), now_s)


@kernel
def abort_blocks(state: TierState, prefix: Ids, slots: NDArray[np.int32], now_s: float) -> None:
    """Give up the blocks in ``slots`` and end the lease of the ``prefix`` before them."""
    for i in range(len(slots) - 1, -1, -1):
        abort(state, int64(slots[i]))
    unlease(state, prefix, len(prefix), now_s)


@kernel
def hold_blocks(state: TierState, blocks: int, now_s: float) -> bool:
    """Set capacity aside for blocks without an identity; False, and nothing gone, if it can't."""
    return hold(state, blocks, now_s)


@kernel
def lease_blocks(state: TierState, ids: Ids, stop: int) -> int:
    """Lease the longest prefix of ``ids[:stop]`` here without an access; its length."""
    found = _match_chain(state, ids, stop)
    lease(state, ids, found)
    return found


@kernel
def drop_block(state: TierState, slot: int, marks: NDArray[np.int8]) -> None:
    """Forget a block and all that builds on it; nobody leases or writes any of that.

    ``marks`` has a zero for each slot that was ever used.
    """
    drop_with_all_beyond(state, slot, marks)


@kernel
def restore_blocks(
    state: TierState, ids: Ids, parents: NDArray[np.int32], slots: NDArray[np.int32], now_s: float
) -> None:
    """Fill an empty tier: ``parents`` are slots of blocks that come before, or `NONE`."""
    for i in range(len(ids)):
        restore(state, int64(ids[i]), int64(parents[i]), int64(slots[i]), int64(len(ids)), now_s)
    end_restoring(state, slots)


@kernel
def resize_tier(state: TierState, capacity_blocks: int, now_s: float) -> int:
    """Set the capacity and evict down to it; how many blocks too many are leased or held."""
    return resize(state, capacity_blocks, now_s)


@kernel
def observe_blocks(model: Reuse, ids: Ids, begin: int, now_s: float) -> None:
    """Note a request for ``ids``, those before ``begin`` noted already.

    Now and then, work out what keeping a block is worth.
    """
    observe(model, ids, begin, len(ids), now_s)
    if is_due(model, now_s):
        learn(model, now_s)
        rank(model)
