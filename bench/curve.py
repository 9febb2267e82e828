"""``greencache curve``: hits over capacity, for plain LRU, the store's policies and the bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.bound import next_uses, optimal_hits
from greencache.controller.curves import hits_at, lru_stack_distances, prefix_lru_stack_distances
from greencache.controller.sampled_curves import Estimate, SampledCurve
from greencache.errors import InputError, UnknownNameError
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import Reuse, new_reuse, observe
from greencache.tiers.state import TierState, allocate, follow
from greencache.tiers.transactions import access
from greencache.tiers.worth import is_due, learn, rank
from greencache.traces.requests import RequestTrace

__all__ = [
    "SCHEMA",
    "Bound",
    "Curve",
    "CurvePoint",
    "Sampling",
    "curves_json",
    "default_capacities",
    "measure_curve",
    "parse_policies",
    "prefix_hits",
    "prompts",
    "request_arrays",
]

SCHEMA = "greencache.curve/1"


class Bound(StrEnum):
    """What has a curve but is no policy that a tier could follow."""

    OPT = "opt"


def parse_policies(text: str) -> list[Policy | Bound]:
    """Read names of policies and bounds, separated by commas.

    Raises
    ------
    UnknownNameError
        If there is none of a name.
    InputError
        If there is no name, or one twice.
    """
    known: dict[str, Policy | Bound] = {each.value: each for each in (*Policy, *Bound)}
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError("policy", name, known)
        if names.count(name) > 1:
            raise InputError(f"policy {name} is named twice")
    return [known[name] for name in names]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample a curve: ``max_blocks`` at most, or all that a ``rate`` chooses.

    Of a curve that was measured, ``rate`` is what the sample ended with.
    """

    max_blocks: int | None = None
    rate: float = 1.0
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError("a sample is of more than 0 % and at most 100 % of the blocks")
        if self.max_blocks is not None and self.max_blocks < 1:
            raise InputError(f"a sample has at least one block, not {self.max_blocks}")

    def begin(self, trace: RequestTrace) -> SampledCurve:
        """An empty sample for ``trace``."""
        blocks = self.max_blocks
        if blocks is None:
            chosen = trace.unique_blocks * self.rate
            blocks = math.ceil(chosen + 6 * math.sqrt(chosen))  # six deviations to spare
        return SampledCurve(
            max(min(blocks, trace.unique_blocks), 1), rate=self.rate, seed=self.seed
        )


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
    hit_rate_blocks_range, hit_rate_tokens_range:
        Intervals of the rates where they are sampled; None where all is exact.
    """

    capacity_blocks: int
    hit_blocks: int
    prefix_hit_blocks: int
    hit_rate_blocks: float
    hit_rate_tokens: float
    hit_rate_blocks_range: tuple[float, float] | None = None
    hit_rate_tokens_range: tuple[float, float] | None = None

    def as_json(self, block_bytes: int | None) -> dict[str, Any]:
        """The point in the curve's schema."""
        point = {
            "capacity_blocks": self.capacity_blocks,
            "capacity_bytes": block_bytes and self.capacity_blocks * block_bytes,
            "hit_blocks": self.hit_blocks,
            "prefix_hit_blocks": self.prefix_hit_blocks,
            "hit_rate_blocks": self.hit_rate_blocks,
            "hit_rate_tokens": self.hit_rate_tokens,
        }
        for name, interval in (
            ("hit_rate_blocks", self.hit_rate_blocks_range),
            ("hit_rate_tokens", self.hit_rate_tokens_range),
        ):
            if interval is not None:
                point[f"{name}_low"], point[f"{name}_high"] = interval
        return point


@dataclass(frozen=True)
class Curve:
    """Hits over capacity for one trace and policy, with storing that takes no time.

    ``sampling`` is None where every block was followed.
    """

    trace: str
    policy: Policy | Bound
    accesses: int
    unique_blocks: int
    block_tokens: int
    points: list[CurvePoint]
    sampling: Sampling | None = None

    def as_json(self, block_bytes: int | None) -> dict[str, Any]:
        """The curve in the schema that others rely on; ``block_bytes`` None if no model is set."""
        sampling = self.sampling
        return {
            "schema": SCHEMA,
            "trace": self.trace,
            "policy": str(self.policy),
            "accesses": self.accesses,
            "unique_blocks": self.unique_blocks,
            "block_tokens": self.block_tokens,
            "block_bytes": block_bytes,
            "points": [point.as_json(block_bytes) for point in self.points],
        } | (
            {}
            if sampling is None
            else {
                "sample": {
                    "max_blocks": sampling.max_blocks,
                    "rate": sampling.rate,
                    "seed": sampling.seed,
                    "confidence": sampling.confidence,
                }
            }
        )


