"""An index filled with what stands in slots already goes on as if it had put it there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from greencache.errors import BlockStateError
from greencache.tiers import Policy, TierIndex
from tests.tiers.restoring import contents, restored
from tests.tiers.test_index import chain_of, chains, ids

policies = st.sampled_from(list(Policy))


@st.composite
def indexes(draw: st.DrawFn) -> TierIndex:
    """An index that was used, and shrunk and grown, so that its slots have gaps."""
    index = TierIndex(draw(st.integers(1, 40)), draw(policies))
    now_s = 0.0
    for chain in draw(st.lists(chains, max_size=30)):
        now_s += 1.0
        index.access(chain, now_s)
        if draw(st.booleans()) and draw(st.booleans()):
            size = index.capacity_blocks
            index.resize(draw(st.integers(0, size)), now_s)
            index.resize(size, now_s)
    return index


def matches(index: TierIndex) -> list[int]:
    return [index.match(chain_of(block)) for block in range(63)]


@given(indexes())
def test_it_finds_what_the_other_had(index: TierIndex) -> None:
    new = restored(index, 100.0)
    assert matches(new) == matches(index)
    assert len(new) == len(index)
    assert new.evicted_blocks == 0
    for block in range(63):
        assert new.slot_of(block) == index.slot_of(block)


@given(indexes())
def test_free_slots_are_taken_again_from_the_lowest_on(index: TierIndex) -> None:
    new = restored(index, 100.0)
    held = {new.slot_of(block) for block in range(63)} - {-1}
    room = new.capacity_blocks - len(new)
    reservation = new.reserve(np.arange(100, 100 + room, dtype=np.int32), 101.0)
    expected = [slot for slot in range(new.capacity_blocks) if slot not in held][:room]
    assert reservation.slots.tolist() == expected
    assert new.evicted_blocks == 0


@given(indexes())
def test_a_smaller_tier_keeps_prefixes_and_no_more(index: TierIndex) -> None:
    new = restored(index, 100.0)
    before = matches(new)
    for size in range(len(new) - 1, -1, -1):
        assert new.resize(size, 101.0) == 0
        assert len(new) == size
        now = matches(new)
        assert all(n <= b for n, b in zip(now, before, strict=True))
        present = {block for block in range(63) if new.slot_of(block) >= 0}
        assert present == {int(b) for n in range(63) for b in chain_of(n)[: now[n]]}


@given(indexes())
def test_lru_lets_what_was_restored_first_go_first(index: TierIndex) -> None:
    """A block that others build on is as recent as the most recent of them."""
    order, parents, slots = contents(index)
    block_in = dict(zip(slots.tolist(), order.tolist(), strict=True))
    parent = {
        block: block_in.get(slot)
        for block, slot in zip(order.tolist(), parents.tolist(), strict=True)
    }
    recency = {block: place for place, block in enumerate(order.tolist())}
    new = TierIndex(index.capacity_blocks, Policy.LRU)
    new.restore(order, parents, slots, 100.0)
    while recency:
        leaves = set(recency) - {parent[block] for block in recency}
        victim = min(leaves, key=recency.__getitem__)
        new.resize(len(recency) - 1, 101.0)
        place, above = recency.pop(victim), parent[victim]
        if above is not None:
            recency[above] = max(recency[above], place)
        assert {block for block in range(63) if new.slot_of(block) >= 0} == set(recency)


@given(indexes(), st.lists(chains, max_size=20))
def test_lru_goes_on_as_the_other_would(
    index: TierIndex, requests: list[NDArray[np.int32]]
) -> None:
    if index.policy is not Policy.LRU:
        return
    new = restored(index, 100.0)
    for chain in requests:  # renews what it asks for in both, so both forget all others alike
        index.access(chain, 101.0)
        new.access(chain, 101.0)
    asked = {tuple(chain.tolist()) for chain in requests}
    if sum(len(chain) for chain in asked) <= new.capacity_blocks:
        for chain in requests:
            assert new.match(chain) == index.match(chain) == len(chain)


def test_what_was_restored_goes_before_what_was_used_since() -> None:
    index = TierIndex(12)
    index.access(chain_of(39), now_s=0.0)
    new = restored(index, 1.0)
    new.access(chain_of(31), now_s=2.0)
    new.access(chain_of(47), now_s=3.0)
    assert new.match(chain_of(31)) == len(chain_of(31))
    assert new.match(chain_of(39)) == 3, "the deepest went first"


def test_an_index_that_was_emptied_can_be_restored() -> None:
    index = TierIndex(8)
    index.access(ids(0, 1, 2, 3), now_s=0.0)
    index.resize(0, now_s=1.0)
    index.resize(8, now_s=2.0)
    index.restore(ids(5, 6), ids(-1, 2), ids(2, 6), now_s=3.0)
    assert index.match(ids(5, 6)) == 2
    assert index.occupied_slots().tolist() == [False, False, True, False, False, False, True]
    reservation = index.reserve(ids(5, 6, 10, 11, 12, 13, 14, 15), now_s=4.0)
    assert reservation.slots.tolist() == [0, 1, 3, 4, 5, 7]


def test_only_an_empty_index_can_be_restored() -> None:
    index = TierIndex(4)
    index.access(ids(0), now_s=0.0)
    with pytest.raises(BlockStateError, match="empty"):
        index.restore(ids(1), ids(-1), ids(2), now_s=1.0)


def test_nothing_is_restored_from_nothing() -> None:
    index = TierIndex(4)
    none = np.zeros(0, np.int32)
    index.restore(none, none, none, now_s=0.0)
    assert len(index) == 0
    assert index.access(ids(0, 1), now_s=1.0) == 0
    assert index.match(ids(0, 1)) == 2


def test_a_long_chain_is_dropped_at_once() -> None:
    """In time in proportion to the tier: by its depth as well, this would take minutes."""
    blocks = 200_000
    index = TierIndex(blocks)
    chain = np.arange(blocks, dtype=np.int32)
    index.access(chain, now_s=0.0)
    assert index.drop(1) == blocks - 1
    assert index.match(chain) == 1
    assert index.drop(1) == 0
    assert index.access(chain, now_s=1.0) == 1


def test_a_lease_without_access_does_not_renew() -> None:
    index = TierIndex(3)
    for block in (0, 1, 2):
        index.access(ids(block), now_s=float(block))
    index.release(index.lease(ids(0)), now_s=3.0)
    index.access(ids(7), now_s=4.0)
    assert index.match(ids(0)) == 0, "it was the oldest still"
    index.release(index.acquire(ids(1), now_s=5.0), now_s=5.0)
    index.access(ids(8), now_s=6.0)
    assert index.match(ids(1)) == 1
    assert index.match(ids(2)) == 0
