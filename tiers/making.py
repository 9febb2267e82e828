"""Caches made by rules: the daemon's and those that replays play on, so that both decide alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from greencache.tiers.base import Tier
from greencache.tiers.cache import TieredCache
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.dram import DramTier
from greencache.tiers.index import TierIndex
from greencache.tiers.learning import Learner
from greencache.tiers.policies import Policy
from greencache.tiers.rules import CacheRules
from greencache.tiers.ssd import SsdTier

__all__ = ["new_cache"]


def new_cache(
    rules: CacheRules,
    block_bytes: int,
    *,
    dram_bytes: int = 0,
    ssd_bytes: int = 0,
    ssd_path: Path | None = None,
    shared: Tier | None = None,
    hbm: TierIndex | None = None,
    prefault: bool = True,
    flush_s: float | None = None,
    remembered_blocks: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TieredCache:
    """A cache that is still to be opened.

    Parameters
    ----------
    rules:
        What decides in it.
    block_bytes, dram_bytes, ssd_bytes:
        Bytes of a block; capacities.
    ssd_path:
        Folder of what is on SSD; None for DRAM alone.
    shared:
        The tier that hosts share, if there is one.
    hbm, flush_s, remembered_blocks, clock:
        As for `TieredCache`.
    prefault:
        As for `DramTier`.
    """
    ranks = rules.policy is Policy.CARBON
    learner = None
    if ranks or rules.prices is not None:
        learner = Learner(rules.prices, endurance_per_s=rules.endurance_per_s, ranks=ranks)
    directory = KeyDirectory()
    dram_index, ssd_index = (
        TierIndex(
            0,
            rules.policy,
            cost_base=rules.cost_base,
            cost_per_depth=rules.cost_per_depth,
            load_cost=load_cost,
            learner=learner,
        )
        for load_cost in (0.0, rules.load_cost)
    )
    ssd = None
    if ssd_path is not None:
        ssd = SsdTier(
            ssd_path,
            block_bytes,
            ssd_bytes,
            directory=directory,
            index=ssd_index,
            clock=clock,
        )
    return TieredCache(
        DramTier(
            block_bytes,
            dram_bytes,
            directory=directory,
            index=dram_index,
            clock=clock,
            prefault=prefault,
        ),
        ssd,
        shared=shared,
        learner=learner,
        hbm=hbm,
        # Candidates are drawn by their places, which the leases of writes behind would change.
        write_through=ranks,
        flush_s=flush_s,
        remembered_blocks=remembered_blocks,
        clock=clock,
    )
