"""Libraries of recorded sessions: what a composed stream is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from greencache.errors import UnknownNameError
from greencache.quantities import HOUR_S
from greencache.traces.chains import Reuse, reuse_kinds, sessions_by_chain
from greencache.traces.mooncake import MOONCAKE_BLOCK_TOKENS
from greencache.traces.numbering import number_by_first_appearance
from greencache.traces.recordings import RECORDINGS, Recording, recorded_trace
from greencache.traces.requests import RequestTrace

__all__ = [
    "DOCUMENT_TOKENS",
    "WORKLOADS",
    "SessionLibrary",
    "entries_of",
    "recorded_sessions",
    "session_library",
]

WORKLOADS = ("conversation", "document", "agentic")

SETTLED_S = 600.0
"""A session that is first seen earlier than this may have begun before the recording did: such
prompts are a quarter longer than later first prompts. Nine in ten gaps within a session are shorter
(p90 480 s)."""

FOLLOWED_S = 2000.0
"""A session first seen later than this before the end is left out, for its last turns would be
missing: those followed this long have 1.74 requests, all that the hour holds 1.63. 99 in 100 gaps
within a session are shorter than 1,500 s."""

DOCUMENT_TOKENS = 4096
"""A text of at least this many tokens that is asked about again is a document."""

LONGEST_SESSION_S = 24 * HOUR_S
"""Sessions are followed for a day. Three of the 337 recorded ones last longer (to five days);
185 of their 22,577 requests come later and are left out."""


@dataclass(frozen=True)
class SessionLibrary:
    """Recorded sessions, laid out to be copied many times.

    Sessions follow one another, their requests too, and the blocks of these.

    Attributes
    ----------
    name, source, licence:
        The recording.
    block_tokens:
        Tokens to a block.
    session_starts:
        Where each session begins among the requests; one entry more than there are sessions.
    offset_s:
        For each request, its arrival since its session's first; never decreasing in a session.
    input_tokens, output_tokens:
        For each request.
    block_starts:
        Where each request begins in ``blocks``; one entry more than there are requests.
    blocks:
        Chained blocks. Those from 0 are private to the session and numbered within it by first
        appearance; -1, -2, … are shared by several sessions (system prompts).
    private_blocks:
        For each session, how many private blocks it has.
    shared_blocks:
        How many blocks are shared.
    """

    name: str
    source: str
    licence: str
    block_tokens: int
    session_starts: NDArray[np.int64]
    offset_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    block_starts: NDArray[np.int64]
    blocks: NDArray[np.int32]
    private_blocks: NDArray[np.int64]
    shared_blocks: int

    def __len__(self) -> int:
        return len(self.private_blocks)

    @property
    def requests_per_session(self) -> float:
        """Mean requests of a session."""
        return len(self.offset_s) / len(self)

    @property
    def full_private_blocks(self) -> int:
        """Different full blocks that are private to a session, over all sessions."""
        lengths = np.diff(self.block_starts)
        full = np.minimum(self.input_tokens // self.block_tokens, lengths)
        within = np.arange(len(self.blocks)) - np.repeat(self.block_starts[:-1], lengths)
        before = np.cumsum(self.private_blocks) - self.private_blocks
        of_request = np.repeat(before, np.diff(self.session_starts))
        kept = (within < np.repeat(full, lengths)) & (self.blocks >= 0)
        is_full = np.zeros(int(self.private_blocks.sum()), np.bool_)
        is_full[(np.repeat(of_request, lengths) + self.blocks)[kept]] = True
        return int(is_full.sum())

    @property
    def longest_s(self) -> float:
        """Time from the first request of a session to its last, at most."""
        return float(self.offset_s.max())

    @classmethod
    def of_trace(cls, trace: RequestTrace, name: str, about: Recording) -> SessionLibrary:
        """Take the sessions of a trace that knows them, in order of their first request.

        A block seen in several sessions is shared; since ids are chained, so is all before it.
        """
        assert trace.sessions is not None
        session = number_by_first_appearance(trace.sessions.astype(np.int32))
        order = np.argsort(session, kind="stable")
        session = session[order]
        session_starts = np.flatnonzero(np.diff(session, prepend=-1, append=session[-1] + 1))
        requests = np.diff(session_starts)
        arrival_s = trace.arrival_s[order]
        lengths = np.diff(trace.block_starts)[order]
        ids = trace.block_ids[entries_of(trace.block_starts, order)]
        of_entry = np.repeat(session, lengths)
        owner = np.zeros(trace.unique_blocks, np.int32)
        owner[ids] = of_entry
        shared = np.zeros(trace.unique_blocks, np.bool_)
        shared[ids[owner[ids] != of_entry]] = True
        is_private = ~shared[ids]
        # A private block is of one session only, so numbers by first appearance go on from session
        # to session without mixing.
        numbers = number_by_first_appearance(ids[is_private])
        private = np.zeros(len(requests), np.int64)
        np.maximum.at(private, of_entry[is_private], numbers + 1)
        ends = np.maximum.accumulate(private)
        begins = np.concatenate([[0], ends[:-1]])
        blocks = np.empty(len(ids), np.int32)
        blocks[is_private] = numbers - begins[of_entry[is_private]]
        blocks[~is_private] = -1 - number_by_first_appearance(ids[~is_private])
        return cls(
            name=name,
            source=about.source,
            licence=about.licence,
            block_tokens=trace.block_tokens,
            session_starts=session_starts.astype(np.int64),
            offset_s=arrival_s - np.repeat(arrival_s[session_starts[:-1]], requests),
            input_tokens=trace.input_tokens[order],
            output_tokens=trace.output_tokens[order],
            block_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            blocks=blocks,
            private_blocks=ends - begins,
            shared_blocks=int(shared.sum()),
        )


def entries_of(starts: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the entries of chosen rows of a ragged array, row after row."""
    lengths = np.diff(starts)[chosen]
    moved = np.cumsum(lengths) - lengths
    entries: NDArray[np.int64]
    entries = np.arange(lengths.sum()) + np.repeat(starts[:-1][chosen] - moved, lengths)
    return entries


