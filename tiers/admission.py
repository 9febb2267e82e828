"""What to store on SSD: what its reuse is worth against the wear of writing it.

A write is worth what it saves. Right after an access, a block on SSD is ahead of the same block not
there by ``A`` joules. With ``middle`` the probability that the next access comes when the tiers
above have dropped the block and SSD has not, ``any`` that it comes while SSD has it, ``move`` that
it then puts the block into class ``d``, ``gain`` what a load saves against recomputing, and
``cost`` what a write takes::

    A[c] = middle[c] * gain + any[c] * sum over d of move[c, d] * min(A[d], cost)

The second term is what the copy is worth at the next access: as much as it is ahead then, and no
more than what writing it only then would cost. Reuse that HBM or DRAM serve brings no gain: it is
little reason to write, as a later access will do. ``A / cost`` depends on ``gain / cost`` alone and
is tabulated over that, by iteration. A block is on SSD only if all before it are: of what follows
the prefix that is there, as much is stored as makes ``sum(A - cost)`` greatest.

What the tiers above hold is counted, by the age at which a block is asked for again (`note_held`):
one age at which they drop it would be far off, as a busy hour fills HBM in minutes and a quiet one
does not, and most reuse is early. What SSD holds is not counted by age, as it declines most blocks;
`kept_s` says how long it would keep one. When DRAM is resized the counts begin anew, from the age
at which its new size will drop blocks.

All is in joules of one grid and hour: grams of wear are converted by whoever knows the intensity.

*Wear.* A drive is spent by age or by writes, whichever comes first (`greencache.carbon`), so that
writes are free up to what age would spend anyway and cost their full share of a drive beyond. In
between, the right price is the one at which just so much is written. A credit finds it: it fills at
the rate that would spend the capacity evenly over its life, up to `CREDIT_S` of that, and writes
draw on it::

    price = full price * (1 - credit / most credit)

Where less is worth writing, the credit fills and the price falls; where more is, it empties and the
price rises, to the full one at most: what is worth that much is written. A tier that is resized
keeps its price: credit is scaled with the capacity. Else one that grew would be closed for
hours, until it had earned what its new size has the right price at.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.choices import parse_choice
from greencache.compiled import inlined, subroutine
from greencache.tiers.reuse import BUCKETS, CLASSES, EDGES_S, Reuse, bucket_of
from greencache.tiers.state import CAPACITY, EVICTED, EVICTED_AGE_S, HELD, USED, TierState
from greencache.tiers.worth import survival_at

__all__ = [
    "CREDIT_S",
    "Admission",
    "Prices",
    "Storing",
    "admit",
    "admit_until",
    "draw",
    "earn",
    "foresee",
    "forget_held",
    "kept_s",
    "new_storing",
    "note_computed",
    "note_held",
    "storing_of",
    "write_cost_j",
]

Ids = NDArray[np.int32]

CREDIT_S = 6 * 3600.0
"""Most credit, in time to earn it. Of 1, 6 and 24 h none was better or worse by more than 0.3 % of
grams on two days of conversation, documents and agents."""

PER_DOUBLING = 2
RATIOS = 33
"""Of gain to cost, from 2**-8 to 2**8: below, both grow alike; above, all is worth its write."""

STEPS = 4
"""Of the iteration whenever tables are made anew, from where the last one ended."""

RATE_HALF_LIFE_S = 3600.0
"""How fast the rate at which a tier is written to follows the load."""

# Positions in ``Storing.pace``.
CREDIT = 0  # blocks that may be written for nothing
EARNED_S = 1  # up to when it was earned
BLOCKS_PER_S = 2  # at what rate
PACE_LENGTH = 3

# Positions in the rows of ``Storing.flow``: counts since the start when last looked at, then what
# was added since, halved every half-life.
STORED = 0
GONE = 1
GONE_AGE_S = 2
BLOCKS = 3  # stored
SECONDS = 4
AGE_S = 5  # of blocks evicted, by their last access
TURNOVER_S = 6  # what `_turnover_s` said when they went
OF_CAPACITY = 7  # what the tier could hold when last looked at
FLOW_LENGTH = 8

NEVER = -1.0

# Positions in the rows of ``Storing.above``.
ASKED = 0
HELD_ABOVE = 1

TRUST = 16.0
"""Blocks' worth of trust in how long tiers above keep theirs, against what they held."""

