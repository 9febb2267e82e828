"""Which block goes first when a tier is full.

All policies work on the *candidates*: blocks that nobody reads and that nothing builds on (a block
whose parent is gone can never hit, so a tier is emptied from the leaves). They differ in the order
among candidates. A block counts as accessed when it is stored and at each hit.

``lru``
    The one touched longest ago. Within one request the deeper block counts as touched earlier, so
    that the whole order is that of the prefixes.
``lfu``
    The one with fewest accesses, then the one touched longest ago.
``gdsf``
    Greedy-Dual-Size-Frequency (Cherkasova, HP Labs TR 98-69, 1998): lowest
    ``inflation + accesses * cost / size``, where ``inflation`` is the highest value evicted so
    far. All blocks of a tier have one size; the cost is that of recomputing the block, which
    grows with its depth because attention runs over all that precedes it.
``sieve``
    SIEVE (Zhang et al., NSDI 2024): a queue in order of insertion and a hand that moves from old
    to new, clears the mark of blocks visited since it last passed and evicts the first unmarked
    one. Blocks that are not candidates are passed over and keep their mark. Where few blocks are
    ever hit, the hand never comes round and those that were hit stay: on the Mooncake conversation
    trace it makes the same choices as ``lfu``.
``lcs``
    Least Carbon Savings, see `savings`.
``carbon``
    Least carbon value, see `carbon_value`.
"""

from __future__ import annotations

from enum import StrEnum

from greencache.choices import parse_choice
from greencache.compiled import inlined, subroutine
from greencache.tiers.reuse import bucket_of
from greencache.tiers.state import (
    CANDIDATES,
    CARBON,
    CHOSEN_S,
    COST_BASE,
    COST_PER_DEPTH,
    DRAWS,
    GDSF,
    HAND,
    HEIR,
    INFLATION,
    LCS,
    LOAD_COST,
    LRU,
    NEWEST,
    NONE,
    OLDEST,
    POLICY,
    SIEVE,
    USED,
    TierState,
    int64,
)

__all__ = [
    "Policy",
    "carbon_value",
    "choose_victim",
    "goes_before",
    "hand_over",
    "keeps_order",
    "note_hit",
    "note_insertion",
    "note_touch",
    "savings",
]

VISITED = 1.0
"""Mark of a block that was hit since sieve's hand passed; else 0."""

SAMPLE = 64
"""Candidates that lcs and carbon compare for one eviction. Their order changes as time passes, so
no heap can hold it; the lowest of 64 drawn at random lies in the lowest 1/64 on average, and with
64 candidates or fewer the choice is exact. Redis bounds its LRU and LFU alike (5 by default)."""

LCS_MIN_AGE_S = 1e-3
"""Floor on the age in `savings`: what was touched this instant has age 0, and several such blocks
must still compare by their accesses."""


class Policy(StrEnum):
    """Eviction policies, by the name that users give."""

    LRU = "lru"
    LFU = "lfu"
    GDSF = "gdsf"
    SIEVE = "sieve"
    LCS = "lcs"
    CARBON = "carbon"

    @classmethod
    def parse(cls, name: str) -> Policy:
        """Find a policy by name.

        Raises
        ------
        UnknownNameError
            If there is none of that name.
        """
        return parse_choice(cls, "policy", name)

    @property
    def code(self) -> int:
        """The number that compiled code knows it by."""
        return list(Policy).index(self)


@inlined
def keeps_order(state: TierState) -> bool:
    """Whether candidates are kept in a heap: true where time alone does not change their order."""
    return state.meta[POLICY] < SIEVE


@inlined
def note_insertion(state: TierState, slot: int, now_s: float) -> None:
    """A block is stored: its first access."""
    policy = state.meta[POLICY]
    if policy in (LRU, CARBON):
        return
    block = state.history[slot]
    block.accesses = 1
    block.touched_s = now_s
    block.mark = state.weights[INFLATION] if policy == GDSF else 0.0
    parent = int64(state.slots[slot].parent)
    block.depth = 0 if parent == NONE else state.history[parent].depth + 1


@inlined
def note_hit(state: TierState, slot: int) -> None:
    """A prefix that ends with this block was hit."""
    policy = state.meta[POLICY]
    if policy in (LRU, CARBON):
        return
    block = state.history[slot]
    block.accesses += 1
    if policy == GDSF:
        block.mark = state.weights[INFLATION]
    elif policy == SIEVE:
        block.mark = VISITED


