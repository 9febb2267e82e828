"""What keeping a block is worth, from the hazard of its reuse.

*Hazard*: of the spells of a class that reach a bucket of ages, the ones that end there over the
block-seconds that they spend there. All classes together are known best. Where a class has few
spells, its hazard leans on that of all together; where there is none at all yet, at ages that
nothing has had the time to reach, hazard times age goes on as it was at the age before::

    all:    h[b]    = (ended[b] + M) / (exposed_s[b] + M / (h[b - 1] * age[b - 1] / age[b]))
    class:  h[c, b] = (ended[c, b] + N) / (exposed_s[c, b] + N / h[b])

with ``M`` and ``N`` spells' worth of trust in what is leaned on. That is the mean of a gamma
distribution, as usual for a rate. Hazard falls about as one over age in streams of sessions.

*Hits per block-second*: to keep a block of class ``c`` from age ``a`` up to age ``T`` takes the
seconds until it is asked for or is ``T`` old, and gives a hit with the probability that it is asked
for. The best ratio that any ``T`` gives is the block's index, ``density``::

    density[c, a] = max over T of  P(reused before T | not before a) / E[min(reuse, T) - a]

in hits per second of one block's room. Gittins (J. R. Statist. Soc. B 41, 1979) proves such an
index optimal for the choice among tasks that stand still while others are worked on; hit density in
LHD (Beckmann, Chen, Cidon, NSDI 2018) is the same ratio over all of the block's stay, not the best
part. A block whose hazard is still to rise is kept for what comes.
"""

from __future__ import annotations

import numpy as np

from greencache.compiled import inlined, subroutine
from greencache.tiers.reuse import (
    BUCKETS,
    CLASSES,
    COUNT,
    EDGES_S,
    FIRST,
    LEARNED_S,
    LONGEST_S,
    ORIGIN,
    SLICE,
    SLICE_S,
    SLICES,
    WITHIN_S,
    Reuse,
    bucket_of,
    reach,
    weight_of,
)

__all__ = ["is_due", "learn", "rank", "survival_at"]

TRUST = 4.0
TRUST_IN_ALL = 16.0
"""Spells' worth of trust in what a hazard leans on: that of all classes on younger ages, that of a
class on all. Blocks are asked for a prompt at a time, so this is less than a prompt, and about one.
"""

FIRST_HAZARD_PER_S = 0.1
"""In the first second, before anything is known."""

LEAST_PER_AGE = 0.03
"""Least hazard times age to lean on: else after ages at which nothing comes back, little could ever
be expected of older ones, whatever is seen there."""

SOONEST_S = 10.0
LATEST_S = 1800.0
SHARE = 0.1
"""Tables are made anew after so much of the time since the first access, within these bounds: what
is known changes fast at first and slowly later."""

# Positions in the last dimension of ``Reuse.table``.
HAZARD = 0
RUN = 1  # weight of the spells that run at that age
RUN_S = 2  # that times their seconds in the bucket; then the block-seconds of all spells there
STAY = 3  # probability of getting through the bucket without reuse


@inlined
def is_due(model: Reuse, now_s: float) -> bool:
    """Whether tables should be made anew."""
    began_s = model.clock[FIRST] * SLICE_S
    wait_s = min(max(SHARE * (now_s - began_s), SOONEST_S), LATEST_S)
    return model.clock[SLICE] >= 0 and now_s >= model.clock[LEARNED_S] + wait_s


@subroutine
def _forget(model: Reuse) -> None:
    """Make the present slice the one whose spells weigh 1."""
    factor = 1 / weight_of(model, model.clock[SLICE])
    model.clock[ORIGIN] = model.clock[SLICE]
    for kind in range(CLASSES):
        model.outlived[kind] *= factor
        for bucket in range(BUCKETS):
            model.ended[kind, bucket, COUNT] *= factor
            model.ended[kind, bucket, WITHIN_S] *= factor
        for following in range(CLASSES):
            model.moves[kind, following] *= factor


