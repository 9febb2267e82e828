"""Blocks in the order of their last access, and how many come after one: what distances need.

Each access takes the next *tick*. A bit is set at the last tick of every block, a Fenwick tree
counts the set bits by words of 64 (Olken, LBL-12370, 1981, with a tree over time; the words keep it
small enough for the CPU's first cache). When the ticks run out, blocks get new ones in the same
order. So an access costs O(log blocks), and memory is about 5 bytes a block, however long the
stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import subroutine

__all__ = ["ABSENT", "Recency", "depth_of", "forget", "new_recency", "renew"]

ABSENT = -1
"""Tick of a block that is not there."""

TICKS_PER_BLOCK = 4
"""Ticks until blocks get new ones, by how many blocks there can be: renumbering costs one count a
block, so at most a third of a count an access, and ticks cost a bit each."""

WORD = 64

NEXT = 0
LIVE = 1


class Recency(NamedTuple):
    """Blocks named by small integers, in the order of their last access.

    Attributes
    ----------
    tick_of:
        Last tick of each block, or `ABSENT`.
    marks:
        A bit for each tick, set where it is the last of a block.
    tree:
        Fenwick tree over how many bits each word of ``marks`` has set; entry 0 is not used.
    meta:
        The next tick, and how many blocks there are.
    """

    tick_of: NDArray[np.int32]
    marks: NDArray[np.uint64]
    tree: NDArray[np.int32]
    meta: NDArray[np.int64]


def new_recency(blocks: int) -> Recency:
    """Room for ``blocks`` different blocks, none there yet."""
    words = blocks * TICKS_PER_BLOCK // WORD + 1
    return Recency(
        tick_of=np.full(blocks, ABSENT, np.int32),
        marks=np.zeros(words, np.uint64),
        tree=np.zeros(words + 1, np.int32),
        meta=np.zeros(2, np.int64),
    )


@subroutine
def _ones(word: np.uint64) -> np.int64:
    """How many bits are set, summed in ever wider fields (HAKMEM 169)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = np.uint64(0x3333333333333333)
    word = (word & fours) + ((word >> np.uint64(2)) & fours)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@subroutine
def _bit(tick: int) -> np.uint64:
    return np.uint64(1) << np.uint64(tick % WORD)


@subroutine
def _marked_before(recency: Recency, tick: int) -> np.int64:
    at = tick // WORD
    count = _ones(recency.marks[at] & (_bit(tick) - np.uint64(1)))
    while at > 0:
        count += recency.tree[at]
        at &= at - 1
    return count


@subroutine
def _renumber(recency: Recency) -> None:
    """Give the blocks the first ticks, in the same order."""
    for block in range(len(recency.tick_of)):
        if recency.tick_of[block] != ABSENT:
            recency.tick_of[block] = _marked_before(recency, recency.tick_of[block])
    live = recency.meta[LIVE]
    words = len(recency.marks)
    for at in range(words):
        count = min(max(live - at * WORD, 0), WORD)
        recency.marks[at] = ~np.uint64(0) if count == WORD else _bit(count) - np.uint64(1)
        recency.tree[at + 1] = count
    for at in range(1, words + 1):
        above = at + (at & -at)
        if above <= words:
            recency.tree[above] += recency.tree[at]
    recency.meta[NEXT] = live


@subroutine
def depth_of(recency: Recency, block: int) -> np.int64:
    """How many blocks were accessed since ``block`` was, itself included; it must be there."""
    return np.int64(recency.meta[LIVE] - _marked_before(recency, recency.tick_of[block]))


@subroutine
def renew(recency: Recency, block: int) -> None:
    """Make ``block`` the last accessed."""
    if recency.meta[NEXT] == len(recency.marks) * WORD:
        _renumber(recency)
    before = recency.tick_of[block]
    tick = recency.meta[NEXT]
    recency.meta[NEXT] += 1
    recency.tick_of[block] = tick
    recency.marks[tick // WORD] |= _bit(tick)
    up = tick // WORD + 1
    down = len(recency.tree)
    if before == ABSENT:
        recency.meta[LIVE] += 1
    else:
        recency.marks[before // WORD] ^= _bit(before)
        down = before // WORD + 1
    # One more at the new tick, one less at the old: where the two paths meet, that is nothing.
    while down < len(recency.tree) and down != up:
        if down < up:
            recency.tree[down] -= 1
            down += down & -down
        else:
            recency.tree[up] += 1
            up += up & -up
    while up < len(recency.tree) and up != down:
        recency.tree[up] += 1
        up += up & -up


@subroutine
def forget(recency: Recency, block: int) -> None:
    """Take ``block``, which must be there, out of the order."""
    tick = recency.tick_of[block]
    recency.tick_of[block] = ABSENT
    recency.meta[LIVE] -= 1
    recency.marks[tick // WORD] ^= _bit(tick)
    at = tick // WORD + 1
    while at < len(recency.tree):
        recency.tree[at] -= 1
        at += at & -at
