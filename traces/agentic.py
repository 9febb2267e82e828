"""Sessions of coding agents: a Parquet file with block hashes that are local to a session.

The file gathers the sessions of callanjfox/kv-cache-tester (``traces/data/agentic/NOTICE.md``): one
row a request, with ``session``, ``agent``, ``abs_t_s`` (from the session's start; ``t_s`` is from
the agent's), ``input_length``, ``output_length`` and ``hash_ids``, one for each full block of 64
tokens. Sub-agents share the hash ids of their session.

Only times within a session are recorded, so all sessions begin at 0: the order inside a session is
real, the load of all of them together is not.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from greencache.errors import TraceError
from greencache.traces.batches import BATCH_NAMES, BATCH_REQUESTS, Batch
from greencache.traces.parquet import Rows, open_parquet, read_rows

__all__ = ["AGENTIC_BLOCK_TOKENS", "read_agentic"]

AGENTIC_BLOCK_TOKENS = 64

_COLUMNS = ("session", "abs_t_s", "input_length", "output_length", "hash_ids")
_MOST_LOCAL = 2**32
"""Ids within a session are below this; above it in a block's name stands the session."""


class _Gathered:
    """All requests without their blocks, and how many blocks each has."""

    def __init__(self) -> None:
        self.arrival_s, self.inputs, self.outputs = array("d"), array("q"), array("q")
        self.sessions, self.lengths = array("q"), array("q")
        self.skipped = 0
        self._number_of: dict[str, int] = {}

    def add(self, rows: Rows, *, skip_bad: bool) -> bytes:
        """Keep a slice of rows but for its block ids, which are returned, 32 bits each."""
        arrival_s, sessions = rows.arrivals("abs_t_s"), rows.text("session")
        inputs, outputs = rows.tokens("input_length"), rows.tokens("output_length", least=0)
        ids, lengths = rows.lists("hash_ids")
        rows.refuse_too_many_blocks("hash_ids", lengths, inputs, AGENTIC_BLOCK_TOKENS)
        row_of = np.repeat(np.arange(len(rows)), lengths)
        beyond = np.zeros(len(rows), np.bool_)
        beyond[row_of[(ids < 0) | (ids >= _MOST_LOCAL)]] = True
        rows.refuse(beyond, "a hash_id is negative or has more than 32 bits")
        if not skip_bad:
            rows.check()
        rows.leave_out(outputs == 0)
        good = rows.good
        self.arrival_s.frombytes(arrival_s[good].tobytes())
        self.inputs.frombytes(inputs[good].tobytes())
        self.outputs.frombytes(outputs[good].tobytes())
        self.lengths.frombytes(lengths[good].tobytes())
        for row in np.flatnonzero(good):
            number = self._number_of.setdefault(sessions[row], len(self._number_of))
            self.sessions.append(number)
        self.skipped += len(rows) - int(good.sum())
        return ids[good[row_of]].astype(np.uint32).tobytes()


def read_agentic(path: Path, *, skip_bad: bool) -> Iterator[Batch]:
    """Read such a file in batches, in order of arrival.

    The file is ordered by session, so all of it must be read before the first batch. What memory
    holds meanwhile is about 80 bytes a request; the block ids, a hundred times as much, wait in an
    unnamed temporary file. A request without an answer (one that was interrupted) is left out.

    Raises
    ------
    TraceError
        If the file is damaged, there is no room for the temporary file, or (without ``skip_bad``)
        for the first bad row.
    """
    gathered = _Gathered()
    with _spill_for(path) as spill:
        for ids in _gather(path, gathered, skip_bad=skip_bad):
            spill.write(ids)
        yield from _sorted(gathered, spill)


@contextmanager
def _spill_for(path: Path) -> Iterator[BinaryIO]:
    try:
        with tempfile.TemporaryFile() as spill:
            yield cast("BinaryIO", spill)
    except OSError as fault:
        raise TraceError(path, f"cannot be sorted in a temporary file ({fault})") from None


def _gather(path: Path, gathered: _Gathered, *, skip_bad: bool) -> Iterator[bytes]:
    with open_parquet(path) as file:
        for rows in read_rows(path, file, _COLUMNS):
            yield gathered.add(rows, skip_bad=skip_bad)


def _sorted(gathered: _Gathered, spill: BinaryIO) -> Iterator[Batch]:
    arrival_s = np.array(gathered.arrival_s)
    lengths = np.array(gathered.lengths, np.int64)
    sessions = np.array(gathered.sessions, np.int64)
    inputs, outputs = np.array(gathered.inputs, np.int64), np.array(gathered.outputs, np.int64)
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(arrival_s, kind="stable")
    taken = np.cumsum(lengths[order])
    first, skipped = 0, gathered.skipped
    while first < len(order) or skipped:
        before = taken[first - 1] if first else 0
        last = int(np.searchsorted(taken, before + BATCH_NAMES, side="right"))
        last = min(max(last, first + 1), first + BATCH_REQUESTS, len(order))
        rows = order[first:last]
        yield Batch(
            arrival_s[rows],
            inputs[rows],
            outputs[rows],
            AGENTIC_BLOCK_TOKENS,
            _names(spill, starts[rows], lengths[rows], sessions[rows]),
            np.concatenate([[0], np.cumsum(lengths[rows])]).astype(np.int64),
            sessions[rows],
            skipped,
        )
        first, skipped = last, 0


def _names(
    spill: BinaryIO,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sessions: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Names of the blocks of some requests: session and local id side by side."""
    pieces = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        spill.seek(4 * start)
        pieces.append(spill.read(4 * length))
    local = np.frombuffer(b"".join(pieces), np.uint32)
    return np.repeat(sessions * _MOST_LOCAL, lengths) + local.astype(np.int64)
