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

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.controller.miniatures import (
    HBM,
    Batch,
    Rules,
    collect,
    new_miniatures,
    resize_miniature,
    serve,
    teach,
    with_numbers,
)
from greencache.controller.prompts import Prompts
from greencache.controller.reuse import ReuseProfile, ReuseSums
from greencache.errors import InputError
from greencache.quantities import HOUR_S
from greencache.tiers.admission import Prices
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import SEEN, grow_reuse, new_reuse
from greencache.tiers.state import NONE

__all__ = ["BUDGET_BLOCKS", "ShadowCaches", "ShadowSizes", "StoringRules"]

BUDGET_BLOCKS = 1_000_000
"""Blocks in all miniatures together by default, about 100 bytes each."""

_ID_SLACK = 4096
"""Free numbers beyond what the largest miniature holds, and so how seldom they are collected."""


@dataclass(frozen=True, slots=True)
class StoringRules:
    """What decides about storing on SSD, see `greencache.tiers.admission`.

    Attributes
    ----------
    by_value:
        Whether prompts are stored by the value of it; else all are.
    prices:
        What a block costs.
    endurance_per_s:
        Share of the SSD's capacity that may be written each second for its age.
    """

    by_value: bool = False
    prices: Prices = field(default_factory=lambda: Prices(1.0, 0.0, 0.0, 0.0, 0.0))
    endurance_per_s: float = np.inf


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
    load_cost:
        Cost of loading a block from SSD, in the unit of ``cost_base``.
    storing:
        What decides about storing on SSD; None to store every prompt.

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
        recent: int = 4096,
        budget_blocks: int = BUDGET_BLOCKS,
        rate: float | None = None,
        load_cost: float = 0.0,
        storing: StoringRules | None = None,
    ) -> None:
        if half_life_s <= 0 or budget_blocks < 1 or block_tokens < 1:
            raise InputError("shadow caches need a half-life, a budget and blocks above 0")
        if rate is not None and not 0 < rate <= 1:
            raise InputError(f"a sampling rate is more than 0 and at most 1, not {rate}")
        self.sizes = sizes
        total = int(sizes.tiers.sum())
        self.rate = rate if rate is not None else min(1.0, budget_blocks / max(total, 1))
        ranks = policy is Policy.CARBON
        storing = storing or StoringRules()
        self._rules = Rules(
            first_ssd=1 + len(sizes.drams),
            threshold=np.uint64(min(int(self.rate * 2**64), 2**64 - 1)),
            learns=ranks or storing.by_value,
            ranks=ranks,
            by_value=storing.by_value,
            prices=storing.prices,
            endurance_per_s=storing.endurance_per_s,
        )
        self._model = new_reuse(0)
        self._capacities = np.round(sizes.tiers * self.rate).astype(np.int64)
        # A share R of a block's ancestors is followed, so each stands for 1/R of them.
        numbers = int(self._capacities.max()) + _ID_SLACK
        # Most policies know a block's place among the sampled ones; carbon knows it in the prompt.
        self._minis = new_miniatures(
            self._capacities,
            numbers,
            policy,
            cost_base=cost_base,
            cost_per_depth=cost_per_depth if ranks else cost_per_depth / self.rate,
            load_cost=load_cost,
            first_ssd=self._rules.first_ssd,
        )
        self._waiting = Prompts.none()
        self._sums = ReuseSums(
            block_tokens, sizes.drams, sizes.ssds, half_life_s=half_life_s, recent=recent
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of all of it: for each block id ever seen 4, and 24 more if reuse is learned."""
        arrays = [*self._minis, *self._minis.storing, *self._model]
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def follow(self, storing: StoringRules) -> None:
        """Take note of what decides about storing on SSD now; whether by value does not change."""
        self._rules = self._rules._replace(
            prices=storing.prices,
            endurance_per_s=storing.endurance_per_s,
        )

    def needed(self, ids: int) -> NDArray[np.bool_]:
        """Which of the ids below ``ids`` stand for blocks that a miniature holds or waits for."""
        collect(self._minis)
        needed = np.zeros(ids, np.bool_)
        known = self._minis.number_of[:ids]
        needed[: len(known)] = known != NONE
        needed[self._waiting.ids] = True
        return needed

    def forget(self, ids: NDArray[np.int32]) -> None:
        """Forget blocks whose ids will be given to others; none of them may be `needed`.

        Their running spells count on as ones that go without reuse, as they do.
        """
        self._model.seen[ids[ids < len(self._model.seen)]] = np.zeros(1, SEEN)

    def hold(self, blocks: float, now_s: float) -> None:
        """Set how much of HBM running requests keep from being a cache, in the mean.

        The rest is HBM's size as a cache, from now on.
        """
        left = max(0.0, self.sizes.hbm - blocks)
        resize_miniature(self._minis, self._model, HBM, round(left * self.rate), now_s)

    def _make_room(self, longest: int, highest: int) -> None:
        """Have numbers for a prompt of ``longest`` blocks, and room for ids below ``highest``."""
        minis = self._minis
        have = len(minis.number_of)
        if highest > have:
            more = np.full(max(highest, 2 * have) - have, NONE, np.int32)
            minis = minis._replace(number_of=np.concatenate([minis.number_of, more]))
        if self._rules.learns:
            self._model = grow_reuse(self._model, highest)
        if minis.depth[0] < longest:
            collect(minis)
        if minis.depth[0] < longest:
            minis = with_numbers(minis, max(longest, len(minis.id_of)))
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
        batch = Batch(
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
        done = int(serve(self._minis, self._model, batch, 0, self._rules))
        while done < len(events):
            self._make_room(longest, 0)
            done = int(serve(self._minis, self._model, batch, done, self._rules))
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
        if self._rules.learns:
            teach(self._minis, self._model, start_s + duration_s, self._rules)

    def profile(self) -> ReuseProfile:
        """What is known from the intervals closed so far."""
        return self._sums.profile()
