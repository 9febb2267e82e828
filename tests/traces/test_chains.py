"""Sessions and turns read off chains of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.traces import RequestTrace
from greencache.traces.chains import Reuse, common_blocks, reuse_kinds, sessions_by_chain
from tests.bench.traces import make_trace

SYSTEM = 0


def test_turns_repeats_and_branches_are_told_apart() -> None:
    """Blocks of 512 tokens after a system prompt of one block; a partial block ends each prompt."""
    others = [(0.0, 2000, 50, [SYSTEM, 100 + i, 0, 0]) for i in range(500)]
    trace = make_trace(
        [
            *others,
            (0.0, 1600, 300, [SYSTEM, 1, 2, 90]),  # a question: three full blocks and 64 tokens
            (1.0, 2000, 50, [SYSTEM, 1, 2, 91]),  # its next turn: 1,600 + 300 tokens fit into it
            (2.0, 1700, 50, [SYSTEM, 1, 2, 92]),  # the same text, but no room for the answer
            (3.0, 2000, 50, [SYSTEM, 1, 7, 8]),  # leaves the first prompt after two blocks
            (4.0, 2000, 50, [SYSTEM, 5, 6, 93]),  # shares the system prompt only
            (5.0, 512, 50, [SYSTEM]),  # is nothing but the system prompt
        ]
    )
    kinds, shared = reuse_kinds(trace)
    assert set(kinds[:500]) == {Reuse.FIRST}
    assert [Reuse(kind) for kind in kinds[500:]] == [
        Reuse.FIRST,
        Reuse.CONTINUES,
        Reuse.REPEATS,
        Reuse.BRANCHES,
        Reuse.FIRST,
        Reuse.FIRST,
    ]
    assert shared[500:].tolist() == [1, 3, 3, 2, 1, 1]


def system_prompted(count: int = 150) -> RequestTrace:
    """Two turns each of many conversations; every third begins with another application's prompt.

    The first turns come first, so that sessions are interleaved.
    """
    prompts = [[SYSTEM, SYSTEM + 1] if c % 3 else [SYSTEM] for c in range(count)]
    first = [(float(c), 5000, 1, [*prompts[c], 1000 + c]) for c in range(count)]
    then = [(float(count + c), 5000, 1, [*prompts[c], 1000 + c, c]) for c in range(count)]
    return make_trace(first + then)


def test_sessions_share_nothing_but_common_blocks() -> None:
    trace = system_prompted()
    assert common_blocks(trace).tolist() == [2 if c % 3 else 1 for c in range(150)] * 2
    assert sessions_by_chain(trace).tolist() == list(range(150)) * 2


def test_a_request_of_nothing_but_common_blocks_is_a_session_of_its_own() -> None:
    trace = make_trace([(0.0, 512, 1, [SYSTEM]), (1.0, 512, 1, [SYSTEM]), (2.0, 512, 1, [SYSTEM])])
    assert sessions_by_chain(trace).tolist() == [0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=30))
def test_two_requests_are_of_one_session_iff_they_share_a_block_that_is_not_common(
    chains: list[list[int]],
) -> None:
    share = 0.4
    trace = make_trace([(float(r), 9999, 1, chain) for r, chain in enumerate(chains)])
    prefixes = [{tuple(c[: i + 1]) for i in range(len(c))} for c in chains]
    count = {p: sum(p in each for each in prefixes) for each in prefixes for p in each}
    own = [{p for p in each if count[p] <= share * len(chains)} for each in prefixes]
    sessions = sessions_by_chain(trace, share)
    for a in range(len(chains)):
        for b in range(a):
            assert (sessions[a] == sessions[b]) == bool(own[a] & own[b])


def test_mooncake_has_one_system_block_and_mostly_next_turns(conversation: RequestTrace) -> None:
    """What the rule says about the real hour, as docs/workloads.md has it."""
    assert set(common_blocks(conversation).tolist()) == {1}
    for share in (0.004, 0.5):
        assert set(common_blocks(conversation, share).tolist()) == {1}
    sessions = sessions_by_chain(conversation)
    assert sessions.max() + 1 == 7373
    kinds, shared = reuse_kinds(conversation)
    assert np.bincount(kinds).tolist() == [7401, 3831, 121, 678]
    reused = np.bincount(kinds, shared - 1 * (shared > 0))
    assert reused[Reuse.CONTINUES] / reused.sum() == pytest.approx(0.895, abs=0.001)


def test_next_turns_grow_by_the_answer_and_a_question(conversation: RequestTrace) -> None:
    """Prompts that hold an earlier one are a little longer than it and its answer, or not at all.

    Were they no next turns, as many would be a little shorter. The rule's slack is between.
    """
    trace, kinds = conversation, reuse_kinds(conversation)[0]
    sessions = sessions_by_chain(trace)
    over = []
    for session in np.flatnonzero(np.bincount(sessions) == 2):
        a, b = np.flatnonzero(sessions == session)
        if kinds[b] in (Reuse.CONTINUES, Reuse.REPEATS):
            over.append(trace.input_tokens[b] - trace.input_tokens[a] - trace.output_tokens[a])
    shorter, within_slack, longer = np.histogram(over, [-128, -64, 0, 64])[0]
    assert longer > 300
    assert shorter < longer / 20
    assert within_slack > 5 * shorter
