"""Requests served from DRAM and SSD by the real index of each, with storing that takes no time."""

from __future__ import annotations

from typing import Any

from greencache.bench.curve import request_arrays
from greencache.compiled import kernel
from greencache.tiers.policies import Policy
from greencache.tiers.state import TierState, allocate
from greencache.tiers.transactions import acquire, store, unlease
from greencache.traces.requests import RequestTrace

__all__ = ["two_tier_hits"]


@kernel
def _serve(dram: TierState, ssd: TierState, requests: tuple[Any, ...]) -> int:
    arrival_s, ids, starts, full, reusable = requests
    hits = 0
    for r in range(len(arrival_s)):
        now_s, stop = arrival_s[r], full[r]
        chain = ids[starts[r] : starts[r] + stop]
        in_dram = acquire(dram, chain, reusable[r], now_s)
        in_ssd = acquire(ssd, chain, reusable[r], now_s)
        hits += max(in_dram, in_ssd)
        store(dram, chain, stop, now_s)
        store(ssd, chain, stop, now_s)
        unlease(dram, chain, in_dram, now_s)
        unlease(ssd, chain, in_ssd, now_s)
    return hits


def two_tier_hits(trace: RequestTrace, policy: Policy, dram_blocks: int, ssd_blocks: int) -> int:
    """Blocks that hit as part of a leading prefix in DRAM or on SSD.

    Each request finds and leases its prefix in both tiers, is stored in both, and ends its leases.
    """
    dram = allocate(dram_blocks, trace.unique_blocks, policy.code)
    ssd = allocate(ssd_blocks, trace.unique_blocks, policy.code)
    return int(_serve(dram, ssd, request_arrays(trace)))
