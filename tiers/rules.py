"""``CacheRules``: what decides in a cache over DRAM and SSD."""

from __future__ import annotations

import math
from dataclasses import dataclass

from greencache.tiers.admission import Prices
from greencache.tiers.policies import Policy

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
