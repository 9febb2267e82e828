"""Several simulated engines side by side, and the router that shares requests out among them.

Each replica is an engine with HBM, DRAM and SSD of its own. All of them are one `Engine` here, in
which what differs between replicas has a row for each: tiers, bins, clock, counts and batches. A
request goes where it is expected to cost the least time: the prompt tokens that are still to be
computed there, those that it would add after what it hits in any tier, and one pass over the
contexts being decoded there. Routers that know prefixes weigh the same things: Mooncake's goes by
the expected TTFT (Qin et al., FAST 2025), NVIDIA Dynamo's by prompt blocks to compute
plus blocks being decoded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench.engine import run, spend
from greencache.bench.engine_state import (
    BACKLOG,
    CONTEXT,
    FINISHED,
    NOW_S,
    Engine,
)
from greencache.bench.occupancy import enqueue
from greencache.compiled import kernel, subroutine
from greencache.tiers.admission import storing_of
from greencache.tiers.reuse import Reuse
from greencache.tiers.state import TierState, int64
from greencache.tiers.transactions import match, resize

__all__ = ["advance", "resize_tiers", "settle"]


@subroutine
def _tier(tier: TierState, i: int) -> TierState:
    return TierState(
        tier.meta[i],
        tier.weights[i],
        tier.slot_of[i],
        tier.slots[i],
        tier.history[i],
        tier.heap[i],
        tier.seen[i],
        tier.density[i],
    )


@subroutine
def _reuse(model: Reuse, i: int) -> Reuse:
    return Reuse(
        model.seen[i],
        model.ended[i],
        model.running[i],
        model.outlived[i],
        model.moves[i],
        model.clock[i],
        model.half_life_s[i],
        model.table[i],
        model.survival[i],
        model.density[i],
    )


@subroutine
def _replica(engines: Engine, i: int) -> Engine:
    return Engine(
        engines.rates,
        engines.config,
        _tier(engines.hbm, i),
        _tier(engines.dram, i),
        _tier(engines.ssd, i),
        _reuse(engines.reuse, i),
        storing_of(engines.storing, i),
        engines.requests,
        engines.ids,
        engines.bins[i],
        engines.clock[i],
        engines.counts[i],
        engines.events[i],
        engines.prefilling[i],
        engines.decoding[i],
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
def _route(engines: Engine, r: int) -> None:
    """Let a request wait at the replica where it costs the least time; the first among equals."""
    chosen = expected = int64(0)
    least_s = np.inf
    for i in range(len(engines.clock)):
        engine = _replica(engines, i)
        uncached = _uncached(engine, r)
        cost_s = _cost_s(engine, uncached, engines.requests[r].arrival_s)
        if cost_s < least_s:
            chosen, expected, least_s = i, uncached, cost_s
    engines.requests[r].replica = chosen
    enqueue(_replica(engines, chosen), r, expected)


@kernel
def advance(engines: Engine, arrived: NDArray[np.int64], until_s: float) -> None:
    """Simulate up to ``until_s``, or a step beyond; time ends where the last answer does.

    ``arrived``, an array of one, counts the requests that have been routed.
    """
    requests = engines.requests
    while True:
        more = arrived[0] < len(requests)
        arrives = more and requests[arrived[0]].arrival_s <= until_s
        upto_s = requests[arrived[0]].arrival_s if arrives else until_s
        for i in range(len(engines.clock)):
            run(_replica(engines, i), upto_s, more)
        if not arrives:
            return
        _route(engines, arrived[0])
        arrived[0] += 1


@kernel
def settle(engines: Engine) -> float:
    """Let all replicas idle until the last of them has finished; when that is."""
    end_s = 0.0
    for i in range(len(engines.clock)):
        if engines.counts[i, FINISHED] > 0:
            end_s = max(end_s, engines.clock[i, NOW_S])
    for i in range(len(engines.clock)):
        engine = _replica(engines, i)
        spend(engine, end_s - engine.clock[NOW_S], engine.rates.idle_w, 0.0)
    return end_s


@kernel
def resize_tiers(engines: Engine, dram_blocks: int, ssd_blocks: int) -> None:
    """Set the capacity of DRAM and SSD on every replica, evicting what no longer fits."""
    for i in range(len(engines.clock)):
        now_s = engines.clock[i, NOW_S]
        resize(_tier(engines.dram, i), dram_blocks, now_s)
        resize(_tier(engines.ssd, i), ssd_blocks, now_s)
