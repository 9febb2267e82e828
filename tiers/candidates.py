"""The candidates for eviction: an indexed heap over the leaves of a tier's forest.

Only blocks that may be evicted now are in it (no children, no lease), so touching a whole prefix
moves at most its last block. The one that `goes_before` all others is at the top. For the policies
that keep no order (sieve, lcs, carbon) the same array is a plain set, and adding does not sift.
"""

from __future__ import annotations

from greencache.compiled import inlined, subroutine
from greencache.tiers.policies import goes_before
from greencache.tiers.state import CANDIDATES, HEIR, NONE, TierState, int64

__all__ = ["add", "discard", "reorder", "replace"]


@inlined
def _put(state: TierState, position: int, slot: int) -> None:
    state.heap[position] = slot
    state.slots[slot].place = position


@subroutine
def _sift_up(state: TierState, position: int) -> int:
    slot = int64(state.heap[position])
    while position > 0:
        above = (position - 1) >> 1
        other = int64(state.heap[above])
        if not goes_before(state, slot, other):
            break
        _put(state, position, other)
        position = above
    _put(state, position, slot)
    return position


@inlined
def _sift_down(state: TierState, position: int) -> None:
    slot = int64(state.heap[position])
    length = state.meta[CANDIDATES]
    while True:
        below = 2 * position + 1
        if below >= length:
            break
        first = int64(state.heap[below])
        if below + 1 < length:
            other = int64(state.heap[below + 1])
            if goes_before(state, other, first):
                first = other
                below += 1
        if not goes_before(state, first, slot):
            break
        _put(state, position, first)
        position = below
    _put(state, position, slot)


@subroutine
def reorder(state: TierState, slot: int) -> None:
    """Restore the order after anything changed that decides the place of a candidate."""
    _sift_down(state, _sift_up(state, int64(state.slots[slot].place)))


@inlined
def add(state: TierState, slot: int, ordered: bool) -> None:
    """Make ``slot`` a candidate; it must not be one."""
    position = state.meta[CANDIDATES]
    _put(state, position, slot)
    state.meta[CANDIDATES] = position + 1
    if ordered:
        _sift_up(state, position)
    else:
        state.meta[HEIR] = NONE  # what is new may be worth less


@subroutine
def discard(state: TierState, slot: int, ordered: bool) -> None:
    """Make ``slot`` no candidate, if it is one."""
    position = int64(state.slots[slot].place)
    if position == NONE:
        return
    state.slots[slot].place = NONE
    state.meta[CANDIDATES] -= 1
    last = int64(state.heap[state.meta[CANDIDATES]])
    if last != slot:
        _put(state, position, last)
        if ordered:
            reorder(state, last)


@inlined
def replace(state: TierState, slot: int, by: int, ordered: bool) -> None:
    """Put ``by``, which is no candidate, in the place of ``slot``, the first candidate to go.

    When a leaf goes, its parent often follows it as the next to go: then nothing is sifted.
    """
    position = int64(state.slots[slot].place)
    state.slots[slot].place = NONE
    _put(state, position, by)
    if ordered:
        _sift_down(state, position)
