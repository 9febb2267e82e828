"""Libraries of recorded sessions keep what the recording says of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.errors import InputError, UnknownNameError
from greencache.traces import RequestTrace
from greencache.traces.recordings import Recording
from greencache.traces.sessions import (
    DOCUMENT_TOKENS,
    LONGEST_SESSION_S,
    WORKLOADS,
    SessionLibrary,
    recorded_sessions,
    session_library,
)
from tests.bench.traces import make_trace


def library_of(chains: list[list[int]], sessions: list[int]) -> SessionLibrary:
    trace = make_trace([(float(r), 9999, r + 1, chain) for r, chain in enumerate(chains)])
    return SessionLibrary.of_trace(
        replace(trace, sessions=np.array(sessions)), "made", Recording("a test", "none")
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=5)),
        min_size=1,
        max_size=20,
    )
)
def test_a_library_keeps_which_blocks_are_equal_and_which_are_shared(
    requests: list[tuple[int, list[int]]],
) -> None:
    sessions, chains = [s for s, _ in requests], [c for _, c in requests]
    library = library_of(chains, sessions)
    assert len(library) == len(set(sessions))
    # Walk the library beside the requests as it should have ordered them.
    owners: dict[tuple[int, ...], set[int]] = {}
    for session, chain in requests:
        for i in range(len(chain)):
            owners.setdefault(tuple(chain[: i + 1]), set()).add(session)
    order = sorted(range(len(requests)), key=lambda r: sessions.index(sessions[r]))
    assert library.output_tokens.tolist() == [r + 1 for r in order]
    named: dict[tuple[int, int], tuple[int, ...]] = {}
    for at, r in enumerate(order):
        blocks = library.blocks[library.block_starts[at] : library.block_starts[at + 1]].tolist()
        session = int(np.searchsorted(library.session_starts, at, side="right")) - 1
        for i, block in enumerate(blocks):
            prefix = tuple(chains[r][: i + 1])
            assert (block < 0) == (len(owners[prefix]) > 1)
            assert block < library.private_blocks[session]
            assert -1 - block < library.shared_blocks
            assert named.setdefault((session if block >= 0 else -1, block), prefix) == prefix
    assert len(named) == library.private_blocks.sum() + library.shared_blocks == len(owners)


def test_offsets_begin_at_nought_in_each_session() -> None:
    library = library_of([[1], [2], [1], [2, 3]], [7, 5, 7, 5])
    assert library.session_starts.tolist() == [0, 2, 4]
    assert library.offset_s.tolist() == [0, 2, 0, 2]
    assert library.longest_s == 2
    assert library.requests_per_session == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "sessions", "requests", "shared"),
    [("conversation", 1870, 3256, 1), ("document", 225, 898, 1), ("agentic", 337, 22373, 0)],
)
def test_shipped_libraries(workload: str, sessions: int, requests: int, shared: int) -> None:
    """Sizes as docs/workloads.md states them."""
    library = session_library(workload)
    assert (len(library), len(library.offset_s)) == (sessions, requests)
    assert library.shared_blocks == shared
    assert library.block_tokens == 512
    assert library.offset_s.min() >= 0
    assert library.longest_s < LONGEST_SESSION_S


def test_every_document_is_long_and_asked_about_again() -> None:
    trace = recorded_sessions("document")
    assert trace.sessions is not None
    for session in np.unique(trace.sessions):
        rows = np.flatnonzero(trace.sessions == session)
        chains = [
            trace.block_ids[trace.block_starts[r] : trace.block_starts[r] + trace.full_blocks[r]]
            for r in rows
        ]
        common = max(
            np.argmin(np.append(a[: len(b)] == b[: len(a)], False))
            for i, a in enumerate(chains)
            for b in chains[:i]
        )
        assert common * 512 >= DOCUMENT_TOKENS


@pytest.mark.slow
def test_larger_blocks_share_less_and_others_are_refused() -> None:
    fine, coarse = session_library("conversation"), session_library("conversation", 1024)
    assert coarse.block_tokens == 1024
    assert coarse.shared_blocks == 0  # the system prompt has 512 tokens
    assert coarse.input_tokens.tolist() == fine.input_tokens.tolist()
    with pytest.raises(InputError, match="choose a multiple"):
        session_library("conversation", 256)
    with pytest.raises(UnknownNameError, match="unknown workload 'chat'"):
        session_library("chat")
    assert all(session_library(workload) for workload in WORKLOADS)


@pytest.mark.slow
def test_agentic_blocks_come_from_one_session_each(agentic: RequestTrace) -> None:
    assert agentic.sessions is not None
    of_entry = np.repeat(agentic.sessions, np.diff(agentic.block_starts))
    first = np.full(agentic.unique_blocks, -1)
    first[agentic.block_ids] = of_entry
    assert (first[agentic.block_ids] == of_entry).all()
    assert agentic.input_tokens.sum() == pytest.approx(2.53e9, rel=0.01)


@pytest.fixture(scope="module")
def agentic() -> RequestTrace:
    return recorded_sessions("agentic")


def test_full_private_blocks_are_counted_as_by_hand() -> None:
    library = session_library("document")
    counted = set()
    for session in range(len(library)):
        for r in range(library.session_starts[session], library.session_starts[session + 1]):
            first = library.block_starts[r]
            full = min(library.input_tokens[r] // 512, library.block_starts[r + 1] - first)
            blocks = library.blocks[first : first + full].tolist()
            counted |= {(session, block) for block in blocks if block >= 0}
    assert library.full_private_blocks == len(counted)
