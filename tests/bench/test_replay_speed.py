"""The speed benchmark times what is the same, over streams that are what they are said to be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from greencache.bench.baselines import ordered_dict_hits
from greencache.bench.curve import prefix_hits
from greencache.bench.replay_speed import measure_sides
from greencache.bench.scaling import make_sessions, measure_scaling
from greencache.bench.two_tiers import two_tier_hits
from greencache.tiers import Policy
from greencache.traces import RequestTrace


def test_all_plain_sides_count_the_same_hits(conversation: RequestTrace) -> None:
    short = conversation.select(np.arange(len(conversation)) < 500)
    ticks = itertools.count()
    sides = measure_sides(short, lambda: next(ticks) / 100)
    plain = {side["hits"] for name, side in sides.items() if "index" not in name}
    assert plain == {ordered_dict_hits(short.block_names.tolist(), 50_000)}
    assert len(sides) == 6


@pytest.mark.parametrize("capacity", [500, 20_000])
def test_a_smaller_tier_before_a_larger_one_adds_no_hits(
    conversation: RequestTrace, capacity: int
) -> None:
    """Under lru the larger holds all that the smaller does, so its hits alone are those of both."""
    both = two_tier_hits(conversation, Policy.LRU, capacity // 4, capacity)
    assert both == prefix_hits(conversation, Policy.LRU, capacity) > 1_000


def test_a_made_stream_is_chats_that_grow() -> None:
    trace = make_sessions(30_000, seed=3)
    assert len(trace.block_ids) == pytest.approx(30_000, rel=0.05)
    assert trace.unique_blocks == pytest.approx(10_000, rel=0.1)
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert (trace.reusable_blocks == np.diff(trace.block_starts)).all()
    asked = [
        tuple(trace.block_ids[trace.block_starts[r] : trace.block_starts[r + 1]].tolist())
        for r in range(len(trace))
    ]
    seen: set[tuple[int, ...]] = set()
    further_turns = 0
    for ids in asked:
        further_turns += any(ids[:length] in seen for length in range(1, len(ids)))
        seen.add(ids)
    assert further_turns == len(asked) * 3 // 4, "all but the first turn of each go on from one"
    again = make_sessions(30_000, seed=3)
    assert (again.block_ids == trace.block_ids).all()


def test_every_size_is_asked_for_the_same_work() -> None:
    """The shares that hit are alike, or the cost of an access could not be compared."""
    shares = []
    for accesses in (20_000, 200_000):
        result = measure_scaling(accesses, lambda side: (1.0, side()))
        hits = {name: side["hits"] for name, side in result["sides"].items()}
        assert hits["index, one tier"] == hits["index, two tiers and leases"]
        shares.append(hits["index, one tier"] / result["accesses"])
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
