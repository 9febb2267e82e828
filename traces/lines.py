"""From lines to batches: what all formats of one request a line share.

A format gives a `LineParser`; `collect` checks what it returns, brings requests that are slightly
out of order into order, and names the line of whatever is wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from greencache.errors import TraceError
from greencache.traces.batches import BATCH_NAMES, BATCH_REQUESTS, Batch

__all__ = [
    "LATEST_S",
    "MOST_TOKENS",
    "BadLineError",
    "LineParser",
    "RecentKeys",
    "Request",
    "block_names",
    "collect",
]

MOST_TOKENS = 2**31
"""No prompt or answer has as many; sums over any trace stay inside 64 bits."""

LATEST_S = 1e12
"""No clock shows as much: it is 30,000 years, and still resolved to a tenth of a millisecond."""


class BadLineError(ValueError):
    """A line is no request in its format; the text says why."""


class Request(NamedTuple):
    """One line, as its format reads it; `collect` checks the values."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    block_names: array[int]
    session: int = 0


class LineParser(ABC):
    """How one format reads a line, and what holds for all its lines.

    Attributes
    ----------
    block_tokens:
        Tokens to a block; may be set by the first line.
    fields:
        What the format calls arrival, prompt length and answer length.
    hashes:
        What it calls the block names, None where it has none.
    names_all:
        Whether every full block is named; otherwise some at the end may be missing.
    has_sessions:
        Whether it knows sessions.
    window:
        How many requests a line may be late; 0 where lines must be in order.
    """

    block_tokens: int
    fields: ClassVar[tuple[str, str, str]]
    hashes: ClassVar[str | None] = None
    names_all: ClassVar[bool] = False
    has_sessions: bool = False
    window: ClassVar[int] = 0

    @abstractmethod
    def parse(self, text: bytes) -> Request | None:
        """Read one line; None if it records something that is no answered request.

        May raise `BadLineError`, and what msgspec raises.
        """


def block_names(ids: list[int]) -> array[int]:
    """Ids of up to 64 bits, signed or not, as signed ones: only their equality matters.

    Raises
    ------
    BadLineError
        If one has more bits.
    """
    try:
        return array("q", ids)
    except OverflowError:
        if not -(2**63) <= min(ids) <= max(ids) < 2**64:
            raise BadLineError("a block id does not fit in 64 bits") from None
        return array("q", [each - 2**64 if each >= 2**63 else each for each in ids])


class RecentKeys:
    """A map from integers that remembers the latest entries, in memory that does not grow.

    An entry is forgotten when another comes whose key is equal modulo the number of slots: with
    keys in sequence, after exactly that many.
    """

    def __init__(self, slots: int = 2**18) -> None:
        self._keys = array("q", [0]) * slots
        self._values = array("q", [0]) * slots
        self._used = bytearray(slots)

    def get(self, key: int) -> int | None:
        """The value of a key of 64 bits, None if it is not known or not known any more."""
        slot = key % len(self._keys)
        return self._values[slot] if self._used[slot] and self._keys[slot] == key else None

    def put(self, key: int, value: int) -> None:
        """Remember a value of a key."""
        slot = key % len(self._keys)
        self._keys[slot] = key
        self._values[slot] = value
        self._used[slot] = True


