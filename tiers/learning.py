"""What a cache learns from requests, for the order of its tiers and for what it stores on SSD.

One model of reuse is behind all tiers of a cache: a request says as much of a block that SSD holds
as of one that HBM does. `learn_from` is what the replay's engines call; `Learner` is its face for
Python, and so for the live cache.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.tiers.admission import (
    Prices,
    Storing,
    admit,
    draw,
    foresee,
    forget_held,
    kept_s,
    new_storing,
    note_computed,
    note_held,
    resized,
)
from greencache.tiers.reuse import LEARNED_S, SEEN, Reuse, grow_reuse, new_reuse, observe
from greencache.tiers.state import TierState
from greencache.tiers.worth import is_due, learn, rank

__all__ = ["Learner", "learn_from"]

Ids = NDArray[np.int32]

HBM = 0  # rows of ``Storing.flow``
DRAM = 1
SSD = 2


@subroutine
def learn_from(
    model: Reuse,
    storing: Storing,
    hbm: TierState,
    dram: TierState,
    ssd: TierState,
    reuse_hbm: bool,
    ranks: bool,
    ids: Ids,
    held: int,
    now_s: float,
) -> None:
    """Note that a request for ``ids`` has started, of which HBM or DRAM held ``ids[:held]``.

    Now and then, work out what storing blocks on SSD is worth, below a DRAM and an HBM that the
    engine may reuse or not; and, if tiers ``rank`` by it, what keeping them is.
    """
    note_held(storing, model.seen, ids, held, now_s)
    observe(model, ids, 0, len(ids), now_s)
    # A tier that was nothing until now keeps blocks from now on: admission has to know at once. And
    # what DRAM of another size held says nothing of what this one will.
    other_dram = resized(dram, storing.flow[DRAM])
    if other_dram:
        forget_held(storing)
    if not (other_dram or resized(ssd, storing.flow[SSD]) or is_due(model, now_s)):
        return
    seconds = now_s - model.clock[LEARNED_S]
    learn(model, now_s)
    above_s = kept_s(dram, storing.flow[DRAM], seconds)
    if reuse_hbm:
        above_s = max(above_s, kept_s(hbm, storing.flow[HBM], seconds))
    own_s = kept_s(ssd, storing.flow[SSD], seconds)
    foresee(model, storing, above_s, own_s, seconds)
    if ranks:
        rank(model)


@kernel
def _learn_request(
    model: Reuse,
    storing: Storing,
    hbm: TierState,
    dram: TierState,
    ssd: TierState,
    ranks: bool,
    ids: Ids,
    held: int,
    now_s: float,
) -> None:
    learn_from(model, storing, hbm, dram, ssd, True, ranks, ids, held, now_s)


@kernel
def _admit_prompt(
    model: Reuse,
    storing: Storing,
    prices: Prices,
    blocks_per_s: float,
    ids: Ids,
    found: int,
    now_s: float,
) -> int:
    note_computed(model.seen, ids)
    return admit(model.seen, storing, prices, blocks_per_s, ids, found, now_s)


@kernel
def _draw(storing: Storing, blocks: float) -> None:
    draw(storing.pace, blocks)


class Learner:
    """Learns from the requests of one cache.

    Parameters
    ----------
    prices:
        What a block costs in joules; None if everything is to be stored.
    endurance_per_s:
        Share of an SSD's capacity that may be written each second to spend it evenly over its
        life; infinite if wear is of no account.
    ranks:
        Whether tiers evict by what blocks are worth (policy ``carbon``).
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        endurance_per_s: float = math.inf,
        ranks: bool = False,
    ) -> None:
        self.prices, self.endurance_per_s, self.ranks = prices, endurance_per_s, ranks
        self.model = new_reuse(0)
        self.storing = new_storing(tiers=3)

    def make_room(self, ids: int) -> None:
        """Make room for ids below ``ids``."""
        self.model = grow_reuse(self.model, ids)

    def learn(
        self, ids: Ids, held: int, now_s: float, *, hbm: TierState, dram: TierState, ssd: TierState
    ) -> None:
        """Note a request.

        Parameters
        ----------
        ids:
            All its full blocks.
        held:
            How many leading ones HBM or DRAM held when it started.
        now_s:
            When it started; time must not go back.
        hbm, dram, ssd:
            The tiers; an empty one for none.
        """
        self.make_room(int(ids.max(initial=-1)) + 1)
        _learn_request(self.model, self.storing, hbm, dram, ssd, self.ranks, ids, held, now_s)

    def admit(self, ids: Ids, found: int, capacity_blocks: int, now_s: float) -> int:
        """How far to store a prompt that was computed on an SSD that has ``ids[:found]``."""
        if self.prices is None:
            return len(ids)
        self.make_room(int(ids.max(initial=-1)) + 1)
        blocks_per_s = self.endurance_per_s * capacity_blocks
        prices = Prices(*map(float, self.prices))
        admitted = _admit_prompt(
            self.model, self.storing, prices, float(blocks_per_s), ids, found, now_s
        )
        return int(admitted)

    def wrote(self, blocks: int) -> None:
        """Note that blocks are written to SSD."""
        if self.prices is not None:
            _draw(self.storing, float(blocks))

    def last_asked_s(self, ids: Ids) -> NDArray[np.float64]:
        """When blocks were last asked for; minus infinity for those that never were."""
        last_s = np.full(len(ids), -np.inf)
        known = ids < len(self.model.seen)
        seen = self.model.seen[ids[known]]
        last_s[known] = np.where(seen["accesses"] > 0, seen["last_s"], -np.inf)
        return last_s

    def forget(self, ids: Ids) -> None:
        """Forget blocks whose ids will be given to others.

        Their running spells count on as ones that go without reuse, as they do.
        """
        self.model.seen[ids[ids < len(self.model.seen)]] = np.zeros(1, SEEN)
