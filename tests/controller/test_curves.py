"""Hits over capacity, against libCacheSim and against the definition."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import libcachesim
import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.bench import curve_speed
from greencache.bench.baselines import ordered_dict_hits
from greencache.bench.curve import default_capacities, measure_curve
from greencache.bench.plain_lru import plain_lru_hits
from greencache.controller.curves import NEVER, hits_at, lru_stack_distances
from greencache.tiers import Policy
from greencache.traces import RequestTrace

FIVE_CAPACITIES = [100, 1_000, 10_000, 50_000, 150_000]


@pytest.mark.slow
def test_plain_lru_equals_libcachesim_on_the_real_trace(conversation: RequestTrace) -> None:
    assert len(conversation) == 12_031
    assert len(conversation.block_ids) == 288_500
    assert conversation.unique_blocks == 182_790
    request = libcachesim.Request()
    request.obj_size = 1
    expected = []
    for capacity in FIVE_CAPACITIES:
        cache = libcachesim.LRU(capacity)
        hits = 0
        for name in conversation.block_names.tolist():
            request.obj_id = name
            hits += cache.get(request)
        expected.append(hits)
    curve = measure_curve(conversation, Policy.LRU, FIVE_CAPACITIES)
    assert [point.hit_blocks for point in curve.points] == expected
    assert curve.accesses == 288_500


@given(st.lists(st.integers(0, 12), max_size=80))
def test_stack_distances_are_those_of_the_definition(accesses: list[int]) -> None:
    distances = lru_stack_distances(np.array(accesses, np.int32))
    for i, block in enumerate(accesses):
        earlier = [j for j in range(i) if accesses[j] == block]
        expected = len(set(accesses[earlier[-1] : i])) if earlier else NEVER
        assert distances[i] == expected


@given(st.lists(st.integers(0, 12), max_size=80))
def test_hits_are_those_of_an_lru_cache(accesses: list[int]) -> None:
    capacities = np.arange(0, 15)
    counted = hits_at(lru_stack_distances(np.array(accesses, np.int32)), capacities)
    for capacity, hits in zip(capacities, counted, strict=True):
        cache: OrderedDict[int, None] = OrderedDict()
        expected = 0
        for block in accesses:
            expected += block in cache
            cache[block] = None
            cache.move_to_end(block)
            while len(cache) > capacity:
                cache.popitem(last=False)
        assert hits == expected
        assert plain_lru_hits(np.array(accesses, np.int32), int(capacity)) == expected


@pytest.mark.parametrize("skew", [0.7, 1.1])
def test_one_pass_equals_a_simulation_at_each_of_20_capacities(skew: float) -> None:
    """On a stream long enough that blocks get new ticks many times."""
    weights = np.arange(1, 5_001) ** -skew
    ids = np.random.default_rng(4).choice(5_000, 60_000, p=weights / weights.sum())
    capacities = np.geomspace(1, 5_000, 20).astype(np.int64)
    hits = hits_at(lru_stack_distances(ids.astype(np.int32)), capacities)
    names = ids.tolist()
    assert hits.tolist() == [ordered_dict_hits(names, c) for c in capacities.tolist()]


def test_the_curve_benchmark_counts_alike_on_all_sides(conversation: RequestTrace) -> None:
    """On parts of two merged copies of the real trace, at 20 capacities, libCacheSim included."""
    short = conversation.select(np.arange(len(conversation)) < 600)
    trace = curve_speed.several_services(short, 2, 25_000)
    assert 24_000 < len(trace.block_ids) <= 25_000
    assert (np.diff(trace.arrival_s) >= 0).all()
    ticks = itertools.count()
    result = curve_speed.measure(trace, lambda: next(ticks) / 100)
    sides = result["sides"]
    assert len(result["capacities_blocks"]) == 20
    assert [name for name, side in sides.items() if side["equal"] is None] == [curve_speed.SAMPLED]
    assert all(side["equal"] is not False for side in sides.values())
    assert len(sides) == 8


def test_merged_services_share_no_block(conversation: RequestTrace) -> None:
    short = conversation.select(np.arange(len(conversation)) < 200)
    merged = curve_speed.several_services(short, 3, 10**9)
    assert len(merged) == 600
    assert merged.unique_blocks == 3 * short.unique_blocks
    everything = [merged.unique_blocks]
    hits = [measure_curve(t, Policy.LRU, everything).points[0].hit_blocks for t in (merged, short)]
    assert hits[0] == 3 * hits[1]


@pytest.mark.parametrize("policy", list(Policy))
def test_no_policy_hits_more_than_there_is(conversation: RequestTrace, policy: Policy) -> None:
    everything = conversation.unique_blocks
    curve = measure_curve(conversation, policy, [0, 5_000, everything])
    nothing, some, most = (point.prefix_hit_blocks for point in curve.points)
    assert nothing == 0 < some < most
    ceiling = measure_curve(conversation, Policy.LRU, [everything]).points[0]
    assert most == ceiling.prefix_hit_blocks, "with room for everything no policy matters"


def test_more_capacity_never_loses_a_hit_under_lru(conversation: RequestTrace) -> None:
    points = measure_curve(conversation, Policy.LRU, default_capacities(conversation)).points
    for counts in ([p.hit_blocks for p in points], [p.prefix_hit_blocks for p in points]):
        assert counts == sorted(counts)


def test_tokens_are_counted_by_leading_full_blocks(conversation: RequestTrace) -> None:
    point = measure_curve(conversation, Policy.LRU, [conversation.unique_blocks]).points[0]
    tokens = int(conversation.input_tokens.sum())
    assert point.hit_rate_tokens == pytest.approx(point.prefix_hit_blocks * 512 / tokens)
    assert point.hit_rate_blocks == pytest.approx(point.hit_blocks / 288_500)
