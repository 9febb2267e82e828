"""What a hit on SSD is worth where the SLO needs storage: the DRAM that would have to serve it.

Elsewhere a hit saves the energy of computing. But where no plan keeps the SLO without storage, what
SSD does not serve DRAM has to, which costs grams by its size and time. Were SSD's hits worth only
energy there, admission would store so little in a clean grid that plans take DRAM instead, whose
grams are several times those of the wear that was spared.
"""

from __future__ import annotations

import numpy as np

from greencache.controller.planner import Instance, Plan
from greencache.controller.prospects import ProspectsModel
from greencache.controller.reuse import ReuseProfile

__all__ = ["needs_storage", "served_g_per_byte"]

_LAST_OVER_MEAN = 10.0
"""What the last of the KV that DRAM serves costs, over the mean: with documents at a load of 0.8,
256 GiB add 11 % of prompt tokens, and 128 GiB more 0.5 %. Of 1, 3, 10, 30 and 100, 10 was best on a
seed and month that results are not of (docs/results.md)."""


def needs_storage(instance: Instance) -> bool:
    """Whether the first choice of all, the smallest sizes, would not keep the SLO."""
    choices = np.zeros(len(instance.requests), np.int64)
    return not instance.met_by(Plan.of(instance, choices, "smallest", -np.inf))


def served_g_per_byte(
    model: ProspectsModel, profile: ReuseProfile, requests: float, gco2_per_kwh: float
) -> float:
    """What DRAM that serves a byte more of KV costs in grams; 0 if no DRAM serves any.

    Parameters
    ----------
    model:
        Sizes and what they cost.
    profile:
        Reuse at these sizes.
    requests, gco2_per_kwh:
        Requests of an interval, and the grid's intensity: means of the time for which the DRAM
        would be there.
    """
    found = profile.found[:, 0].sum(axis=-1)
    tokens = (found[1:] - found[0]) * profile.input_tokens * requests
    sizes = model.dram_bytes[1:] - model.dram_bytes[0]
    interval_s, prices = model.service.limits.interval_s, model.prices
    joules = prices.storage_w(sizes, np.zeros_like(sizes)) * interval_s
    grams = prices.operational_g(joules, np.full_like(sizes, gco2_per_kwh))
    grams += prices.dram_g(sizes, interval_s)
    serves = tokens > 0
    if not serves.any():
        return 0.0
    layout = model.service.hardware.layout
    token_bytes = layout.block_bytes / layout.block_tokens
    return _LAST_OVER_MEAN * float(np.min(grams[serves] / tokens[serves])) / token_bytes