@inlined
def note_touch(state: TierState, slot: int, tick: int, now_s: float) -> None:
    """A prefix that ends with this block was used."""
    state.slots[slot].touched = tick
    if state.meta[POLICY] == LCS:
        state.history[slot].touched_s = now_s
    elif state.meta[POLICY] == CARBON:
        state.meta[HEIR] = NONE  # a block asked for again may be worth less than before


@inlined
def hand_over(state: TierState, slot: int, parent: int) -> None:
    """Tell the parent of a block that goes what happened to the block, and so to the parent too."""
    # Within one request a block counts as touched just after the deeper one.
    state.slots[parent].touched = max(state.slots[parent].touched, state.slots[slot].touched + 1)
    policy = state.meta[POLICY]
    if policy == LRU:
        return
    if policy == CARBON:
        state.meta[HEIR] = parent
        return
    block, heir = state.history[slot], state.history[parent]
    heir.touched_s = max(heir.touched_s, block.touched_s)
    hits = block.accesses - 1
    if hits > 0:
        heir.accesses += hits
        heir.mark = VISITED if policy == SIEVE else max(heir.mark, block.mark)


@subroutine
def _value(state: TierState, slot: int) -> float:
    """What lfu and gdsf keep a candidate for; the lowest goes first, equal ones by last touch."""
    block = state.history[slot]
    if state.meta[POLICY] != GDSF:
        return float(block.accesses)
    cost = state.weights[COST_BASE] + state.weights[COST_PER_DEPTH] * block.depth
    return block.mark + block.accesses * cost


@inlined
def goes_before(state: TierState, a: int, b: int) -> bool:
    """Whether candidate ``a`` is evicted before candidate ``b``, where candidates have an order."""
    if state.meta[POLICY] != LRU:
        of_a, of_b = _value(state, a), _value(state, b)
        if of_a != of_b:
            return of_a < of_b
    return state.slots[a].touched < state.slots[b].touched


@subroutine
def savings(state: TierState, slot: int, now_s: float) -> float:
    """Value that Least Carbon Savings keeps a block for; the lowest goes first.

    The published idea (GreenCache, arXiv 2505.23970) sets what a cached item has saved, tokens
    and hits, against what keeping it costs, size and age. Its formula could not be read in print;
    ours is the plainest that says the same::

        S = tokens_saved * hits / (size * age)

    For a block: it has served ``n`` accesses of ``block_tokens`` each, so ``tokens_saved`` is
    ``n * block_tokens``; ``hits`` is ``n``; ``size`` is one block, the same for all in a tier; the
    age is the time since its last access. What is common to all blocks does not change the order
    and is left out, which gives ``n**2 / age`` in accesses squared per second. Insertion counts as
    an access, so that blocks not hit yet are ordered by age instead of all being worth nothing.

    The authors' code differs: its score mixes units, rises with the tokens of the last hit (a
    larger hit made an item more likely to go), and is compared between items scored at different
    times. Here every candidate compared is scored at ``now_s``.
    """
    age_s = max(now_s - state.history[slot].touched_s, LCS_MIN_AGE_S)
    accesses = float(state.history[slot].accesses)
    return accesses * accesses / age_s


@subroutine
def _draw(state: TierState, bound: int) -> int:
    # Knuth's 64-bit linear congruential step; its high bits are random enough to sample with.
    state.meta[DRAWS] = state.meta[DRAWS] * 6364136223846793005 + 1442695040888963407
    return ((state.meta[DRAWS] >> 33) & 0x7FFFFFFF) % bound


@subroutine
def carbon_value(state: TierState, slot: int, now_s: float) -> float:
    """Value that ``carbon`` keeps a candidate for; the lowest goes first.

    What a block saves, in grams for each block-second of room that it takes::

        value = density * (recompute_j - load_j) * gco2_per_j - hold_g_per_s

    ``density`` in hits per block-second is the probability of its reuse within the horizon that
    suits it best over the time it is expected to be kept, by its class and age (see
    `greencache.tiers.worth`); ``recompute_j`` is the marginal energy of computing it, ``cost_base +
    cost_per_depth * depth`` since attention runs over all before it; ``load_j`` that of loading it
    from this tier, and no block is worth less than nothing. ``gco2_per_j`` is the grid's intensity,
    expected over that horizon, and ``hold_g_per_s`` what a block of room costs in embodied carbon
    and idle power.

    All blocks of a tier have one size and so the same ``hold_g_per_s``, and when a tier is full
    that room is paid for whichever goes. The intensity is that of the same hours to come. Both are
    common to all candidates, leave their order as it is and are left out. So is the unit of the
    costs: joules, or operations.
    """
    block = state.seen[state.slots[slot].id]
    cost = state.weights[COST_BASE] + state.weights[COST_PER_DEPTH] * block.depth
    spared = max(0.0, cost - state.weights[LOAD_COST])
    return float(state.density[block.kind, bucket_of(now_s - block.last_s)] * spared)


