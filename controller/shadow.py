"""Reuse at every candidate size at once: miniature caches beside the real ones.

One miniature cache for HBM, and one for each candidate size of DRAM and of SSD, each the real index
(`greencache.tiers.transactions`) with the real policy, is served the same requests as the engine.
For a pair of sizes, a request finds the longest of the three prefixes: HBM's first, DRAM adds what
is longer there, SSD what is longer still, as the engine loads them. So ``1 + D + S`` caches answer
for ``D * S`` pairs, under any policy and any admission, which no stack distance does.

Sampling
--------
Where all miniatures together would hold more blocks than the budget allows, only a share ``R`` of
the blocks is followed, chosen by a hash of their ids, in caches of ``R`` times the size (miniature
simulation: Waldspurger et al., USENIX ATC 2017). What is left of a chain of blocks is again a
chain, so the index's rules hold among sampled blocks.

*Sums* of tokens count misses: each sampled block that missed stands for ``1 / R``, and what is left
of all blocks that might have hit is found. Hits may be concentrated on a few popular blocks, of
which it would be left to chance whether they are sampled; misses cannot (see
`greencache.controller.sampled_curves`). *One* prompt's prefix, for the sample of requests that
latency is computed from, ends somewhere between the last sampled block found and the next one: it
is taken to end in the middle. A prompt of whose prefix no sampled block is found counts as not
found.

The error of a hit rate shrinks with the sampled blocks that fit: tests/controller/test_shadow.py
holds it against ``R = 1``, docs/controller.md has figures.

What differs from the engine
----------------------------
Prompts are looked up when they arrive and stored when the engine had computed them, which is with
the sizes that it ran with; with others it would have been sooner or later. HBM's usable size is
what running requests leave of it, by the mean of what they hold (`ShadowCaches.hold`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined, kernel, subroutine
from greencache.controller.prompts import Prompts
from greencache.controller.reuse import ReuseProfile, ReuseSums
from greencache.errors import InputError
from greencache.quantities import HOUR_S
from greencache.tiers.directory import mixed
from greencache.tiers.policies import Policy
from greencache.tiers.state import NONE, TierState, allocate, int64
from greencache.tiers.transactions import count_hits, match, resize, store, touch

__all__ = ["BUDGET_BLOCKS", "ShadowCaches", "ShadowSizes"]

BUDGET_BLOCKS = 1_000_000
"""Blocks in all miniatures together by default, about 100 bytes each."""

_SALT = np.uint64(0x9E3779B97F4A7C15)
"""Added before hashing: the finaliser maps 0, often the id of the most popular block, to 0."""

_ID_SLACK = 4096
"""Free numbers beyond what the largest miniature holds, and so how seldom they are collected."""


@dataclass(frozen=True)
class ShadowSizes:
    """Sizes to know about, in blocks; a size of 0 stands for no such tier.

    Attributes
    ----------
    hbm:
        What the engine's HBM can hold.
    drams, ssds:
        Candidate sizes, rising.
    """

    hbm: int
    drams: tuple[int, ...]
    ssds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, sizes in (("DRAM", self.drams), ("SSD", self.ssds)):
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 0:
                raise InputError(
                    f"candidate {name} sizes are blocks, 0 or more and rising: {sizes}"
                )
        if self.hbm < 0:
            raise InputError(f"HBM holds 0 blocks or more, not {self.hbm}")

    @property
    def tiers(self) -> NDArray[np.int64]:
        """All of them, one after the other."""
        return np.array([self.hbm, *self.drams, *self.ssds], np.int64)


class _Miniatures(NamedTuple):
    """The indexes of all tiers, side by side, and the numbers of the blocks in them."""

    meta: NDArray[np.int64]
    weights: NDArray[np.float64]
    slot_of: NDArray[np.int32]
    slots: NDArray[np.void]
    history: NDArray[np.void]
    heap: NDArray[np.int32]
    first: NDArray[np.int64]
    """Where each tier's slots begin in the three arrays before it, and where the last ends."""
    number_of: NDArray[np.int32]
    """By block id, its number here, or `NONE`."""
    id_of: NDArray[np.int32]
    """By number, the block."""
    free: NDArray[np.int32]
    """Numbers not in use, as a stack."""
    depth: NDArray[np.int64]
    """Of one: how many there are on it."""