class _Collector:
    """Requests that wait to be a batch."""

    def __init__(self, parser: LineParser) -> None:
        self._parser = parser
        self._clear()
        self.skipped = 0
        self.frontier_s = 0.0
        """No request may arrive before this any more."""

    def _clear(self) -> None:
        self._arrival_s, self._inputs, self._outputs = array("d"), array("q"), array("q")
        self._names, self._starts, self._sessions = array("q"), array("q", [0]), array("q")

    def add(self, request: Request) -> None:
        self._arrival_s.append(request.arrival_s)
        self._inputs.append(request.input_tokens)
        self._outputs.append(request.output_tokens)
        if self._parser.hashes is not None:
            self._names.extend(request.block_names)
        self._starts.append(len(self._names))
        if self._parser.has_sessions:
            self._sessions.append(request.session)
        if not self._parser.window:
            self.frontier_s = request.arrival_s

    @property
    def is_full(self) -> bool:
        waiting = len(self._arrival_s) - self._parser.window
        return waiting >= BATCH_REQUESTS or len(self._names) >= BATCH_NAMES

    def take(self, *, all_of_them: bool = False) -> Batch:
        """What waits, in order of arrival, but for the latest: requests before them may follow."""
        waiting = self._waiting()
        if np.any(np.diff(waiting.arrival_s) < 0):
            waiting = waiting.take(np.argsort(waiting.arrival_s, kind="stable"))
        # Where prompts are long, the window is shorter, for the sake of memory.
        late = 0 if all_of_them else min(self._parser.window, len(waiting) // 2)
        ready = waiting.take(np.arange(len(waiting) - late)) if late else waiting
        self._clear()
        self.skipped = 0
        if len(ready):
            self.frontier_s = float(ready.arrival_s[-1])
        if late:
            self._put_back(waiting.take(np.arange(len(ready), len(waiting))))
        return ready

    def _waiting(self) -> Batch:
        return Batch(
            np.array(self._arrival_s, np.float64),
            np.array(self._inputs, np.int64),
            np.array(self._outputs, np.int64),
            self._parser.block_tokens,
            np.array(self._names, np.int64),
            np.array(self._starts, np.int64),
            np.array(self._sessions, np.int64) if self._parser.has_sessions else None,
            self.skipped,
        )

    def _put_back(self, batch: Batch) -> None:
        def put(into: array[int] | array[float], values: NDArray[np.generic]) -> None:
            into.frombytes(values.tobytes())

        put(self._arrival_s, batch.arrival_s)
        put(self._inputs, batch.input_tokens)
        put(self._outputs, batch.output_tokens)
        put(self._names, batch.block_names)
        put(self._starts, batch.block_starts[1:])
        if batch.sessions is not None:
            put(self._sessions, batch.sessions)

    @property
    def is_empty(self) -> bool:
        return not self._arrival_s and not self.skipped


def _complaint(request: Request, parser: LineParser, frontier_s: float) -> str | None:
    """What is wrong with the values of a line that parsed, or None."""
    arrival, prompt, answer = parser.fields
    if not 0 <= request.arrival_s < LATEST_S:
        return f"{arrival} is {request.arrival_s:.15g} s; it must be 0 or more, and below 1e12"
    if request.arrival_s < frontier_s:
        late = f"; only {parser.window:,} requests may overtake one" if parser.window else ""
        return f"{arrival} goes back from {frontier_s:.15g} to {request.arrival_s:.15g} s{late}"
    for field, tokens in ((prompt, request.input_tokens), (answer, request.output_tokens)):
        if not 1 <= tokens < MOST_TOKENS:
            return f"{field} is {tokens}; it must be at least 1, and below 2^31"
    if parser.hashes is None:
        return None
    count, full = len(request.block_names), request.input_tokens // parser.block_tokens
    with_partial = -(-request.input_tokens // parser.block_tokens)
    if not (full if parser.names_all else 0) <= count <= with_partial:
        return (
            f"{count} {parser.hashes} for {request.input_tokens} tokens; "
            f"blocks of {parser.block_tokens} tokens make that {with_partial}"
        )
    return None


def collect(
    path: Path,
    lines: Iterable[tuple[int, bytes]],
    parser: LineParser,
    *,
    skip_bad: bool,
) -> Iterator[Batch]:
    """Read numbered lines into batches.

    Parameters
    ----------
    path:
        The file, for errors.
    lines:
        ``(line number, line)``, as `files.read_lines` gives them.
    parser:
        How to read one.
    skip_bad:
        Leave malformed lines out and count them, instead of raising.

    Raises
    ------
    TraceError
        For the first malformed line, without ``skip_bad``.
    """
    collector = _Collector(parser)
    for number, text in lines:
        try:
            request = parser.parse(text)
            complaint = request and _complaint(request, parser, collector.frontier_s)
        except BadLineError as fault:
            complaint = str(fault)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as fault:
            complaint = f"not a request in this format ({fault})"
        if complaint:
            if not skip_bad:
                raise TraceError(path, complaint, line=number)
            collector.skipped += 1
        elif request is None:
            collector.skipped += 1
        else:
            collector.add(request)
            if collector.is_full:
                yield collector.take()
    if not collector.is_empty:
        yield collector.take(all_of_them=True)