# Positions in the rows of ``Storing.odds``.
MIDDLE = 0
ANY = 1


class Admission(StrEnum):
    """What is stored on SSD, by the name that users give."""

    ALL = "all"
    """Every prompt that is computed."""
    VALUE = "value"
    """What is worth its write."""

    @classmethod
    def parse(cls, name: str) -> Admission:
        """Find one by name.

        Raises
        ------
        UnknownNameError
            If there is none of that name.
        """
        return parse_choice(cls, "admission", name)


class Prices(NamedTuple):
    """What a block costs, in joules."""

    compute_j: float
    """To compute the first of a prompt."""
    compute_j_per_depth: float
    """What each block before it adds."""
    load_j: float
    """To load it from SSD."""
    write_j: float
    """To write it there."""
    wear_j: float
    """What that takes of a drive's life, where writes and not age will end it."""
    served_j: float = 0.0
    """What finding it is worth at least: what else would have to serve it takes as much."""


class Storing(NamedTuple):
    """What admission knows besides the model of reuse."""

    odds: NDArray[np.float64]
    """By class: ``middle`` and ``any``."""
    ahead: NDArray[np.float64]
    """By class and ratio of gain to cost: ``A / cost``."""
    above: NDArray[np.float64]
    """By bucket of age: blocks asked for again at it, and those of them that tiers above held."""
    flow: NDArray[np.float64]
    """For each tier, how fast it is written to."""
    pace: NDArray[np.float64]
    """The credit."""


def new_storing(tiers: int) -> Storing:
    """Nothing known, and no credit yet."""
    flow = np.zeros((tiers, FLOW_LENGTH))
    flow[:, OF_CAPACITY] = NEVER
    return Storing(
        odds=np.zeros((CLASSES, 2)),
        ahead=np.zeros((CLASSES, RATIOS)),
        above=np.zeros((BUCKETS, 2)),
        flow=flow,
        pace=np.zeros(PACE_LENGTH),
    )


@subroutine
def storing_of(rows: Storing, i: int) -> Storing:
    """What is known in the ``i``-th of several places whose arrays are rows of one."""
    return Storing(rows.odds[i], rows.ahead[i], rows.above[i], rows.flow[i], rows.pace[i])


@inlined
def _turnover_s(flow: NDArray[np.float64], capacity_blocks: float) -> float:
    if flow[BLOCKS] <= 0:
        return np.inf
    return float(capacity_blocks * flow[SECONDS] / flow[BLOCKS])


@inlined
def resized(tier: TierState, flow: NDArray[np.float64]) -> bool:
    """Whether the tier's capacity is another one than when `kept_s` was asked last."""
    return bool(flow[OF_CAPACITY] != NEVER and flow[OF_CAPACITY] != tier.meta[CAPACITY])


