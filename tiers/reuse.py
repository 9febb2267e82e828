"""How soon blocks are asked for again: learned online from the requests alone.

Every access of a block begins a *spell*, which ends with its next access. From spells, ended and
still running, the model keeps a life table: for each *class* of blocks and each *bucket* of ages,
how many spells ended at that age and for how many block-seconds spells were there to end. Their
ratio is the hazard of reuse (`greencache.tiers.worth`). It looks at requests and not at what any
tier holds, so what a tier evicts does not hide that it would have been asked for.

A block's class is how often it was asked for, after what pause, and its *generation*: the turn of a
conversation that it was first seen in, as far as that shows. A block first seen behind another one
that was known already is one generation younger than that one.

Spells count with the weight that the time of their beginning has now, half of it every half-life,
so that ended and running ones of one time weigh alike: else the many blocks that are never asked
for again would either be forgotten, or outweigh all that is known of late.

An access costs a record of 16 bytes and two counters. Running spells are counted by class and by
*slice* of the time they began in, in a ring; one that is older than the ring counts as one that
outlives all ages. Memory is 16 bytes a block and 0.2 MB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined, subroutine
from greencache.errors import InputError
from greencache.tiers.growing import room_for

__all__ = [
    "BUCKETS",
    "CLASSES",
    "EDGES_S",
    "HALF_LIFE_S",
    "LONGEST_S",
    "SEEN",
    "SLICES",
    "SLICE_S",
    "Reuse",
    "bucket_of",
    "class_of",
    "grow_reuse",
    "new_reuse",
    "observe",
]

Ids = NDArray[np.int32]

MOST_ACCESSES = 3
MOST_GENERATIONS = 3
PAUSES_S = (256.0, 1024.0, 4096.0)
PAUSES = 4
CLASSES = MOST_ACCESSES * MOST_GENERATIONS * PAUSES
"""Accesses so far from 1 on and generations from 0 on, more of either counting as the most; and the
pause before the last access, since the nearest block that was known had been asked for.

Measured by what ``carbon`` hits in a small tier, of all blocks asked for (1 % of those of the
Mooncake conversation, 0.3 % of those of two days of documents): one class for all 6.8 and 48.0 %,
accesses alone 10.9 and 48.9 %, generations alone 7.9 and 49.8 %, both 10.8 and 50.6 %, the pause
too 10.5 and 51.0 %. The pause tells most for agents: of their blocks the 5 % of best class have
15 % of all reuse after ten minutes with it, 6 % without. More accesses or generations give no more.
"""

PER_OCTAVE = 2
OCTAVES = 18
BUCKETS = 1 + PER_OCTAVE * OCTAVES
"""Of ages: the first second, then two buckets for each doubling up to 2**18 s, three days."""
LONGEST_S = 2.0**OCTAVES
EDGES_S = np.concatenate([[0.0], 2.0 ** (np.arange(BUCKETS) / PER_OCTAVE)])
"""Where each bucket begins, and where the last one ends."""

SLICE_S = 256.0
SLICES = 1024
"""As long together as `LONGEST_S`. Ages of running spells are known to half a slice."""

HALF_LIFE_S = 86_400.0
"""A day: so that the hours of a day, which differ, weigh about alike."""

SEEN = np.dtype(
    [
        ("last_s", np.float64),  # when it was last asked for
        ("depth", np.int32),  # blocks before it in its prefix
        ("accesses", np.uint8),  # how often, at most `MOST_ACCESSES`; 0 if never
        ("generation", np.uint8),
        ("kind", np.uint8),  # its class: `class_of` the two
        ("stored", np.uint8),  # whether it was since; see `greencache.tiers.admission`
    ]
)
"""What is known of each block, by its id."""

# Positions in ``Reuse.clock``.
ORIGIN = 0  # slice whose spells weigh 1
SLICE = 1  # the slice it is now, `NEVER` before the first access
FIRST = 2  # the first slice there was
LEARNED_S = 3  # when the tables were last made
CLOCK_LENGTH = 4

NEVER = -1.0

# Positions in the last dimension of ``Reuse.ended``.
COUNT = 0
WITHIN_S = 1


class Reuse(NamedTuple):
    """What was learned of reuse."""

    seen: NDArray[np.void]
    """A `SEEN` record for each id."""
    ended: NDArray[np.float64]
    """By class and bucket of the age they ended at: the weight of spells, and that times the
    seconds they were in the bucket."""
    running: NDArray[np.int32]
    """How many spells run, by the slice they began in and class."""
    outlived: NDArray[np.float64]
    """Weight of the spells that outlived the ring, by class."""
    moves: NDArray[np.float64]
    """Weight of the spells that ended, by their class and the class that the block is in next."""
    clock: NDArray[np.float64]
    half_life_s: NDArray[np.float64]
    """One number."""
    table: NDArray[np.float64]
    """By class, with all together as the last one, and bucket: hazard, and room to work in."""
    survival: NDArray[np.float64]
    """By class and bucket: share of spells that reach the bucket's younger end."""
    density: NDArray[np.float64]
    """By class and bucket: hits per block-second, see `greencache.tiers.worth`."""