def curves_json(curves: Sequence[Curve], block_bytes: int | None) -> dict[str, Any]:
    """The first curve in the schema that others rely on; all of several also as ``curves``."""
    result = curves[0].as_json(block_bytes)
    if len(curves) > 1:
        result["curves"] = [curve.as_json(block_bytes) for curve in curves]
    return result


@kernel
def _serve(state: TierState, model: Reuse, requests: tuple[Any, ...]) -> int:
    arrival_s, ids, starts, full, reusable = requests
    learns = len(model.seen) > 0
    hits = 0
    for r in range(len(arrival_s)):
        chain = ids[starts[r] : starts[r] + full[r]]
        if learns:
            observe(model, chain, 0, full[r], arrival_s[r])
            if is_due(model, arrival_s[r]):
                learn(model, arrival_s[r])
                rank(model)
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
    model = new_reuse(trace.unique_blocks if policy is Policy.CARBON else 0)
    return int(_serve(follow(state, model), model, request_arrays(trace)))


def measure_curve(
    trace: RequestTrace,
    policy: Policy | Bound,
    capacities_blocks: Sequence[int],
    *,
    sampling: Sampling | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Curve:
    """Count the hits at each capacity: in one pass for ``lru``, else in a pass for each.

    Raises
    ------
    InputError
        If ``sampling`` is asked for a policy other than ``lru``: only there does a hit depend on
        the block alone.
    """
    if sampling is not None and policy is not Policy.LRU:
        raise InputError(
            f"only lru can be sampled, not {policy}: there hits of other blocks matter"
        )
    wanted = np.array(capacities_blocks, np.int64)
    if sampling is not None:
        hits, in_prefixes, rate = _sampled_hits(trace, wanted, sampling)
        sampling = replace(sampling, rate=rate)
    elif policy is Policy.LRU:
        hits, in_prefixes = (_exact(each) for each in _lru_hits(trace, wanted))
    elif policy is Bound.OPT:
        hits = in_prefixes = _exact(_bound_hits(trace, wanted))
    else:
        hits = in_prefixes = _exact(_hits_of_each(trace, policy, capacities_blocks, on_progress))
    return Curve(
        trace=trace.name,
        policy=policy,
        accesses=len(trace.block_ids),
        unique_blocks=trace.unique_blocks,
        block_tokens=trace.block_tokens,
        points=_points(trace, capacities_blocks, hits, in_prefixes, ranges=sampling is not None),
        sampling=sampling,
    )


def _exact(hits: NDArray[np.int64]) -> Estimate:
    value = hits.astype(np.float64)
    return Estimate(value, value, value)


def _points(
    trace: RequestTrace,
    capacities_blocks: Sequence[int],
    hits: Estimate,
    in_prefixes: Estimate,
    *,
    ranges: bool,
) -> list[CurvePoint]:
    by_block = Estimate(*(each / max(len(trace.block_ids), 1) for each in hits))
    by_token = in_prefixes.times(trace.block_tokens / int(trace.input_tokens.sum()))
    return [
        CurvePoint(
            capacity_blocks=capacity,
            hit_blocks=round(float(hits.value[i])),
            prefix_hit_blocks=round(float(in_prefixes.value[i])),
            hit_rate_blocks=float(by_block.value[i]),
            hit_rate_tokens=float(by_token.value[i]),
            hit_rate_blocks_range=_range(by_block, i) if ranges else None,
            hit_rate_tokens_range=_range(by_token, i) if ranges else None,
        )
        for i, capacity in enumerate(capacities_blocks)
    ]


def _range(estimate: Estimate, at: int) -> tuple[float, float]:
    return float(estimate.low[at]), float(estimate.high[at])


def prompts(trace: RequestTrace) -> tuple[NDArray[Any], ...]:
    """`request_arrays` without the arrivals: what curves need, for which time plays no part."""
    return request_arrays(trace)[1:]


def _lru_hits(
    trace: RequestTrace, capacities: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hits block by block and in leading prefixes."""
    hits = hits_at(lru_stack_distances(trace.block_ids), capacities)
    return hits, hits_at(prefix_lru_stack_distances(*prompts(trace)), capacities)


def _sampled_hits(
    trace: RequestTrace, capacities: NDArray[np.int64], sampling: Sampling
) -> tuple[Estimate, Estimate, float]:
    """The same from samples, and the rate that the second ended with."""
    by_block, by_prefix = sampling.begin(trace), sampling.begin(trace)
    by_block.add_accesses(trace.block_ids)
    by_prefix.add(*prompts(trace))
    confidence = sampling.confidence
    estimates = by_block.hits(capacities, confidence), by_prefix.hits(capacities, confidence)
    return *estimates, by_prefix.rate


def _bound_hits(trace: RequestTrace, capacities: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = next_uses(*prompts(trace))
    each = [
        optimal_hits(ends, trace.block_starts, trace.full_blocks, capacity).sum()
        for capacity in capacities.tolist()
    ]
    return np.array(each, np.int64)


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
