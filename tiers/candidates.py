"""The candidates for eviction: an indexed heap over the leaves of a tier's forest.

Only blocks that may be evicted now are in it (no children, no lease), so touching a whole prefix
moves at most its last block. The lowest ``(priority, touched)`` is at the top. For the policies
that keep no order (sieve, lcs) the same array is a plain set, and pushing does not sift.
"""

from __future__ import annotations

from greencache.compiled import subroutine
from greencache.tiers.state import CANDIDATES, NONE, TierState

__all__ = ["add", "discard", "reorder", "replace"]


@subroutine
def goes_before(state: TierState, a: int, b: int) -> bool:
    """Whether slot ``a`` is evicted before slot ``b``."""
    if state.slots[a].priority != state.slots[b].priority:
        return state.slots[a].priority < state.slots[b].priority
    return state.slots[a].touched < state.slots[b].touched


@subroutine
def _put(state: TierState, position: int, slot: int) -> None:
    state.heap[position] = slot
    state.slots[slot].place = position


@subroutine
def _sift_up(state: TierState, position: int) -> int:
    slot = state.heap[position]
    while position > 0:
        above = (position - 1) // 2
        if not goes_before(state, slot, state.heap[above]):
            break
        _put(state, position, state.heap[above])
        position = above
    _put(state, position, slot)
    return position


@subroutine
def _sift_down(state: TierState, position: int) -> None:
    slot = state.heap[position]
    length = state.meta[CANDIDATES]
    while True:
        below = 2 * position + 1
        if below >= length:
            break
        if below + 1 < length and goes_before(state, state.heap[below + 1], state.heap[below]):
            below += 1
        if not goes_before(state, state.heap[below], slot):
            break
        _put(state, position, state.heap[below])
        position = below
    _put(state, position, slot)


@subroutine
def reorder(state: TierState, slot: int) -> None:
    """Restore the order after the priority of a candidate changed."""
    _sift_down(state, _sift_up(state, state.slots[slot].place))


@subroutine
def add(state: TierState, slot: int, ordered: bool) -> None:
    """Make ``slot`` a candidate; it must not be one."""
    _put(state, state.meta[CANDIDATES], slot)
    state.meta[CANDIDATES] += 1
    if ordered:
        _sift_up(state, state.slots[slot].place)


@subroutine
def discard(state: TierState, slot: int, ordered: bool) -> None:
    """Make ``slot`` no candidate, if it is one."""
    position = state.slots[slot].place
    if position == NONE:
        return
    state.slots[slot].place = NONE
    state.meta[CANDIDATES] -= 1
    last = state.heap[state.meta[CANDIDATES]]
    if last != slot:
        _put(state, position, last)
        if ordered:
            reorder(state, last)


@subroutine
def replace(state: TierState, slot: int, by: int, ordered: bool) -> None:
    """Put ``by``, which is no candidate, in the place of candidate ``slot``.

    When a leaf goes, its parent often follows it as the next to go: then nothing is sifted.
    """
    position = state.slots[slot].place
    state.slots[slot].place = NONE
    _put(state, position, by)
    if ordered:
        reorder(state, by)