@subroutine
def kept_s(tier: TierState, flow: NDArray[np.float64], seconds: float) -> float:
    """How long a tier keeps a block that is not asked for; ``seconds`` since this was asked last.

    As many others are stored in the time as there is room for: also if the tier is not full yet, or
    was just resized. That is how long it keeps a block in all. What was asked for meanwhile stays
    longer and leaves the less time to the others: how much less shows in the age of those evicted,
    over what it would be by that rule.
    """
    meta = tier.meta
    flow[OF_CAPACITY] = meta[CAPACITY]
    capacity_blocks = float(meta[CAPACITY] - meta[HELD])
    if meta[CAPACITY] == 0:
        return 0.0
    stored, gone = float(meta[EVICTED] + meta[USED]), float(meta[EVICTED])
    gone_age_s = tier.weights[EVICTED_AGE_S]
    faded = 2.0 ** (-seconds / RATE_HALF_LIFE_S)
    flow[BLOCKS] = faded * flow[BLOCKS] + stored - flow[STORED]
    flow[SECONDS] = faded * flow[SECONDS] + seconds
    turnover_s = _turnover_s(flow, capacity_blocks)
    flow[AGE_S] *= faded
    flow[TURNOVER_S] *= faded
    if gone > flow[GONE]:
        flow[AGE_S] += gone_age_s - flow[GONE_AGE_S]
        flow[TURNOVER_S] += (gone - flow[GONE]) * turnover_s
    flow[STORED], flow[GONE], flow[GONE_AGE_S] = stored, gone, gone_age_s
    if flow[TURNOVER_S] > 0:
        turnover_s *= flow[AGE_S] / flow[TURNOVER_S]
    return turnover_s