class _Batch(NamedTuple):
    """Requests to serve, and what is found out about each."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    full: NDArray[np.int64]
    reusable: NDArray[np.int64]
    events: NDArray[np.int64]
    """In the order of time: request ``r`` looks its prefix up (``r``), or is stored (``~r``)."""
    event_s: NDArray[np.float64]
    numbers: NDArray[np.int32]
    """For the sampled blocks of one request."""
    places: NDArray[np.int64]
    """Where they stand in its chain."""
    missed: NDArray[np.int32]
    """Requests by tiers: sampled blocks that might have hit and did not."""
    length: NDArray[np.float64]
    """Requests by tiers: blocks of its prefix that the tier held, by estimate."""
    new: NDArray[np.int32]
    """Requests by tiers: sampled blocks that were stored."""


@subroutine
def _tier(minis: _Miniatures, i: int) -> TierState:
    begin, end = minis.first[i], minis.first[i + 1]
    return TierState(
        minis.meta[i],
        minis.weights[i],
        minis.slot_of[i],
        minis.slots[begin:end],
        minis.history[begin:end],
        minis.heap[begin:end],
    )


@inlined
def _is_sampled(block: int, threshold: np.uint64) -> bool:
    return bool(mixed(np.uint64(block) + _SALT) <= threshold)


@subroutine
def _known(minis: _Miniatures, batch: _Batch, r: int, threshold: np.uint64) -> tuple[int, int]:
    """Sampled blocks of a prompt that may hit; and how many lead up to the first without a number.

    Their places, and the numbers of those that lead, are left in the batch.
    """
    begin, sampled, known = batch.starts[r], int64(0), int64(0)
    for at in range(begin, begin + batch.reusable[r]):
        block = batch.ids[at]
        if _is_sampled(block, threshold):
            number = minis.number_of[block]
            if known == sampled and number != NONE:
                batch.numbers[known] = number
                known += 1
            batch.places[sampled] = at - begin
            sampled += 1
    return sampled, known


@subroutine
def _number(minis: _Miniatures, batch: _Batch, r: int, threshold: np.uint64) -> int:
    """Number all sampled blocks of a prompt; how many there are."""
    begin, sampled = batch.starts[r], int64(0)
    for at in range(begin, begin + batch.full[r]):
        block = batch.ids[at]
        if _is_sampled(block, threshold):
            if minis.number_of[block] == NONE:
                minis.depth[0] -= 1
                number = minis.free[minis.depth[0]]
                minis.number_of[block] = number
                minis.id_of[number] = block
            batch.numbers[sampled] = minis.number_of[block]
            sampled += 1
    return int(sampled)


@subroutine
def _length_of(batch: _Batch, found: int, sampled: int, reusable: int) -> float:
    """Blocks of a prefix of which ``found`` sampled ones are there: half way to the next one."""
    if found == 0:
        return 0.0
    least = batch.places[found - 1] + 1
    most = min(batch.places[found], reusable) if found < sampled else reusable
    return float(least + most) / 2


@subroutine
def _arrive(minis: _Miniatures, batch: _Batch, r: int, now_s: float, threshold: np.uint64) -> None:
    """Look a prompt up everywhere, noted as the engine notes what a request hits."""
    sampled, known = _known(minis, batch, r, threshold)
    for i in range(len(minis.first) - 1):
        state = _tier(minis, i)
        found = match(state, batch.numbers, known)
        count_hits(state, batch.numbers, found)
        touch(state, batch.numbers, found, now_s)
        batch.missed[r, i] = sampled - found
        batch.length[r, i] = _length_of(batch, found, sampled, batch.reusable[r])


@kernel
def _serve(minis: _Miniatures, batch: _Batch, begin: int, threshold: np.uint64) -> int:
    """Serve events from ``begin`` on; the first one for which too few numbers are free."""
    for at in range(begin, len(batch.events)):
        r, now_s = batch.events[at], batch.event_s[at]
        if r >= 0:
            _arrive(minis, batch, r, now_s, threshold)
            continue
        r = ~r
        if minis.depth[0] < batch.full[r]:
            return at
        sampled = _number(minis, batch, r, threshold)
        for i in range(len(minis.first) - 1):
            batch.new[r, i] = store(_tier(minis, i), batch.numbers, sampled, now_s)
    return len(batch.events)


@kernel
def _collect(minis: _Miniatures) -> None:
    """Free the numbers of blocks that no miniature holds any more."""
    tiers = len(minis.first) - 1
    for number in range(len(minis.id_of)):
        block = minis.id_of[number]
        if block == NONE:
            continue
        held = False
        for i in range(tiers):
            held |= minis.slot_of[i, number] != NONE
        if not held:
            minis.number_of[block] = NONE
            minis.id_of[number] = NONE
            minis.free[minis.depth[0]] = number
            minis.depth[0] += 1


@kernel
def _resize(minis: _Miniatures, i: int, capacity: int, now_s: float) -> None:
    resize(_tier(minis, i), capacity, now_s)


def _allocate(
    capacities: NDArray[np.int64], numbers: int, policy: Policy, base: float, per_depth: float
) -> _Miniatures:
    one = [
        allocate(int(size), numbers, policy.code, cost_base=base, cost_per_depth=per_depth)
        for size in capacities
    ]
    free = np.arange(numbers, dtype=np.int32)[::-1].copy()
    return _Miniatures(
        meta=np.stack([state.meta for state in one]),
        weights=np.stack([state.weights for state in one]),
        slot_of=np.stack([state.slot_of for state in one]),
        slots=np.concatenate([state.slots for state in one]),
        history=np.concatenate([state.history for state in one]),
        heap=np.concatenate([state.heap for state in one]),
        first=np.cumsum([0] + [len(state.slots) for state in one]).astype(np.int64),
        number_of=np.full(0, NONE, np.int32),
        id_of=np.full(numbers, NONE, np.int32),
        free=free,
        depth=np.array([numbers], np.int64),
    )


class ShadowCaches:
    """Miniature caches of all candidate sizes, fed with the requests that the engine serves.

    Parameters
    ----------
    sizes:
        The tiers to know about.
    block_tokens:
        Tokens to a block.
    policy:
        Eviction policy of all tiers.
    cost_base, cost_per_depth:
        Cost of recomputing a block, as `greencache.tiers.state.allocate` takes it.
    half_life_s:
        Sums of earlier intervals count half after so long.
    recent:
        How many of the last requests `ReuseProfile.sample` keeps.
    budget_blocks:
        Blocks in all miniatures together; above it blocks are sampled.
    rate:
        Share of blocks that is followed, instead of what the budget allows.

    Raises
    ------
    InputError
        If a parameter is not usable.
    """

    def __init__(
        self,
        sizes: ShadowSizes,
        block_tokens: int,
        policy: Policy = Policy.LRU,
        *,
        cost_base: float = 1.0,
        cost_per_depth: float = 0.0,
        half_life_s: float = 6 * HOUR_S,
        recent: int = 2048,
        budget_blocks: int = BUDGET_BLOCKS,
        rate: float | None = None,
    ) -> None:
        if half_life_s <= 0 or budget_blocks < 1 or block_tokens < 1:
            raise InputError("shadow caches need a half-life, a budget and blocks above 0")
        if rate is not None and not 0 < rate <= 1:
            raise InputError(f"a sampling rate is more than 0 and at most 1, not {rate}")
        self.sizes = sizes
        total = int(sizes.tiers.sum())
        self.rate = rate if rate is not None else min(1.0, budget_blocks / max(total, 1))
        self._threshold = np.uint64(min(int(self.rate * 2**64), 2**64 - 1))
        self._capacities = np.round(sizes.tiers * self.rate).astype(np.int64)
        # A share R of a block's ancestors is followed, so each stands for 1/R of them.
        numbers = int(self._capacities.max()) + _ID_SLACK
        self._minis = _allocate(
            self._capacities, numbers, policy, cost_base, cost_per_depth / self.rate
        )
        self._waiting = Prompts.none()
        self._sums = ReuseSums(
            block_tokens, sizes.drams, sizes.ssds, half_life_s=half_life_s, recent=recent
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of the miniatures; 4 for each block id ever seen included."""
        return sum(array.nbytes for array in self._minis)

    def hold(self, blocks: float, now_s: float) -> None:
        """Set how much of HBM running requests keep from being a cache, in the mean.

        The rest is HBM's size as a cache, from now on.
        """
        left = max(0.0, self.sizes.hbm - blocks)
        _resize(self._minis, 0, round(left * self.rate), now_s)

    def _make_room(self, longest: int, highest: int) -> None:
        """Have numbers for a prompt of ``longest`` blocks, and room for ids below ``highest``."""
        minis = self._minis
        have = len(minis.number_of)
        if highest > have:
            more = np.full(max(highest, 2 * have) - have, NONE, np.int32)
            minis = minis._replace(number_of=np.concatenate([minis.number_of, more]))
        if minis.depth[0] < longest:
            _collect(minis)
        if minis.depth[0] < longest:
            minis = _with_numbers(minis, max(longest, len(minis.id_of)))
        self._minis = minis

    def observe(self, prompts: Prompts, until_s: float) -> None:
        """Serve requests.

        Parameters
        ----------
        prompts:
            Requests that arrived since those observed before, in order.
        until_s:
            Prompts computed later than this are stored only by a later call.
        """
        waiting = self._waiting
        both = waiting.followed_by(prompts)
        events, event_s = both.events(len(waiting), until_s)
        count, tiers = len(both), len(self._capacities)
        longest = int(both.full.max()) if count else 0
        batch = _Batch(
            both.ids,
            both.starts,
            both.full,
            both.reusable,
            events,
            event_s,
            np.zeros(longest, np.int32),
            np.zeros(longest, np.int64),
            np.zeros((count, tiers), np.int32),
            np.zeros((count, tiers)),
            np.zeros((count, tiers), np.int32),
        )
        self._make_room(longest, int(both.ids.max()) + 1 if len(both.ids) else 0)
        done = int(_serve(self._minis, batch, 0, self._threshold))
        while done < len(events):
            self._make_room(longest, 0)
            done = int(_serve(self._minis, batch, done, self._threshold))
        self._waiting = both.select(both.computed_s > until_s)
        arrived = slice(len(waiting), None)
        self._sums.add(
            prompts.reusable[:, None] - batch.missed[arrived] / self.rate,
            batch.length[arrived],
            prompts,
        )
        self._sums.add_written(batch.new.sum(axis=0) / self.rate)

    def end_interval(self, start_s: float, duration_s: float) -> None:
        """Close an interval: what was observed since the last call arrived in it."""
        self._sums.end_interval(start_s, duration_s)

    def profile(self) -> ReuseProfile:
        """What is known from the intervals closed so far."""
        return self._sums.profile()


def _with_numbers(minis: _Miniatures, more: int) -> _Miniatures:
    """The same with so many more numbers for blocks."""
    have, tiers = len(minis.id_of), len(minis.slot_of)
    free = np.concatenate([minis.free, np.zeros(more, np.int32)])
    depth = int(minis.depth[0])
    free[depth : depth + more] = np.arange(have, have + more, dtype=np.int32)
    return minis._replace(
        slot_of=np.concatenate([minis.slot_of, np.full((tiers, more), NONE, np.int32)], axis=1),
        id_of=np.concatenate([minis.id_of, np.full(more, NONE, np.int32)]),
        free=free,
        depth=np.array([depth + more], np.int64),
    )