@inlined
def _sampled_value(state: TierState, slot: int, now_s: float) -> float:
    if state.meta[POLICY] == CARBON:
        return carbon_value(state, slot, now_s)
    return savings(state, slot, now_s)


@subroutine
def _least_of_sample(state: TierState, now_s: float) -> int:
    count = state.meta[CANDIDATES]
    exact = count <= SAMPLE
    best = NONE
    least = 0.0
    for i in range(min(count, SAMPLE)):
        slot = int64(state.heap[i if exact else _draw(state, count)])
        value = _sampled_value(state, slot, now_s)
        older = (
            best != NONE
            and value == least
            and state.slots[slot].touched < state.slots[best].touched
        )
        if best == NONE or value < least or older:
            best = slot
            least = value
    state.weights[INFLATION] = least
    return best


@inlined
def _heir_if_least(state: TierState, now_s: float) -> int:
    """The parent of the block that went last if it is worth less than that was, else `NONE`.

    It mostly is: of one prompt, asked for at the same times and cheaper to compute, as attention
    spans less. Nothing that was compared then is worth less now, if it is still that moment and
    nothing else may go that could not then. So a prompt goes whole for one search.
    """
    heir, chosen_s = state.meta[HEIR], state.weights[CHOSEN_S]
    state.meta[HEIR] = NONE
    state.weights[CHOSEN_S] = now_s
    if heir == NONE or now_s != chosen_s or state.slots[heir].place == NONE:
        return NONE
    value = carbon_value(state, heir, now_s)
    if value >= state.weights[INFLATION]:
        return NONE
    state.weights[INFLATION] = value
    return heir


@subroutine
def _sieve_hand(state: TierState) -> int:
    # The first pass may only clear marks; the second then finds a candidate, since there is one.
    slot = state.meta[HAND]
    for _ in range(2 * state.meta[USED] + 1):
        if slot == NONE:
            slot = state.meta[OLDEST]
        if state.slots[slot].place != NONE:
            if state.history[slot].mark != VISITED:
                state.meta[HAND] = state.history[slot].newer
                return slot
            state.history[slot].mark = 0.0
        slot = state.history[slot].newer
    return NONE


@subroutine
def _unordered_victim(state: TierState, now_s: float) -> int:
    """The candidate to evict under a policy that keeps them in no order."""
    policy = state.meta[POLICY]
    if policy == SIEVE:
        return _sieve_hand(state)
    if policy == CARBON:
        heir = _heir_if_least(state, now_s)
        if heir != NONE:
            return heir
    return _least_of_sample(state, now_s)


@inlined
def choose_victim(state: TierState, now_s: float) -> int:
    """Slot of the candidate to evict now, or `NONE` if there is no candidate."""
    if state.meta[CANDIDATES] == 0:
        return NONE
    if not keeps_order(state):
        return _unordered_victim(state, now_s)
    victim = int64(state.heap[0])
    if state.meta[POLICY] == GDSF:
        # A cheaper parent may follow its child: the clock must not go back for it.
        state.weights[INFLATION] = max(state.weights[INFLATION], _value(state, victim))
    return victim


@subroutine
def enqueue(state: TierState, slot: int, before: int) -> None:
    """Enter a new block into the sieve queue: just older than ``before``, or as the newest."""
    if before == NONE:
        older = state.meta[NEWEST]
        state.meta[NEWEST] = slot
    else:
        older = state.history[before].older
        state.history[before].older = slot
    state.history[slot].newer = before
    state.history[slot].older = older
    if older == NONE:
        state.meta[OLDEST] = slot
    else:
        state.history[older].newer = slot


@subroutine
def dequeue(state: TierState, slot: int) -> None:
    """Take a block out of the sieve queue; the hand moves on if it pointed there."""
    newer, older = state.history[slot].newer, state.history[slot].older
    if state.meta[HAND] == slot:
        state.meta[HAND] = newer
    if newer == NONE:
        state.meta[NEWEST] = older
    else:
        state.history[newer].older = older
    if older == NONE:
        state.meta[OLDEST] = newer
    else:
        state.history[older].newer = newer
