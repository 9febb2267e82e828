"""``CacheRules``: what decides in a cache over DRAM and SSD, and the tiers made by it.

The replay's live side and the daemon make their caches here, so that both decide alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greencache.tiers.admission import Prices
from greencache.tiers.cache import TieredCache
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.dram import DramTier
from greencache.tiers.index import TierIndex
from greencache.tiers.learning import Learner
from greencache.tiers.policies import Policy
from greencache.tiers.ssd import SsdTier

__all__ = ["CacheRules"]


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What decides.

    Attributes
    ----------
    policy:
        Which block goes first.
    prices:
        What a block costs in joules, if prompts are stored on SSD by their worth; None to store
        all.
    endurance_per_s:
        Share of the SSD's capacity that may be written each second for its age.
    cost_base, cost_per_depth:
        Cost of recomputing a block, as `TierIndex` takes it.
    load_cost:
        Cost of loading one from SSD, in the same unit.
    """

    policy: Policy = Policy.LRU
    prices: Prices | None = None
    endurance_per_s: float = math.inf
    cost_base: float = 1.0
    cost_per_depth: float = 0.0
    load_cost: float = 0.0

    def cache(
        self,
        block_bytes: int,
        *,
        dram_bytes: int = 0,
        ssd_bytes: int = 0,
        ssd_path: Path | None = None,
        hbm: TierIndex | None = None,
        prefault: bool = True,
        flush_s: float | None = None,
        remembered_blocks: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> TieredCache:
        """A cache that is still to be opened.

        Parameters
        ----------
        block_bytes, dram_bytes, ssd_bytes:
            Bytes of a block; capacities.
        ssd_path:
            Folder of what is on SSD; None for DRAM alone.
        hbm, flush_s, remembered_blocks, clock:
            As for `TieredCache`.
        prefault:
            As for `DramTier`.
        """
        ranks = self.policy is Policy.CARBON
        learner = None
        if ranks or self.prices is not None:
            learner = Learner(self.prices, endurance_per_s=self.endurance_per_s, ranks=ranks)
        directory = KeyDirectory()
        dram_index, ssd_index = (
            TierIndex(
                0,
                self.policy,
                cost_base=self.cost_base,
                cost_per_depth=self.cost_per_depth,
                load_cost=load_cost,
                learner=learner,
            )
            for load_cost in (0.0, self.load_cost)
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
            learner=learner,
            hbm=hbm,
            # Candidates are drawn by their places, which the leases of writes behind would change.
            write_through=ranks,
            flush_s=flush_s,
            remembered_blocks=remembered_blocks,
            clock=clock,
        )
