"""What can be done to a trace: larger blocks keep all that is shared and nothing that is not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.errors import InputError
from greencache.traces import RequestTrace
from tests.bench.traces import make_trace


def shared_blocks(trace: RequestTrace, a: int, b: int) -> int:
    """Full blocks that two prompts have in common from their start."""
    chains = [
        trace.block_ids[trace.block_starts[r] : trace.block_starts[r] + trace.full_blocks[r]]
        for r in (a, b)
    ]
    length = min(len(chain) for chain in chains)
    differ = np.flatnonzero(chains[0][:length] != chains[1][:length])
    return int(differ[0]) if len(differ) else length


@given(
    st.lists(st.integers(1, 900), min_size=2, max_size=2),
    st.integers(0, 900),
    st.sampled_from([2, 4, 5]),
)
def test_larger_blocks_are_shared_as_far_as_their_tokens_are(
    inputs: list[int], common_tokens: int, factor: int
) -> None:
    common = min(common_tokens, *inputs) // 16
    names = [
        [*range(common), *range(1000 * (r + 1), 1000 * (r + 1) + -(-tokens // 16) - common)]
        for r, tokens in enumerate(inputs)
    ]
    fine = make_trace([(float(r), inputs[r], 1, names[r]) for r in range(2)], block_tokens=16)
    coarse = fine.in_blocks_of(16 * factor)
    assert coarse.full_blocks.tolist() == [tokens // (16 * factor) for tokens in inputs]
    assert shared_blocks(coarse, 0, 1) == shared_blocks(fine, 0, 1) // factor


def test_blocks_that_cannot_be_made_are_refused() -> None:
    trace = make_trace([(0.0, 40, 1, [1, 2, 3])], block_tokens=16)
    assert trace.in_blocks_of(16) is trace
    for tokens in (8, 24):
        with pytest.raises(InputError, match="choose a multiple"):
            trace.in_blocks_of(tokens)
    for tokens in (0, -16, 2**40):
        with pytest.raises(InputError, match="1 token or more"):
            trace.in_blocks_of(tokens)


def test_a_trace_that_names_no_blocks_can_be_in_blocks_of_any_size() -> None:
    trace = make_trace([(0.0, 40, 1, []), (1.0, 50, 1, [])], block_tokens=16)
    assert not trace.has_blocks
    assert trace.in_blocks_of(10).block_tokens == 10
    assert trace.full_blocks.tolist() == [0, 0]
    assert trace.unique_blocks == 0


chains = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


def chain_trace(names: list[list[int]]) -> RequestTrace:
    return make_trace([(float(r), 512 * len(each), 1, each) for r, each in enumerate(names)])


@given(chains, st.randoms(use_true_random=False))
def test_names_that_are_chained_already_give_the_same_ids(
    names: list[list[int]], random: Random
) -> None:
    trace = chain_trace(names)
    other_names = list(range(3 * trace.unique_blocks))
    random.shuffle(other_names)
    renamed = np.array(other_names, np.int32)[trace.block_ids]
    chained = replace(trace, block_names=renamed, chained=True)
    assert chained.block_ids.tolist() == trace.block_ids.tolist()
    keep = np.array([random.random() < 0.5 for _ in names])
    assert chained.select(keep).block_ids.tolist() == trace.select(keep).block_ids.tolist()


def test_ids_numbered_already_are_not_copied() -> None:
    trace = chain_trace([[1, 2], [1, 3], [1, 2]])
    numbered = replace(trace, block_names=trace.block_ids, chained=True)
    assert numbered.block_ids is trace.block_ids
