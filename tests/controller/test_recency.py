"""The order of last access, against a list kept in that order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.recency import Recency, depth_of, forget, new_recency, renew

BLOCKS = 40


@kernel
def run(recency: Recency, steps: NDArray[np.int64], depths: NDArray[np.int64]) -> None:
    """Each step is a block: renewed if positive, forgotten if negative, counted from 1."""
    for i in range(len(steps)):
        block = abs(steps[i]) - 1
        depths[i] = 0
        if recency.tick_of[block] >= 0:
            depths[i] = depth_of(recency, block)
            if steps[i] < 0:
                forget(recency, block)
        if steps[i] > 0:
            renew(recency, block)


@given(
    st.lists(st.integers(-BLOCKS, BLOCKS).filter(bool), max_size=300),
    st.integers(1, 4),
)
@settings(max_examples=200)
def test_depths_are_places_in_the_order(steps: list[int], repeats: int) -> None:
    """Repeated steps use more ticks than there are: blocks get new ones on the way."""
    steps = steps * repeats
    depths = np.zeros(len(steps), np.int64)
    run(new_recency(BLOCKS), np.array(steps, np.int64), depths)
    newest_first: list[int] = []
    for step, depth in zip(steps, depths, strict=True):
        block = abs(step)
        assert depth == (newest_first.index(block) + 1 if block in newest_first else 0)
        if block in newest_first:
            newest_first.remove(block)
        if step > 0:
            newest_first.insert(0, block)


def test_memory_does_not_grow_with_the_stream() -> None:
    recency = new_recency(100_000)
    assert sum(array.nbytes for array in recency) < 5 * 100_000
    steps = np.random.default_rng(1).integers(1, 100_001, 2_000_000)
    depths = np.zeros(len(steps), np.int64)
    run(recency, steps, depths)
    assert depths.max() <= 100_000
    assert depths[-100_000:].mean() > 30_000, "of blocks drawn evenly, about half are nearer"
