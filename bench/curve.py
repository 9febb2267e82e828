"""``greencache curve``: hits over capacity, for plain LRU and for the store's policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.curves import hits_at, lru_stack_distances, prefix_lru_stack_distances
from greencache.tiers.policies import Policy
from greencache.tiers.state import TierState, allocate
from greencache.tiers.transactions import access
from greencache.traces.requests import RequestTrace

__all__ = [
    "SCHEMA",
    "Curve",
    "CurvePoint",
    "default_capacities",
    "measure_curve",
    "prefix_hits",
    "request_arrays",
]

SCHEMA = "greencache.curve/1"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Hits at one capacity.

    Attributes
    ----------
    capacity_blocks:
        How many blocks fit.
    hit_blocks:
        Blocks that hit. For ``lru`` counted block by block in the order of the trace, partial ones
        included, as cache simulators count; for the other policies by leading prefix.
    prefix_hit_blocks:
        Full blocks that hit as part of a leading prefix, under the store's form of the policy.
    hit_rate_blocks:
        ``hit_blocks`` over all block accesses.
    hit_rate_tokens:
        Tokens of ``prefix_hit_blocks`` over all prompt tokens.
    """

    capacity_blocks: int
    hit_blocks: int
    prefix_hit_blocks: int
    hit_rate_blocks: float
    hit_rate_tokens: float


@dataclass(frozen=True)
class Curve:
    """Hits over capacity for one trace and policy, with storing that takes no time."""

    trace: str
    policy: Policy
    accesses: int
    unique_blocks: int
    block_tokens: int
    points: list[CurvePoint]

    def as_json(self, block_bytes: int | None) -> dict[str, Any]:
        """The curve in the schema that others rely on; ``block_bytes`` None if no model is set."""
        return {
            "schema": SCHEMA,
            "trace": self.trace,
            "policy": str(self.policy),
            "accesses": self.accesses,
            "unique_blocks": self.unique_blocks,
            "block_tokens": self.block_tokens,
            "block_bytes": block_bytes,
            "points": [
                {
                    "capacity_blocks": point.capacity_blocks,
                    "capacity_bytes": block_bytes and point.capacity_blocks * block_bytes,
                    "hit_blocks": point.hit_blocks,
                    "prefix_hit_blocks": point.prefix_hit_blocks,
                    "hit_rate_blocks": point.hit_rate_blocks,
                    "hit_rate_tokens": point.hit_rate_tokens,
                }
                for point in self.points
            ],
        }


@kernel
def _serve(state: TierState, requests: tuple[Any, ...]) -> int:
    arrival_s, ids, starts, full, reusable = requests
    hits = 0
    for r in range(len(arrival_s)):
        chain = ids[starts[r] : starts[r] + full[r]]
        hits += access(state, chain, reusable[r], full[r], arrival_s[r])
    return hits


def default_capacities(trace: RequestTrace) -> list[int]:
    """Capacities in blocks that span the trace: halving from all of its blocks down to one."""
    capacities = [trace.unique_blocks]
    while capacities[-1] > 1:
        capacities.append(capacities[-1] // 2)
    return sorted(capacities)


def request_arrays(trace: RequestTrace) -> tuple[NDArray[Any], ...]:
    """What a kernel needs of a trace to store each request as it arrives.

    Arrivals in seconds, ids of all requests, where each begins there, how many full blocks it has
    and how many of those may hit.
    """
    return (
        trace.arrival_s,
        trace.block_ids,
        trace.block_starts,
        trace.full_blocks,
        trace.reusable_blocks,
    )


def prefix_hits(trace: RequestTrace, policy: Policy, capacity_blocks: int) -> int:
    """Blocks that hit as part of a leading prefix in a tier where storing takes no time."""
    state = allocate(capacity_blocks, trace.unique_blocks, policy.code)
    return int(_serve(state, request_arrays(trace)))


def _hits_of_each(
    trace: RequestTrace,
    policy: Policy,
    capacities_blocks: Sequence[int],
    on_progress: Callable[[float], None] | None,
) -> NDArray[np.int64]:
    hits = np.zeros(len(capacities_blocks), np.int64)
    for i, capacity in enumerate(capacities_blocks):
        hits[i] = prefix_hits(trace, policy, capacity)
        if on_progress is not None:
            on_progress((i + 1) / len(hits))
    return hits


def measure_curve(
    trace: RequestTrace,
    policy: Policy,
    capacities_blocks: Sequence[int],
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Curve:
    """Count the hits at each capacity: in one pass for ``lru``, else in a pass for each."""
    wanted = np.array(capacities_blocks, np.int64)
    if policy is Policy.LRU:
        hits = hits_at(lru_stack_distances(trace.block_ids), wanted)
        in_prefixes = hits_at(
            prefix_lru_stack_distances(
                trace.block_ids, trace.block_starts, trace.full_blocks, trace.reusable_blocks
            ),
            wanted,
        )
    else:
        hits = in_prefixes = _hits_of_each(trace, policy, capacities_blocks, on_progress)
    tokens = trace.block_tokens / int(trace.input_tokens.sum())
    return Curve(
        trace=trace.name,
        policy=policy,
        accesses=len(trace.block_ids),
        unique_blocks=trace.unique_blocks,
        block_tokens=trace.block_tokens,
        points=[
            CurvePoint(capacity, hit, prefix, hit / max(len(trace.block_ids), 1), prefix * tokens)
            for capacity, hit, prefix in zip(
                capacities_blocks, hits.tolist(), in_prefixes.tolist(), strict=True
            )
        ],
    )