@subroutine
def _count_running(model: Reuse, now_s: float) -> None:
    """Weigh the spells that run by their ages, each taken to have begun in its slice's middle."""
    table, last = model.table, model.clock[SLICE]
    for kind in range(CLASSES):
        for bucket in range(BUCKETS):
            table[kind, bucket, RUN] = table[kind, bucket, RUN_S] = 0.0
    which = max(model.clock[FIRST], last - SLICES + 1)
    while which <= last:
        began_s = which * SLICE_S
        age_s = now_s - (began_s + min(began_s + SLICE_S, now_s)) / 2
        bucket = bucket_of(age_s)
        within_s = min(age_s, EDGES_S[bucket + 1]) - EDGES_S[bucket]
        weight = weight_of(model, which)
        place = int(which) % SLICES
        for kind in range(CLASSES):
            spells = weight * model.running[place, kind]
            table[kind, bucket, RUN] += spells
            table[kind, bucket, RUN_S] += spells * within_s
        which += 1.0


@subroutine
def _expose(model: Reuse) -> None:
    """Sum up the block-seconds of each class in each bucket, over ended and running spells."""
    for kind in range(CLASSES):
        beyond = model.outlived[kind]
        for bucket in range(BUCKETS - 1, -1, -1):
            cell, ended = model.table[kind, bucket], model.ended[kind, bucket]
            width_s = EDGES_S[bucket + 1] - EDGES_S[bucket]
            stopped = cell[RUN] + ended[COUNT]
            cell[RUN_S] += ended[WITHIN_S] + beyond * width_s
            beyond += stopped


@subroutine
def learn(model: Reuse, now_s: float) -> None:
    """Make hazard and survival anew from all spells up to now."""
    reach(model, now_s)
    model.clock[LEARNED_S] = now_s
    _forget(model)
    _count_running(model, now_s)
    _expose(model)
    every = model.table[CLASSES]
    expected = FIRST_HAZARD_PER_S
    for bucket in range(BUCKETS):
        ended = exposed_s = 0.0
        for kind in range(CLASSES):
            ended += model.ended[kind, bucket, COUNT]
            exposed_s += model.table[kind, bucket, RUN_S]
        if bucket > 0:
            younger_s = (EDGES_S[bucket - 1] + EDGES_S[bucket]) / 2
            age_s = (EDGES_S[bucket] + EDGES_S[bucket + 1]) / 2
            expected = max(every[bucket - 1, HAZARD] * younger_s, LEAST_PER_AGE) / age_s
        every[bucket, HAZARD] = (ended + TRUST) / (exposed_s + TRUST / expected)
    for kind in range(CLASSES):
        surviving = 1.0
        for bucket in range(BUCKETS):
            cell = model.table[kind, bucket]
            ended = model.ended[kind, bucket, COUNT]
            cell[HAZARD] = (ended + TRUST_IN_ALL) / (
                cell[RUN_S] + TRUST_IN_ALL / every[bucket, HAZARD]
            )
            model.survival[kind, bucket] = surviving
            cell[STAY] = np.exp(-cell[HAZARD] * (EDGES_S[bucket + 1] - EDGES_S[bucket]))
            surviving *= cell[STAY]
        model.survival[kind, BUCKETS] = surviving


@subroutine
def survival_at(model: Reuse, kind: int, age_s: float) -> float:
    """Probability that a block of a class is not asked for again before an age."""
    if age_s >= LONGEST_S:
        return float(model.survival[kind, BUCKETS])
    bucket = bucket_of(age_s)
    hazard = model.table[kind, bucket, HAZARD]
    return float(model.survival[kind, bucket] * np.exp(-hazard * (age_s - EDGES_S[bucket])))


@subroutine
def rank(model: Reuse) -> None:
    """Make ``density`` anew: hits per block-second from each bucket's younger end on."""
    for kind in range(CLASSES):
        for start in range(BUCKETS):
            hits = kept_s = 0.0
            best_hits, best_s = 0.0, 1.0
            surviving = 1.0
            for bucket in range(start, BUCKETS):
                cell = model.table[kind, bucket]
                hits += surviving * (1 - cell[STAY])
                kept_s += surviving * (1 - cell[STAY]) / cell[HAZARD]
                surviving *= cell[STAY]
                if hits * best_s > best_hits * kept_s:
                    best_hits, best_s = hits, kept_s
            model.density[kind, start] = best_hits / best_s
