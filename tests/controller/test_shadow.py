"""Miniature caches against the real index, and against the simulated engine."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.controller.prompts import Prompts
from greencache.controller.reuse import ReuseProfile
from greencache.controller.shadow import ShadowCaches, ShadowSizes
from greencache.errors import InputError
from greencache.tiers.index import TierIndex
from greencache.tiers.policies import Policy
from greencache.traces import RequestTrace

SIZES = ShadowSizes(600, (0, 2_000, 8_000), (0, 4_000, 16_000, 64_000))
HOUR_S = 3600.0


def prompts_of(trace: RequestTrace, chosen: slice, delay_s: float = 0.0) -> Prompts:
    begin, end = trace.block_starts[chosen.start], trace.block_starts[chosen.stop]
    return Prompts(
        trace.block_ids[begin:end],
        trace.block_starts[chosen] - begin,
        trace.full_blocks[chosen],
        trace.reusable_blocks[chosen],
        trace.input_tokens[chosen],
        trace.output_tokens[chosen],
        trace.arrival_s[chosen],
        trace.arrival_s[chosen] + delay_s,
    )


def shadow_of(trace: RequestTrace, pieces: int = 4, **options: object) -> ShadowCaches:
    """Shadow caches that have seen a whole trace, in some intervals, none of which fades."""
    shadow = ShadowCaches(SIZES, 512, half_life_s=1e15, recent=50_000, **options)  # type: ignore[arg-type]
    edges = np.linspace(0, len(trace), pieces + 1).astype(int)
    for first, last in itertools.pairwise(edges):
        begin_s, end_s = trace.arrival_s[first], trace.arrival_s[last - 1]
        shadow.observe(prompts_of(trace, slice(first, last)), end_s)
        shadow.end_interval(begin_s, end_s - begin_s)
    return shadow


@pytest.fixture(scope="module")
def busy(conversation: RequestTrace) -> RequestTrace:
    """The first requests of the conversation trace, which come in bursts there, one by one."""
    first = conversation.select(np.arange(len(conversation)) < 6_000)
    return replace(first, arrival_s=first.arrival_s + 1e-6 * np.arange(len(first)))


def hits_of_index(trace: RequestTrace, size: int, policy: Policy) -> NDArray[np.int64]:
    index = TierIndex(size, policy)
    hits = []
    for r in range(len(trace)):
        begin = trace.block_starts[r]
        ids = trace.block_ids[begin : begin + trace.full_blocks[r]]
        hits.append(index.access(ids, trace.arrival_s[r], reusable=int(trace.reusable_blocks[r])))
    return np.array(hits)


@pytest.mark.parametrize("policy", [Policy.LRU, Policy.LFU])
def test_every_pair_is_what_three_real_indexes_find(busy: RequestTrace, policy: Policy) -> None:
    profile = shadow_of(busy, policy=policy).profile()
    tokens = float(busy.input_tokens.sum())
    hbm = hits_of_index(busy, SIZES.hbm, policy)
    for d, dram_size in enumerate(SIZES.drams):
        dram = hits_of_index(busy, dram_size, policy)
        for s, ssd_size in enumerate(SIZES.ssds[:3]):
            ssd = hits_of_index(busy, ssd_size, policy)
            added = [
                hbm,
                np.maximum(dram - hbm, 0),
                np.maximum(ssd - np.maximum(hbm, dram), 0),
            ]
            np.testing.assert_allclose(
                profile.found[d, s], [512 * each.sum() / tokens for each in added]
            )
            prefix = 512.0 * np.maximum.reduce([hbm, dram, ssd])
            computed = busy.input_tokens - prefix
            assert profile.computed_tokens[d, s] == pytest.approx(computed.mean())
            attended = computed * (prefix + (computed + 1) / 2)
            assert profile.attended[d, s] == pytest.approx(attended.mean())
            assert sum(profile.prefix_tokens(d, s)) == pytest.approx(prefix)


def test_what_is_written_is_what_a_real_index_stores(busy: RequestTrace) -> None:
    profile = shadow_of(busy).profile()
    index = TierIndex(SIZES.ssds[2])
    stored = 0
    for r in range(len(busy)):
        begin = busy.block_starts[r]
        ids = busy.block_ids[begin : begin + busy.full_blocks[r]]
        stored += len(ids) - index.match(ids)
        index.access(ids, busy.arrival_s[r])
    assert profile.written[0] == 0
    assert profile.written[2] == pytest.approx(512 * stored / busy.input_tokens.sum())


def test_the_pieces_that_a_stream_comes_in_do_not_matter(busy: RequestTrace) -> None:
    one, many = (shadow_of(busy, pieces).profile() for pieces in (1, 23))
    np.testing.assert_allclose(one.found, many.found)
    np.testing.assert_allclose(one.written, many.written)


def test_sampled_blocks_estimate_all_of_them(busy: RequestTrace) -> None:
    """A quarter of the blocks: 150 in HBM, 1,000 and more in the tiers."""
    exact, sampled = shadow_of(busy).profile(), shadow_of(busy, rate=0.25).profile()
    np.testing.assert_allclose(sampled.found, exact.found, atol=0.01)
    np.testing.assert_allclose(sampled.computed_tokens, exact.computed_tokens, rtol=0.02)
    np.testing.assert_allclose(sampled.attended, exact.attended, rtol=0.03)
    np.testing.assert_allclose(sampled.written, exact.written, atol=0.01)


def test_a_budget_bounds_the_memory(busy: RequestTrace) -> None:
    shadow = shadow_of(busy, budget_blocks=10_000)
    assert shadow.rate == pytest.approx(10_000 / SIZES.tiers.sum())
    ids = 8 * (int(busy.block_ids.max()) + 1)  # grown by doubling
    assert shadow.memory_bytes < 2_000_000 + ids


def test_numbers_of_blocks_that_are_gone_are_used_again(busy: RequestTrace) -> None:
    """The trace has more blocks than all miniatures and numbers together have room for."""
    small = ShadowSizes(50, (0,), (0, 500))
    shadow = ShadowCaches(small, 512, half_life_s=1e15)
    shadow.observe(prompts_of(busy, slice(0, len(busy))), np.inf)
    shadow.end_interval(0.0, HOUR_S)
    expected = 512 * hits_of_index(busy, 50, Policy.LRU).sum() / busy.input_tokens.sum()
    assert shadow.profile().found[0, 0, 0] == pytest.approx(expected)
    assert len(shadow._minis.id_of) < 5_000 < busy.unique_blocks


def test_what_is_not_computed_yet_cannot_be_found(busy: RequestTrace) -> None:
    late = ShadowCaches(SIZES, 512, half_life_s=1e15)
    late.observe(prompts_of(busy, slice(0, 2_000), delay_s=1e9), busy.arrival_s[1999])
    late.end_interval(0.0, busy.arrival_s[1999])
    assert late.profile().found.sum() == 0
    assert late.profile().written.sum() == 0
    late.observe(prompts_of(busy, slice(2_000, 3_000)), 2e9)
    late.end_interval(busy.arrival_s[1999], 2e9)
    assert late.profile().written[-1] > 0


def test_hbm_is_as_large_as_running_requests_leave_it(busy: RequestTrace) -> None:
    shadow = ShadowCaches(SIZES, 512, half_life_s=1e15)
    shadow.hold(500.0, 0.0)
    shadow.observe(prompts_of(busy, slice(0, len(busy))), np.inf)
    shadow.end_interval(0.0, HOUR_S)
    expected = 512 * hits_of_index(busy, 100, Policy.LRU).sum() / busy.input_tokens.sum()
    assert shadow.profile().found[0, 0, 0] == pytest.approx(expected)


def test_earlier_intervals_count_half_after_a_half_life(busy: RequestTrace) -> None:
    """A prompt twice, then one that is new: the hits of the first hour fade."""
    once = prompts_of(busy, slice(0, 1))
    ids = np.arange(10, 20, dtype=np.int32)
    ten = np.array([10])
    again = replace(
        once, ids=ids, full=ten, reusable=ten, input_tokens=ten * 512, arrival_s=np.zeros(1)
    )
    again = replace(again, computed_s=np.zeros(1))
    shadow = ShadowCaches(SIZES, 512, half_life_s=HOUR_S)
    for at_s in (0.0, 10.0):
        now = np.array([at_s])
        shadow.observe(replace(again, arrival_s=now, computed_s=now), HOUR_S)
    shadow.end_interval(0.0, HOUR_S)
    assert shadow.profile().found[0, 0, 0] == pytest.approx(1 / 2)
    later = replace(again, ids=ids + 100, arrival_s=np.array([2 * HOUR_S]))
    shadow.observe(replace(later, computed_s=later.arrival_s), 2 * HOUR_S)
    shadow.end_interval(HOUR_S, HOUR_S)
    assert shadow.profile().found[0, 0, 0] == pytest.approx(0.5 / (0.5 * 2 + 1))


def test_gaps_of_the_sample_have_a_mean_of_one(busy: RequestTrace) -> None:
    profile: ReuseProfile = shadow_of(busy).profile()
    assert len(profile.sample.gaps) == len(busy)
    assert profile.sample.gaps.mean() == pytest.approx(1, rel=0.01)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="rising"):
        ShadowSizes(1, (2, 1), (0,))
    with pytest.raises(InputError, match="SSD sizes"):
        ShadowSizes(1, (0,), ())
    with pytest.raises(InputError, match="HBM"):
        ShadowSizes(-1, (0,), (0,))
    with pytest.raises(InputError, match="sampling rate"):
        ShadowCaches(SIZES, 512, rate=0.0)