def _first_arrivals_s(trace: RequestTrace) -> NDArray[np.float64]:
    """For each request, when its session began."""
    assert trace.sessions is not None
    _, first, session = np.unique(trace.sessions, return_index=True, return_inverse=True)
    begun_s: NDArray[np.float64] = trace.arrival_s[first][session]
    return begun_s


def _conversations() -> RequestTrace:
    trace = recorded_trace("mooncake-conversation")
    trace = replace(trace, sessions=sessions_by_chain(trace))
    begun_s = _first_arrivals_s(trace)
    return trace.select((begun_s >= SETTLED_S) & (begun_s < trace.arrival_s[-1] - FOLLOWED_S))


def _documents() -> RequestTrace:
    trace = recorded_trace("mooncake-conversation")
    sessions = sessions_by_chain(trace)
    kinds, shared = reuse_kinds(trace)
    again = (kinds == Reuse.REPEATS) | (kinds == Reuse.BRANCHES)
    long = shared * trace.block_tokens >= DOCUMENT_TOKENS
    trace = replace(trace, sessions=sessions)
    return trace.select(np.isin(sessions, sessions[again & long]))


def _agents() -> RequestTrace:
    trace = recorded_trace("agentic-sessions")
    return trace.select(trace.arrival_s - _first_arrivals_s(trace) < LONGEST_SESSION_S)


_SOURCES = {
    "conversation": ("mooncake-conversation", _conversations),
    "document": ("mooncake-conversation", _documents),
    "agentic": ("agentic-sessions", _agents),
}

_BLOCK_TOKENS = MOONCAKE_BLOCK_TOKENS


def recorded_sessions(workload: str, block_tokens: int | None = None) -> RequestTrace:
    """The recorded requests whose sessions a workload is made of, each with its session.

    Parameters
    ----------
    workload:
        ``conversation``, ``document`` or ``agentic``.
    block_tokens:
        Tokens to a block, a multiple of the recording's own; by default 512.

    Raises
    ------
    UnknownNameError
        If there is no such workload.
    InputError
        If such blocks cannot be made of the recording's.
    """
    if workload not in _SOURCES:
        raise UnknownNameError("workload", workload, WORKLOADS)
    return _SOURCES[workload][1]().in_blocks_of(block_tokens or _BLOCK_TOKENS)


@cache
def session_library(workload: str, block_tokens: int | None = None) -> SessionLibrary:
    """The library of a workload; parameters and errors as of `recorded_sessions`."""
    trace = recorded_sessions(workload, block_tokens)
    recording, _ = _SOURCES[workload]
    return SessionLibrary.of_trace(trace, recording, RECORDINGS[recording])