@inlined
def ratio_at(place: int) -> float:
    """Ratio of gain to cost at a place of the table."""
    return float(2.0 ** ((place - RATIOS // 2) / PER_DOUBLING))


@subroutine
def _look_ahead(model: Reuse, storing: Storing) -> None:
    """One step of the iteration for ``ahead``; it converges, as each ``any`` is below 1."""
    for kind in range(CLASSES):
        moves = 0.0
        for following in range(CLASSES):
            moves += model.moves[kind, following]
        middle, again = storing.odds[kind, MIDDLE], storing.odds[kind, ANY] / max(moves, 1e-9)
        for place in range(RATIOS):
            ahead = 0.0
            for following in range(CLASSES):
                ahead += model.moves[kind, following] * min(storing.ahead[following, place], 1.0)
            storing.ahead[kind, place] = middle * ratio_at(place) + again * ahead


@subroutine
def note_held(storing: Storing, seen: NDArray[np.void], ids: Ids, held: int, now_s: float) -> None:
    """Note that of a request's blocks tiers above hold ``ids[:held]``; not yet in ``seen``.

    A block that is still computed for the request before counts as held: no SSD could have it.
    """
    last_s, bucket = np.inf, 0
    for i in range(len(ids)):
        block = seen[ids[i]]
        if block.accesses == 0:
            break
        if block.last_s != last_s:
            last_s = block.last_s
            bucket = bucket_of(now_s - last_s)
        storing.above[bucket, ASKED] += 1
        if i < held or block.stored == 0:
            storing.above[bucket, HELD_ABOVE] += 1


@subroutine
def forget_held(storing: Storing) -> None:
    """Forget what tiers above held, as they will hold more or less from now on."""
    storing.above[:] = 0.0


@subroutine
def foresee(model: Reuse, storing: Storing, above_s: float, own_s: float, seconds: float) -> None:
    """Look ahead for a tier that keeps blocks ``own_s`` under others that keep them ``above_s``.

    The others are known by what they held of each age; where nothing of an age was asked for of
    late, ``above_s`` stands for that. It is ``seconds`` since this was done last.
    """
    faded = 2.0 ** (-seconds / RATE_HALF_LIFE_S)
    for kind in range(CLASSES):
        storing.odds[kind, MIDDLE] = 0.0
        storing.odds[kind, ANY] = 1 - survival_at(model, kind, own_s)
    for bucket in range(BUCKETS):
        lower_s, upper_s = EDGES_S[bucket], min(EDGES_S[bucket + 1], own_s)
        if lower_s >= own_s:
            break
        expected = min(max((above_s - lower_s) / (upper_s - lower_s), 0.0), 1.0)
        asked, held = storing.above[bucket, ASKED], storing.above[bucket, HELD_ABOVE]
        missing = 1 - (held + TRUST * expected) / (asked + TRUST)
        for kind in range(CLASSES):
            asked_for = survival_at(model, kind, lower_s) - survival_at(model, kind, upper_s)
            storing.odds[kind, MIDDLE] += missing * asked_for
        storing.above[bucket, ASKED] *= faded
        storing.above[bucket, HELD_ABOVE] *= faded
    for _ in range(STEPS):
        _look_ahead(model, storing)


@inlined
def _ahead_of(storing: Storing, kind: int, ratio: float) -> float:
    """``A / cost`` of a block of a class, between the places of the table."""
    least = ratio_at(0)
    if ratio <= least:
        return float(storing.ahead[kind, 0] * ratio / least)
    place = min(int(np.floor(PER_DOUBLING * np.log2(ratio))) + RATIOS // 2, RATIOS - 2)
    lower, upper = ratio_at(place), ratio_at(place + 1)
    share = min((ratio - lower) / (upper - lower), 1.0)
    return float(storing.ahead[kind, place] * (1 - share) + storing.ahead[kind, place + 1] * share)


@subroutine
def admit_until(
    seen: NDArray[np.void],
    storing: Storing,
    prices: Prices,
    cost_j: float,
    ids: Ids,
    found: int,
) -> int:
    """How far to store ``ids``, of which ``ids[:found]`` is there; the longest of equally good."""
    if cost_j <= 0:
        return len(ids)
    best = total = 0.0
    until = found
    for i in range(found, len(ids)):
        block = seen[ids[i]]
        gain_j = prices.compute_j + prices.compute_j_per_depth * block.depth - prices.load_j
        total += _ahead_of(storing, int(block.kind), max(prices.served_j, gain_j) / cost_j) - 1
        if total >= best:
            best, until = total, i + 1
    return until


@inlined
def earn(pace: NDArray[np.float64], blocks_per_s: float, now_s: float) -> None:
    """Let credit fill up to now, at the rate that spends the capacity evenly over its life.

    Credit goes with the capacity: it is as much of the new one as it was of the old one.
    """
    if blocks_per_s == 0:
        return
    if pace[BLOCKS_PER_S] > 0 and not np.isinf(blocks_per_s):
        pace[CREDIT] *= blocks_per_s / pace[BLOCKS_PER_S]
    earned = blocks_per_s * (now_s - pace[EARNED_S])
    pace[CREDIT] = min(pace[CREDIT] + earned, blocks_per_s * CREDIT_S)
    pace[EARNED_S], pace[BLOCKS_PER_S] = now_s, blocks_per_s


@inlined
def write_cost_j(pace: NDArray[np.float64], prices: Prices, blocks_per_s: float) -> float:
    """Joules that writing a block costs now: energy, and wear at the price of the moment."""
    if prices.wear_j == 0 or np.isinf(blocks_per_s):
        return prices.write_j
    most = blocks_per_s * CREDIT_S
    share = 1.0 if most == 0 else min(max(1 - pace[CREDIT] / most, 0.0), 1.0)
    return prices.write_j + prices.wear_j * share


@inlined
def draw(pace: NDArray[np.float64], blocks: float) -> None:
    """Blocks are written; credit that is not there was paid for by the full price."""
    pace[CREDIT] = max(0.0, pace[CREDIT] - blocks)


@subroutine
def note_computed(seen: NDArray[np.void], ids: Ids) -> None:
    """Note that these blocks were computed, so that from now on an SSD might have them."""
    for i in range(len(ids)):
        seen[ids[i]].stored = 1


@subroutine
def admit(
    seen: NDArray[np.void],
    storing: Storing,
    prices: Prices,
    blocks_per_s: float,
    ids: Ids,
    found: int,
    now_s: float,
) -> int:
    """`admit_until` at the price of the moment; ``blocks_per_s`` spend the capacity evenly."""
    earn(storing.pace, blocks_per_s, now_s)
    cost_j = write_cost_j(storing.pace, prices, blocks_per_s)
    return admit_until(seen, storing, prices, cost_j, ids, found)
