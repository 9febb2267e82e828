"""The blocks that a sampled curve follows: chosen by hash, in bounded memory.

A block is in the sample while its hash is at most a threshold; the share of all hashes up to it is
the *rate*. When the sample is full, the block of the highest hash leaves and the threshold falls
below it, so that it never returns: at any time the sample is what a threshold fixed at that value
would have chosen (SHARDS with a fixed size: Waldspurger et al., USENIX FAST 2015).

A stream that never ends would so lower the rate without end. Where no capacity above some is of
interest, the rate need not fall below the one at which the sample has just room for all blocks that
near: from there on the block that leaves is the one accessed longest ago, whose next access would
miss anyway.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.controller.recency import ABSENT, Recency, depth_of, forget, new_recency, renew
from greencache.tiers.directory import mixed

__all__ = [
    "BUCKETS",
    "GROUPS",
    "Sample",
    "bucket_tops",
    "feed",
    "memory_bytes",
    "new_sample",
    "rate_of",
]

GROUPS = 32
"""Sub-samples, by the lowest bits of a block's hash; how they differ shows the sample's error."""

SUBBUCKETS = 128
"""Buckets of distances to each doubling. Up to 256 blocks a bucket holds one distance, beyond that
its width is under 0.8 % of it."""

DOUBLINGS = 40
"""Beyond ``SUBBUCKETS``: distances up to 2**47 blocks."""

BUCKETS = SUBBUCKETS * (DOUBLINGS + 1)

EMPTY = -1

THRESHOLD = 0
SALT = 1
LOWEST_THRESHOLD = 2

USED = 0
OLDEST = 1
NEWEST = 2


class Sample(NamedTuple):
    """The blocks in the sample, and what was counted of them.

    Attributes
    ----------
    table:
        Open-addressing table of slots by hash; its length is a power of two.
    hash_of:
        Hash of the block in each slot. Different keys have different hashes, so it stands for the
        block.
    heap:
        All slots in use, a heap with the highest hash on top; while the threshold may still fall.
    recency:
        Slots by their last access.
    older, newer:
        The slots before and after each in that order, `ABSENT` at the ends.
    weights:
        By bucket of distance: for how many accesses those seen stand, 1 / rate for each. The last
        entry is for those that miss at any capacity.
    group_weights:
        The same by group, but each times the square root of 1 - rate: what the whole sample saw at
        rate 1 has no error.
    limits:
        The threshold, the salt of the hash, and the threshold below which it does not fall.
    meta:
        How many slots are in use, the oldest and the newest.
    """

    table: NDArray[np.int32]
    hash_of: NDArray[np.uint64]
    heap: NDArray[np.int32]
    recency: Recency
    older: NDArray[np.int32]
    newer: NDArray[np.int32]
    weights: NDArray[np.float64]
    group_weights: NDArray[np.float64]
    limits: NDArray[np.uint64]
    meta: NDArray[np.int64]


def new_sample(max_blocks: int, rate: float, lowest_rate: float, seed: int) -> Sample:
    """An empty sample of at most ``max_blocks``, that begins with ``rate`` of all blocks."""
    salt = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    thresholds = [max(int(each * 2**64), 1) - 1 for each in (rate, lowest_rate)]
    return Sample(
        table=np.full(1 << (2 * max_blocks).bit_length(), EMPTY, np.int32),
        hash_of=np.zeros(max_blocks, np.uint64),
        heap=np.zeros(max_blocks, np.int32),
        recency=new_recency(max_blocks),
        older=np.full(max_blocks, ABSENT, np.int32),
        newer=np.full(max_blocks, ABSENT, np.int32),
        weights=np.zeros(BUCKETS + 1),
        group_weights=np.zeros((GROUPS, BUCKETS + 1)),
        limits=np.array([thresholds[0], salt, thresholds[1]], np.uint64),
        meta=np.array([0, ABSENT, ABSENT], np.int64),
    )


def memory_bytes(sample: Sample) -> int:
    """Bytes of all its arrays."""
    arrays = (*sample.recency, *(each for each in sample if isinstance(each, np.ndarray)))
    return sum(each.nbytes for each in arrays)


def bucket_tops() -> NDArray[np.int64]:
    """The largest distance in each bucket."""
    index = np.arange(BUCKETS)
    shift = np.maximum(index // SUBBUCKETS - 1, 0)
    return np.asarray(((index - shift * SUBBUCKETS + 1) << shift) - 1)


@subroutine
def _bucket(distance: float) -> np.int64:
    value = min(np.int64(math.ceil(distance)), np.int64((SUBBUCKETS << DOUBLINGS) - 1))
    _, bits = math.frexp(float(value))
    shift = max(bits - 1 - 7, 0)  # SUBBUCKETS is 2**7
    return shift * SUBBUCKETS + (value >> shift)


@kernel
def rate_of(sample: Sample) -> float:
    """Share of all blocks that are in the sample."""
    return (float(sample.limits[THRESHOLD]) + 1.0) / 2.0**64


@subroutine
def _place_of(sample: Sample, hashed: np.uint64) -> np.int64:
    """Where in the table the block is, or the empty place where it would go."""
    last = len(sample.table) - 1
    at = np.int64(hashed & np.uint64(last))
    while sample.table[at] != EMPTY and sample.hash_of[sample.table[at]] != hashed:
        at = (at + 1) & last
    return at


@subroutine
def _clear(sample: Sample, gap: np.int64) -> None:
    """Empty a place of the table and close the gap, so that all others are still found."""
    last = len(sample.table) - 1
    at = gap
    while True:
        at = (at + 1) & last
        slot = sample.table[at]
        if slot == EMPTY:
            break
        home = np.int64(sample.hash_of[slot] & np.uint64(last))
        if ((at - home) & last) >= ((at - gap) & last):
            sample.table[gap] = slot
            gap = at
    sample.table[gap] = EMPTY


@subroutine
def _rise(sample: Sample, slot: int) -> None:
    """Enter ``slot`` at the heap's end and let it rise."""
    heap, hash_of = sample.heap, sample.hash_of
    at = sample.meta[USED]
    while at > 0 and hash_of[heap[(at - 1) // 2]] < hash_of[slot]:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = slot


@subroutine
def _replace_highest(sample: Sample, slot: int) -> None:
    """Put ``slot`` in the place of the heap's top and let it sink."""
    heap, hash_of = sample.heap, sample.hash_of
    at = 0
    while 2 * at + 1 < sample.meta[USED]:
        child = 2 * at + 1
        if child + 1 < sample.meta[USED] and hash_of[heap[child + 1]] > hash_of[heap[child]]:
            child += 1
        if hash_of[heap[child]] <= hash_of[slot]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = slot


@subroutine
def _unlink(sample: Sample, slot: int) -> None:
    older, newer = sample.older[slot], sample.newer[slot]
    if older == ABSENT:
        sample.meta[OLDEST] = newer
    else:
        sample.newer[older] = newer
    if newer == ABSENT:
        sample.meta[NEWEST] = older
    else:
        sample.older[newer] = older


@subroutine
def _leave(sample: Sample, slot: int) -> None:
    _clear(sample, _place_of(sample, sample.hash_of[slot]))
    forget(sample.recency, slot)
    _unlink(sample, slot)


@subroutine
def _touch(sample: Sample, slot: int, is_new: bool) -> None:
    """Make ``slot`` the newest."""
    renew(sample.recency, slot)
    if not is_new:
        _unlink(sample, slot)
    newest = sample.meta[NEWEST]
    sample.older[slot] = newest
    sample.newer[slot] = ABSENT
    sample.meta[NEWEST] = slot
    if newest == ABSENT:
        sample.meta[OLDEST] = slot
    else:
        sample.newer[newest] = slot


@subroutine
def _enter(sample: Sample, hashed: np.uint64) -> None:
    """Take a new block into the sample, unless the threshold falls below it."""
    slot = sample.meta[USED]
    highest = max(sample.hash_of[sample.heap[0]], hashed)
    if slot < len(sample.heap):
        sample.hash_of[slot] = hashed
        _rise(sample, slot)
        sample.meta[USED] += 1
    elif min(highest, sample.limits[THRESHOLD]) > sample.limits[LOWEST_THRESHOLD]:
        sample.limits[THRESHOLD] = highest - np.uint64(1)
        if highest == hashed:
            return
        slot = sample.heap[0]
        _leave(sample, slot)
        sample.hash_of[slot] = hashed
        _replace_highest(sample, slot)
    else:  # for good: the heap is not used again
        sample.limits[THRESHOLD] = sample.limits[LOWEST_THRESHOLD]
        slot = sample.meta[OLDEST]
        _leave(sample, slot)
        sample.hash_of[slot] = hashed
    sample.table[_place_of(sample, hashed)] = slot
    _touch(sample, slot, True)


@subroutine
def _look_up(sample: Sample, hashed: np.uint64, rate: float) -> None:
    """Count an access that may hit, by how many blocks were accessed since the last of its block.

    The block itself is one of them; of the others the sample holds a share of ``rate``.
    """
    slot = sample.table[_place_of(sample, hashed)]
    bucket = np.int64(BUCKETS)
    if slot != EMPTY:
        bucket = _bucket(1.0 + (depth_of(sample.recency, slot) - 1) / rate)
    sample.weights[bucket] += 1.0 / rate
    group = np.int64(hashed & np.uint64(GROUPS - 1))
    sample.group_weights[group, bucket] += math.sqrt(1.0 - rate) / rate


@kernel
def feed(
    sample: Sample,
    keys: NDArray[np.uint64],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
) -> None:
    """Serve requests: all blocks of one are looked up, then all are renewed, the deepest first."""
    salt = sample.limits[SALT]
    for r in range(len(full)):
        first = starts[r]
        rate = rate_of(sample)
        for at in range(first, first + reusable[r]):
            hashed = mixed(keys[at] + salt)
            if hashed <= sample.limits[THRESHOLD]:
                _look_up(sample, hashed, rate)
        for at in range(first + full[r] - 1, first - 1, -1):
            hashed = mixed(keys[at] + salt)
            if hashed <= sample.limits[THRESHOLD]:
                slot = sample.table[_place_of(sample, hashed)]
                if slot == EMPTY:
                    _enter(sample, hashed)
                else:
                    _touch(sample, slot, False)
