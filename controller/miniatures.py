"""The indexes of many miniature caches side by side, and how requests are served by all of them.

Compiled. `greencache.controller.shadow` says what they are for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined, kernel, subroutine
from greencache.tiers.admission import (
    Prices,
    Storing,
    admit,
    draw,
    foresee,
    kept_s,
    new_storing,
    note_computed,
    note_held,
    storing_of,
)
from greencache.tiers.directory import mixed
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import LEARNED_S, SEEN, Reuse, observe
from greencache.tiers.state import CAPACITY, NONE, TierState, allocate, int64
from greencache.tiers.transactions import count_hits, match, resize, store, touch
from greencache.tiers.worth import learn, rank

__all__ = [
    "HBM",
    "Batch",
    "Miniatures",
    "Rules",
    "collect",
    "new_miniatures",
    "resize_miniature",
    "serve",
    "teach",
    "with_numbers",
]

HBM = 0
"""Place of HBM among the tiers; DRAM sizes follow, then SSD sizes."""

ABOVE = HBM
"""Row of what admission knows in which hits of tiers above SSD are counted, for all SSD sizes."""

_SALT = np.uint64(0x9E3779B97F4A7C15)
"""Added before hashing: the finaliser maps 0, often the id of the most popular block, to 0."""


class Rules(NamedTuple):
    """How tiers decide."""

    first_ssd: int
    """Place of the first SSD size."""
    threshold: np.uint64
    """Blocks whose hash is at most this are followed."""
    learns: bool
    """Whether reuse is learned, as the next two need."""
    ranks: bool
    by_value: bool
    prices: Prices
    endurance_per_s: float
    """As in the engine: share of a capacity that may be written each second for its age."""


class Miniatures(NamedTuple):
    """The indexes of all tiers, side by side, and the numbers of the blocks in them."""

    meta: NDArray[np.int64]
    weights: NDArray[np.float64]
    slot_of: NDArray[np.int32]
    slots: NDArray[np.void]
    history: NDArray[np.void]
    heap: NDArray[np.int32]
    storing: Storing
    """What admission knows, a row for each tier."""
    seen: NDArray[np.void]
    """By number, what the model of reuse knows of the block."""
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


class Batch(NamedTuple):
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
def _tier(minis: Miniatures, model: Reuse, i: int) -> TierState:
    begin, end = minis.first[i], minis.first[i + 1]
    return TierState(
        minis.meta[i],
        minis.weights[i],
        minis.slot_of[i],
        minis.slots[begin:end],
        minis.history[begin:end],
        minis.heap[begin:end],
        minis.seen,
        model.density,
    )


@inlined
def _is_sampled(block: int, threshold: np.uint64) -> bool:
    return bool(mixed(np.uint64(block) + _SALT) <= threshold)


@subroutine
def _known(minis: Miniatures, batch: Batch, r: int, threshold: np.uint64) -> tuple[int, int]:
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
def _number(minis: Miniatures, model: Reuse, batch: Batch, r: int, threshold: np.uint64) -> int:
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
                if len(model.seen) > 0:
                    minis.seen[number] = model.seen[block]
            batch.numbers[sampled] = minis.number_of[block]
            sampled += 1
    return int(sampled)


@subroutine
def _length_of(batch: Batch, found: int, sampled: int, reusable: int) -> float:
    """Blocks of a prefix of which ``found`` sampled ones are there: half way to the next one."""
    if found == 0:
        return 0.0
    least = batch.places[found - 1] + 1
    most = min(batch.places[found], reusable) if found < sampled else reusable
    return float(least + most) / 2


@subroutine
def _show(minis: Miniatures, model: Reuse, ids: NDArray[np.int32]) -> None:
    """Let the tiers know what the model says of blocks now."""
    for block in ids:
        number = minis.number_of[block]
        if number != NONE:
            minis.seen[number] = model.seen[block]


@subroutine
def _note(minis: Miniatures, model: Reuse, batch: Batch, r: int, now_s: float) -> None:
    """Let the model learn from a request that was just looked up."""
    begin = batch.starts[r]
    ids = batch.ids[begin : begin + batch.full[r]]
    # An SSD size is asked about under any DRAM. Below the present one it would store little, and so
    # never show what it could do instead of it.
    held = int(batch.length[r, HBM])
    note_held(storing_of(minis.storing, ABOVE), model.seen, ids, held, now_s)
    observe(model, ids, 0, len(ids), now_s)
    _show(minis, model, ids)


@subroutine
def _arrive(
    minis: Miniatures, model: Reuse, batch: Batch, r: int, now_s: float, threshold: np.uint64
) -> None:
    """Look a prompt up everywhere, noted as the engine notes what a request hits."""
    sampled, known = _known(minis, batch, r, threshold)
    for i in range(len(minis.first) - 1):
        state = _tier(minis, model, i)
        found = match(state, batch.numbers, known)
        count_hits(state, batch.numbers, found)
        touch(state, batch.numbers, found, now_s)
        batch.missed[r, i] = sampled - found
        batch.length[r, i] = _length_of(batch, found, sampled, batch.reusable[r])


@subroutine
def _store(
    minis: Miniatures,
    model: Reuse,
    batch: Batch,
    i: int,
    sampled: int,
    now_s: float,
    rules: Rules,
) -> int:
    """Store a prompt in one tier, as the engine would; how many of its blocks are new."""
    state = _tier(minis, model, i)
    if state.meta[CAPACITY] == 0:
        return 0
    if i < rules.first_ssd or not rules.by_value:
        return store(state, batch.numbers, sampled, now_s)
    storing = storing_of(minis.storing, i)
    blocks_per_s = rules.endurance_per_s * state.meta[CAPACITY]
    ids = batch.numbers[:sampled]
    found = match(state, ids, sampled)
    stop = admit(minis.seen, storing, rules.prices, blocks_per_s, ids, found, now_s)
    new = store(state, batch.numbers, stop, now_s)
    draw(storing.pace, float(new))
    return new


@kernel
def serve(minis: Miniatures, model: Reuse, batch: Batch, begin: int, rules: Rules) -> int:
    """Serve events from ``begin`` on; the first one for which too few numbers are free."""
    for at in range(begin, len(batch.events)):
        r, now_s = batch.events[at], batch.event_s[at]
        if r >= 0:
            _arrive(minis, model, batch, r, now_s, rules.threshold)
            if rules.learns:
                _note(minis, model, batch, r, now_s)
            continue
        r = ~r
        if minis.depth[0] < batch.full[r]:
            return at
        if rules.by_value:
            ids = batch.ids[batch.starts[r] : batch.starts[r] + batch.full[r]]
            note_computed(model.seen, ids)
            _show(minis, model, ids)
        sampled = _number(minis, model, batch, r, rules.threshold)
        for i in range(len(minis.first) - 1):
            batch.new[r, i] = _store(minis, model, batch, i, sampled, now_s, rules)
    return len(batch.events)


@subroutine
def _copy(to: NDArray[np.float64], source: NDArray[np.float64]) -> None:
    for i in range(to.shape[0]):
        for j in range(to.shape[1]):
            to[i, j] = source[i, j]


@kernel
def teach(minis: Miniatures, model: Reuse, now_s: float, rules: Rules) -> None:
    """Make what was learned known to all tiers."""
    seconds = now_s - model.clock[LEARNED_S]
    learn(model, now_s)
    if rules.ranks:
        rank(model)
    above, latest = storing_of(minis.storing, ABOVE).above, int64(ABOVE)
    above_s = 0.0
    for i in range(len(minis.first) - 1):
        state, storing = _tier(minis, model, i), storing_of(minis.storing, i)
        own_s = kept_s(state, storing.flow[0], seconds)
        if i == HBM:
            above_s = own_s
        if i >= rules.first_ssd and rules.by_value and state.meta[CAPACITY] > 0:
            _copy(storing.above, above)  # all lie under the same tiers
            foresee(model, storing, above_s, own_s, seconds)
            latest = i
    _copy(above, storing_of(minis.storing, latest).above)


@kernel
def collect(minis: Miniatures) -> None:
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
def resize_miniature(minis: Miniatures, model: Reuse, i: int, capacity: int, now_s: float) -> None:
    """Change the size of one of them."""
    resize(_tier(minis, model, i), capacity, now_s)


def new_miniatures(
    capacities: NDArray[np.int64],
    numbers: int,
    policy: Policy,
    *,
    cost_base: float,
    cost_per_depth: float,
    load_cost: float,
    first_ssd: int,
) -> Miniatures:
    """Empty miniatures of so many blocks, with so many numbers for blocks."""
    one = [
        allocate(
            int(size),
            numbers,
            policy.code,
            cost_base=cost_base,
            cost_per_depth=cost_per_depth,
            load_cost=load_cost if i >= first_ssd else 0.0,
        )
        for i, size in enumerate(capacities)
    ]
    storing = [new_storing(tiers=1) for _ in one]
    return Miniatures(
        meta=np.stack([state.meta for state in one]),
        weights=np.stack([state.weights for state in one]),
        slot_of=np.stack([state.slot_of for state in one]),
        slots=np.concatenate([state.slots for state in one]),
        history=np.concatenate([state.history for state in one]),
        heap=np.concatenate([state.heap for state in one]),
        storing=Storing._make(np.stack(arrays) for arrays in zip(*storing, strict=True)),
        seen=np.zeros(numbers, SEEN),
        first=np.cumsum([0] + [len(state.slots) for state in one]).astype(np.int64),
        number_of=np.full(0, NONE, np.int32),
        id_of=np.full(numbers, NONE, np.int32),
        free=np.arange(numbers, dtype=np.int32)[::-1].copy(),
        depth=np.array([numbers], np.int64),
    )


def with_numbers(minis: Miniatures, more: int) -> Miniatures:
    """The same with so many more numbers for blocks."""
    have, tiers = len(minis.id_of), len(minis.slot_of)
    free = np.concatenate([minis.free, np.zeros(more, np.int32)])
    depth = int(minis.depth[0])
    free[depth : depth + more] = np.arange(have, have + more, dtype=np.int32)
    return minis._replace(
        slot_of=np.concatenate([minis.slot_of, np.full((tiers, more), NONE, np.int32)], axis=1),
        seen=np.concatenate([minis.seen, np.zeros(more, SEEN)]),
        id_of=np.concatenate([minis.id_of, np.full(more, NONE, np.int32)]),
        free=free,
        depth=np.array([depth + more], np.int64),
    )