def new_reuse(ids: int, half_life_s: float = HALF_LIFE_S) -> Reuse:
    """A model that has seen nothing, for block ids below ``ids``; `grow_reuse` makes room for more.

    Raises
    ------
    InputError
        If the half-life is not more than 0.
    """
    if not half_life_s > 0:
        raise InputError(f"what is learned has a half-life of more than 0 s, not {half_life_s:g}")
    clock = np.zeros(CLOCK_LENGTH)
    clock[SLICE] = NEVER
    return Reuse(
        seen=np.zeros(ids, SEEN),
        ended=np.zeros((CLASSES, BUCKETS, 2)),
        running=np.zeros((SLICES, CLASSES), np.int32),
        outlived=np.zeros(CLASSES),
        moves=np.zeros((CLASSES, CLASSES)),
        clock=clock,
        half_life_s=np.array([half_life_s]),
        table=np.zeros((CLASSES + 1, BUCKETS, 4)),
        survival=np.ones((CLASSES, BUCKETS + 1)),
        density=np.zeros((CLASSES, BUCKETS)),
    )


def grow_reuse(model: Reuse, ids: int) -> Reuse:
    """The model with room for at least ``ids`` ids; the old one must no longer be used."""
    have = len(model.seen)
    if ids <= have:
        return model
    more = np.zeros(room_for(ids, have) - have, SEEN)
    return model._replace(seen=np.concatenate([model.seen, more]))


@inlined
def bucket_of(age_s: float) -> int:
    """Bucket of an age; ages beyond the last one's older end are in it too."""
    if age_s < 1.0:
        return 0
    return min(BUCKETS - 1, 1 + int(PER_OCTAVE * np.log2(age_s)))


@inlined
def class_of(accesses: int, generation: int, pause: int) -> int:
    """Class of a block asked for so often, of such a generation, after such a pause."""
    return ((accesses - 1) * MOST_GENERATIONS + generation) * PAUSES + pause


@inlined
def pause_of(seconds: float) -> int:
    """Which of the pauses a time is."""
    pause = 0
    while pause < PAUSES - 1 and seconds >= PAUSES_S[pause]:
        pause += 1
    return pause


@inlined
def weight_of(model: Reuse, which: float) -> float:
    """What a spell of a slice counts."""
    return float(2.0 ** ((which - model.clock[ORIGIN]) * SLICE_S / model.half_life_s[0]))


@subroutine
def reach(model: Reuse, now_s: float) -> None:
    """Let slices begin up to now; spells of those whose place they take outlived the ring."""
    now, last = np.floor(now_s / SLICE_S), model.clock[SLICE]
    if last == NEVER:
        model.clock[ORIGIN] = model.clock[SLICE] = model.clock[FIRST] = now
        model.clock[LEARNED_S] = now_s
        return
    which = last + 1
    while which <= min(now, last + SLICES):
        place, weight = int(which) % SLICES, weight_of(model, which - SLICES)
        for kind in range(CLASSES):
            model.outlived[kind] += weight * model.running[place, kind]
            model.running[place, kind] = 0
        which += 1.0
    model.clock[SLICE] = max(last, now)


@subroutine
def _end_spells(
    model: Reuse, kind: int, began_s: float, now_s: float, blocks: int, pause: int
) -> None:
    """Blocks of one class whose spells began together are asked for again, after such a pause."""
    which = np.floor(began_s / SLICE_S)
    if which <= model.clock[SLICE] - SLICES:
        return  # they count as outliving all ages
    model.running[int(which) % SLICES, kind] -= blocks
    age_s = now_s - began_s
    bucket = bucket_of(age_s)
    weight = weight_of(model, which) * blocks
    within_s = min(age_s, EDGES_S[bucket + 1]) - EDGES_S[bucket]
    model.ended[kind, bucket, COUNT] += weight
    model.ended[kind, bucket, WITHIN_S] += weight * within_s
    accesses = kind // (MOST_GENERATIONS * PAUSES) + 1
    generation = kind // PAUSES % MOST_GENERATIONS
    following = class_of(min(accesses + 1, MOST_ACCESSES), generation, pause)
    model.moves[kind, following] += weight


@subroutine
def observe(model: Reuse, ids: Ids, begin: int, stop: int, now_s: float) -> None:
    """Note a request for the prefix ``ids[:stop]``, of which ``ids[:begin]`` was noted already.

    Time must not go back.
    """
    reach(model, now_s)
    place = int(model.clock[SLICE]) % SLICES
    known = stop
    while known > 0 and model.seen[ids[known - 1]].accesses == 0:
        known -= 1
    generation, pause = 0, 0
    if known > 0:
        deepest = model.seen[ids[known - 1]]
        generation = min(deepest.generation + 1, MOST_GENERATIONS - 1)
        pause = pause_of(now_s - deepest.last_s) if begin < known else int(deepest.kind) % PAUSES
    ended_kind, ended_s, ended = 0, 0.0, 0
    for depth in range(begin, stop):
        block = model.seen[ids[depth]]
        if block.accesses == 0:
            block.depth = depth
            block.generation = generation
        else:
            # Blocks of one prompt are mostly asked for together again: they are noted together.
            if block.kind != ended_kind or block.last_s != ended_s:
                if ended > 0:
                    _end_spells(model, ended_kind, ended_s, now_s, ended, pause)
                ended_kind, ended_s, ended = int(block.kind), block.last_s, 0
            ended += 1
        block.accesses = min(block.accesses + 1, MOST_ACCESSES)
        block.stored = 0
        block.kind = class_of(block.accesses, block.generation, pause)
        block.last_s = now_s
        model.running[place, block.kind] += 1
    if ended > 0:
        _end_spells(model, ended_kind, ended_s, now_s, ended, pause)
