"""Several simulated engines side by side, and the router that shares requests out among them.

Each replica is an engine with HBM, DRAM and SSD of its own; the arrays of all have one row each. A
request goes where it is expected to cost the least time: the prompt tokens that are still to be
computed there, those that it would add after what it hits in any tier, and one pass over the
contexts being decoded there. Routers that know prefixes weigh the same things: Mooncake's goes by
the expected TTFT (Qin et al., FAST 2025), NVIDIA Dynamo's by prompt blocks to compute
plus blocks being decoded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.bench.engine import run, spend
from greencache.bench.engine_state import (
    BACKLOG,
    CONTEXT,
    FINISHED,
    NOW_S,
    Config,
    Engine,
)
from greencache.bench.occupancy import enqueue
from greencache.compiled import kernel, subroutine
from greencache.controller.performance import Rates
from greencache.tiers.state import TierState, int64
from greencache.tiers.transactions import match

__all__ = ["Cluster", "advance", "settle"]


class Cluster(NamedTuple):
    """Equal engines; what differs between them has one row each, else as in `Engine`."""

    rates: Rates
    config: Config
    hbm: TierState
    dram: TierState
    ssd: TierState
    requests: NDArray[np.void]
    ids: NDArray[np.int32]
    bins: NDArray[np.void]
    clock: NDArray[np.float64]
    counts: NDArray[np.int64]
    prefilling: NDArray[np.int64]
    decoding: NDArray[np.int64]
    arrived: NDArray[np.int64]
    """How many requests have been routed, as an array of one."""


@subroutine
def _tier(tier: TierState, i: int) -> TierState:
    return TierState(
        tier.meta[i],
        tier.weights[i],
        tier.slot_of[i],
        tier.slots[i],
        tier.history[i],
        tier.heap[i],
    )


@subroutine
def _replica(cluster: Cluster, i: int) -> Engine:
    return Engine(
        cluster.rates,
        cluster.config,
        _tier(cluster.hbm, i),
        _tier(cluster.dram, i),
        _tier(cluster.ssd, i),
        cluster.requests,
        cluster.ids,
        cluster.bins[i],
        cluster.clock[i],
        cluster.counts[i],
        cluster.prefilling[i],
        cluster.decoding[i],
    )


@subroutine
def _uncached(engine: Engine, r: int) -> int:
    """Tokens of a prompt that no tier of the engine has now."""
    request = engine.requests[r]
    ids = engine.ids[request.first_id : request.end_id]
    found = match(engine.dram, ids, request.reusable)
    found = max(found, match(engine.ssd, ids, request.reusable))
    if engine.config.reuse_hbm:
        found = max(found, match(engine.hbm, ids, request.reusable))
    return request.input_tokens - found * engine.config.block_tokens


@subroutine
def _cost_s(engine: Engine, uncached: int, now_s: float) -> float:
    rates = engine.rates
    s_per_token = rates.flops_per_token / rates.flops_per_s + rates.link_s_per_token
    decode_s = engine.clock[CONTEXT] * rates.kv_bytes_per_token / rates.bytes_per_s
    busy_s = max(0.0, engine.clock[NOW_S] - now_s)
    return busy_s + (engine.clock[BACKLOG] + uncached) * s_per_token + decode_s


@subroutine
def _route(cluster: Cluster, r: int) -> None:
    """Let a request wait at the replica where it costs the least time; the first among equals."""
    chosen = expected = int64(0)
    least_s = np.inf
    for i in range(len(cluster.clock)):
        engine = _replica(cluster, i)
        uncached = _uncached(engine, r)
        cost_s = _cost_s(engine, uncached, cluster.requests[r].arrival_s)
        if cost_s < least_s:
            chosen, expected, least_s = i, uncached, cost_s
    cluster.requests[r].replica = chosen
    enqueue(_replica(cluster, chosen), r, expected)


@kernel
def advance(cluster: Cluster, until_s: float) -> None:
    """Simulate up to ``until_s``, or a step beyond; time ends where the last answer does."""
    requests, arrived = cluster.requests, cluster.arrived
    while True:
        more = arrived[0] < len(requests)
        arrives = more and requests[arrived[0]].arrival_s <= until_s
        upto_s = requests[arrived[0]].arrival_s if arrives else until_s
        for i in range(len(cluster.clock)):
            run(_replica(cluster, i), upto_s, more)
        if not arrives:
            return
        _route(cluster, arrived[0])
        arrived[0] += 1


@kernel
def settle(cluster: Cluster) -> float:
    """Let all replicas idle until the last of them has finished; when that is."""
    end_s = 0.0
    for i in range(len(cluster.clock)):
        if cluster.counts[i, FINISHED] > 0:
            end_s = max(end_s, cluster.clock[i, NOW_S])
    for i in range(len(cluster.clock)):
        engine = _replica(cluster, i)
        spend(engine, end_s - engine.clock[NOW_S], engine.rates.idle_w, 0.0)
    return end_s
