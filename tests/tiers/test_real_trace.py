"""The store's LRU on the real trace: the index, the curve and a reference that shares nothing."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from greencache.bench.curve import measure_curve
from greencache.tiers import Policy, TierIndex
from greencache.traces import RequestTrace


class OrderedPrefixLru:
    """Prefix LRU on an ``OrderedDict``: parents are kept newer than their children.

    So the oldest entry never has a child, and eviction is from the front alone. Each request's
    blocks are moved to the back from the deepest to the first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blocks: OrderedDict[tuple[int, int], None] = OrderedDict()

    def serve(self, names: list[int], reusable: int) -> int:
        keys = list(enumerate(names))
        hits = 0
        while hits < reusable and keys[hits] in self.blocks:
            hits += 1
        kept = keys[: self.capacity]
        for key in reversed(kept):
            self.blocks[key] = None
            self.blocks.move_to_end(key)
        while len(self.blocks) > self.capacity:
            self.blocks.popitem(last=False)
        return hits


@pytest.mark.parametrize("capacity", [300, 20_000])
def test_prefix_lru_equals_the_reference(conversation: RequestTrace, capacity: int) -> None:
    reference = OrderedPrefixLru(capacity)
    expected = 0
    for r in range(len(conversation)):
        start = conversation.block_starts[r]
        names = conversation.block_names[start : start + conversation.full_blocks[r]].tolist()
        expected += reference.serve(names, int(conversation.reusable_blocks[r]))
    index = TierIndex(capacity)
    found = 0
    for r in range(len(conversation)):
        start = conversation.block_starts[r]
        ids = conversation.block_ids[start : start + conversation.full_blocks[r]]
        reusable = int(conversation.reusable_blocks[r])
        found += index.access(ids, float(conversation.arrival_s[r]), reusable=reusable)
    curve = measure_curve(conversation, Policy.LRU, [capacity])
    assert found == curve.points[0].prefix_hit_blocks == expected
    assert expected > 10_000
