"""The offline bound, against every choice there is on small instances, and on the real trace."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.bench.curve import Bound, measure_curve
from greencache.controller.bound import next_uses, optimal_hits
from greencache.tiers import Policy
from greencache.tiers.directory import KeyDirectory
from greencache.traces import RequestTrace

Requests = list[tuple[list[int], int]]
"""Chained ids of each request, and how many may hit."""


@st.composite
def small_requests(draw: st.DrawFn, *, all_usable: bool) -> Requests:
    chains: list[list[int]] = []
    for _ in range(draw(st.integers(1, 7))):
        base: list[int] = draw(st.sampled_from(chains)) if chains else []
        kept = draw(st.integers(0, len(base)))
        chains.append((base[:kept] + draw(st.lists(st.integers(0, 1), max_size=3)))[:4])
    names = np.array([name for chain in chains for name in chain], np.int64)
    starts = np.cumsum([0] + [len(chain) for chain in chains]).astype(np.int64)
    ids = KeyDirectory().intern_chains(names, starts).tolist()
    unusable = st.just(0) if all_usable else st.integers(0, 1)
    return [
        (ids[begin:end], max(end - begin - draw(unusable), 0)) for begin, end in pairwise(starts)
    ]


def bound(requests: Requests, capacity: int) -> int:
    full = np.array([len(chain) for chain, _ in requests], np.int64)
    reusable = np.array([limit for _, limit in requests], np.int64)
    starts = np.concatenate([[0], np.cumsum(full)])
    ids = np.array([block for chain, _ in requests for block in chain], np.int32)
    ends = next_uses(ids, starts, full, reusable)
    return int(optimal_hits(ends, starts, full, capacity).sum())


def best_of_all(requests: Requests, capacity: int, *, closed: bool) -> int:
    """The most hits over every content that a tier can choose to keep after each request."""
    parents = {
        child: parent for chain, _ in requests for parent, child in pairwise(chain) if closed
    }
    best = {frozenset[int](): 0}
    for chain, reusable in requests:
        after: dict[frozenset[int], int] = {}
        for content, hits in best.items():
            found = 0
            while found < reusable and chain[found] in content:
                found += 1
            available = sorted(content | set(chain))
            for size in range(min(capacity, len(available)) + 1):
                for kept in map(frozenset, combinations(available, size)):
                    if all(parents.get(block, block) in kept for block in kept):
                        after[kept] = max(after.get(kept, 0), hits + found)
        best = after
    return max(best.values())


@given(requests=small_requests(all_usable=True), capacity=st.integers(0, 4))
@settings(max_examples=150)
def test_a_tier_closed_under_prefixes_reaches_the_bound(requests: Requests, capacity: int) -> None:
    assert bound(requests, capacity) == best_of_all(requests, capacity, closed=True)


@given(requests=small_requests(all_usable=False), capacity=st.integers(0, 4))
@settings(max_examples=150)
def test_where_last_blocks_may_not_hit_a_tier_that_need_not_be_closed_does(
    requests: Requests, capacity: int
) -> None:
    assert bound(requests, capacity) == best_of_all(requests, capacity, closed=False)
    assert bound(requests, capacity) >= best_of_all(requests, capacity, closed=True)


def test_a_closed_tier_may_have_less_where_a_last_block_may_not_hit() -> None:
    """To keep block 1 it must keep block 0 until a use that cannot hit, in the place of 2."""
    requests: Requests = [([0, 1], 2), ([2], 1), ([2], 1), ([0], 0), ([0, 1], 2)]
    assert bound(requests, 2) == best_of_all(requests, 2, closed=False) == 3
    assert best_of_all(requests, 2, closed=True) == 2


@pytest.mark.parametrize("policy", list(Policy))
def test_no_policy_of_the_index_exceeds_the_bound(
    conversation: RequestTrace, policy: Policy
) -> None:
    capacities = [0, 300, 3_000, 30_000, 182_790]
    most = measure_curve(conversation, Bound.OPT, capacities).points
    points = measure_curve(conversation, policy, capacities).points
    assert all(
        a.prefix_hit_blocks <= b.prefix_hit_blocks for a, b in zip(points, most, strict=True)
    )
    assert points[1].prefix_hit_blocks < most[1].prefix_hit_blocks
    assert points[-1].prefix_hit_blocks == most[-1].prefix_hit_blocks, "there is room for all"


def test_the_bound_grows_with_capacity_ever_more_slowly(conversation: RequestTrace) -> None:
    """The most of c-fold overlapping intervals is concave in c: it is a flow of least cost."""
    capacities = list(range(0, 12_000, 400))
    hits = [p.hit_blocks for p in measure_curve(conversation, Bound.OPT, capacities).points]
    gains = np.diff(hits)
    assert (gains >= 0).all()
    assert (np.diff(gains) <= 0).all()


def test_the_bound_is_that_of_another_simulator(conversation: RequestTrace) -> None:
    """kvcache-simulator: 4 TiB 39.8 %, 1 TiB 38.6 % of tokens, over the last half of requests.

    KV of llama-3.1-70b takes 327,680 bytes a token, so that 512-token blocks have 160 MiB.
    """
    trace, half = conversation, len(conversation) // 2
    full, starts = trace.full_blocks, trace.block_starts
    ends = next_uses(trace.block_ids, starts, full, trace.reusable_blocks)
    for capacity_bytes, expected in ((4 * 2**40, 0.398), (2**40, 0.386)):
        hits = optimal_hits(ends, starts, full, capacity_bytes // (160 * 2**20))
        rate = hits[half:].sum() * 512 / trace.input_tokens[half:].sum()
        assert rate == pytest.approx(expected, abs=0.0005)
