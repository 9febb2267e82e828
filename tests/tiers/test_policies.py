"""Every policy decides as its definition does, on the same requests."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.compiled import kernel
from greencache.controller.curves import hits_at, prefix_lru_stack_distances
from greencache.errors import UnknownNameError
from greencache.tiers import KeyDirectory, Policy, TierIndex
from greencache.tiers.reuse import bucket_of
from tests.tiers.reference import ReferenceCache


@kernel
def bucket(age_s: float) -> int:
    return bucket_of(age_s)


POLICIES = [policy.value for policy in Policy]


@st.composite
def prefix_requests(draw: st.DrawFn) -> list[list[int]]:
    """Requests that share prefixes: each extends a part of an earlier one with new names."""
    requests: list[list[int]] = []
    for _ in range(draw(st.integers(1, 40))):
        base: list[int] = draw(st.sampled_from(requests)) if requests else []
        kept = draw(st.integers(0, len(base)))
        added = draw(st.lists(st.integers(0, 3), max_size=5))
        requests.append(base[:kept] + added)
    directory = KeyDirectory()
    starts = np.cumsum([0] + [len(r) for r in requests]).astype(np.int64)
    names = np.array([name for r in requests for name in r], np.int64)
    ids = directory.intern_chains(names, starts)
    return [ids[a:b].tolist() for a, b in pairwise(starts)]


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@given(requests=prefix_requests(), capacity=st.integers(0, 25), steps=st.data())
@settings(max_examples=150)
def test_decides_as_its_definition(
    policy: str, requests: list[list[int]], capacity: int, steps: st.DataObject
) -> None:
    index = TierIndex(capacity, policy, cost_base=1.0, cost_per_depth=0.25, load_cost=1.5)

    def hits_per_s(name: int, now_s: float) -> float:
        block = index.state.seen[name]
        return float(index.state.density[block["kind"], bucket(now_s - block["last_s"])])

    reference = ReferenceCache(
        capacity,
        policy,
        cost_base=1.0,
        cost_per_depth=0.25,
        load_cost=1.5,
        hits_per_s=hits_per_s,
    )
    now_s = 0.0
    for request in requests:
        now_s += steps.draw(st.sampled_from([0.0, 0.5, 1.0, 60.0]))
        reusable = max(0, len(request) - steps.draw(st.integers(0, 1)))
        found = index.access(np.array(request, np.int32), now_s, reusable=reusable)
        assert found == reference.access(request, reusable, now_s)
        present = {
            block for block in range(len(index.state.slot_of)) if index.state.slot_of[block] >= 0
        }
        assert present == set(reference.entries)


@pytest.mark.parametrize("policy", ["lru", "lfu", "lcs"])
@given(requests=prefix_requests(), capacity=st.integers(0, 25), step_s=st.sampled_from([0.0, 1.0]))
@settings(max_examples=100)
def test_transactions_one_by_one_decide_as_an_access_does(
    policy: str, requests: list[list[int]], capacity: int, step_s: float
) -> None:
    """For policies that do not look at the order in which blocks of one request are stored."""
    at_once, one_by_one = TierIndex(capacity, policy), TierIndex(capacity, policy)
    for r, request in enumerate(requests):
        ids, now_s = np.array(request, np.int32), r * step_s
        lease = one_by_one.acquire(ids, now_s)
        assert len(lease) == at_once.access(ids, now_s)
        one_by_one.commit(one_by_one.reserve(ids, now_s), now_s)
        one_by_one.release(lease, now_s)
        assert (one_by_one.state.slot_of >= 0).tolist() == (at_once.state.slot_of >= 0).tolist()


@given(requests=prefix_requests())
@settings(max_examples=50)
def test_carbon_learns_the_same_from_transactions_as_from_accesses(
    requests: list[list[int]],
) -> None:
    """Whether what a request is for is known when it is looked up, or only when it is stored."""
    at_once, one_by_one = TierIndex(9, "carbon"), TierIndex(9, "carbon")
    known: set[int] = set()
    for now_s, request in enumerate(requests):
        ids = np.array(request, np.int32)
        found = np.array([block if block in known else -1 for block in request], np.int32)
        at_once.access(ids, now_s)
        lease = one_by_one.acquire(found, now_s)
        one_by_one.commit(one_by_one.reserve(ids, now_s), now_s)
        one_by_one.release(lease, now_s)
        known |= set(request)
        seen = len(known)
        assert (one_by_one.state.seen[:seen] == at_once.state.seen[:seen]).all()


@given(requests=prefix_requests(), capacity=st.integers(0, 24), more=st.integers(1, 8))
@settings(max_examples=150)
def test_more_capacity_never_loses_a_hit_under_lru(
    requests: list[list[int]], capacity: int, more: int
) -> None:
    small, large = TierIndex(capacity), TierIndex(capacity + more)
    for now_s, request in enumerate(requests):
        ids = np.array(request, np.int32)
        assert small.access(ids, now_s) <= large.access(ids, now_s)


@pytest.mark.slow
@given(requests=prefix_requests(), spares=st.data())
@settings(max_examples=150)
def test_one_pass_gives_prefix_hits_at_every_capacity(
    requests: list[list[int]], spares: st.DataObject
) -> None:
    full = np.array([len(request) for request in requests], np.int64)
    reusable = np.maximum(full - np.array([spares.draw(st.integers(0, 1)) for _ in requests]), 0)
    ids = np.array([block for request in requests for block in request], np.int32)
    starts = np.concatenate([[0], np.cumsum(full)]).astype(np.int64)
    capacities = np.arange(30)
    hits = hits_at(prefix_lru_stack_distances(ids, starts, full, reusable), capacities)
    for capacity in capacities.tolist():
        index = TierIndex(capacity)
        expected = sum(
            index.access(np.array(request, np.int32), 0.0, reusable=int(limit))
            for request, limit in zip(requests, reusable, strict=True)
        )
        assert hits[capacity] == expected


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lru'"):
        TierIndex(1, "lur")
