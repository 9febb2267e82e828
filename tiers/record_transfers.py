"""``RecordTransfers``: commands and batches of records, to servers and from them, in threads.

A batch is shared by several connections to each node, each with a thread of its own, that take the
next record in turns: so they come in order, and a batch that is cut short has a good beginning.
Large ones go from and to the caller's buffers without a copy, and are hashed piece by piece while
they are in the processor's cache. What a server has to keep for us is bounded: of answers that were
not read yet, and of commands that were not answered.

Lookups, reads and writes have threads of their own, and each kind one deadline: none waits for
another kind, and whoever waits for a thread waits no longer than that.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from greencache.tiers.records import CHECKSUM_BYTES, HEADER_BYTES, Checksum, RecordFormat
from greencache.tiers.resp import (
    Deadline,
    ProtocolError,
    Reply,
    ReplyError,
    RespConnection,
    ServerAddress,
    command,
)
from greencache.tiers.servers import SERVER_FAULTS, Servers
from greencache.tiers.workers import run_all, start_threads

__all__ = ["Found", "Outcome", "Part", "RecordTransfers", "Results", "cause_of"]

PIECE_BYTES = 2**20
"""Hashed at once, while the processor has it in its caches; less takes more system calls."""

SMALL_BYTES = 32 * 1024
"""Smaller ones are copied together, so that a system call moves many."""
TOGETHER_BYTES = 256 * 1024

UNREAD_BYTES = 4 * 2**20
"""Answers that a connection may ask a server for ahead; two records if that is more. Of more, a
server on this host copies what has left the processor's caches when it is sent."""
UNANSWERED_BYTES = 4 * 2**20
"""What a connection sends before it reads answers; two records if that is more."""
MOST_COMMANDS = 1024
"""The same, of small commands."""

LOOKUP_THREADS = 4
TRIES = 3
"""How often something is sent again to where it has moved."""

T = TypeVar("T")


class Outcome(IntEnum):
    """What became of a block, or a part of it, that was read; of several the greatest counts."""

    GOOD = 0
    MISSING = 1
    DAMAGED = 2


class Part(NamedTuple):
    """One record of a batch of blocks."""

    name: bytes
    key: bytes
    number: int
    """Which part of the block it is."""
    view: memoryview
    """Its bytes, to be read or to be written."""


class Found(NamedTuple):
    """What became of a part that was read."""

    outcome: Outcome
    writer: bytes = b""
    """Whose it is, if it is good."""


@dataclass
class Results(Generic[T]):
    """What came of each thing asked for; None where nothing did, and the faults for which.

    Attributes
    ----------
    each:
        In the order in which they were asked for.
    faults:
        What went wrong.
    """

    each: list[T | None]
    faults: list[Exception] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    stop: int = 0
    """Places from here on are of no use any more."""


def cause_of(fault: Exception) -> str:
    """A word or two for a fault, of which there are few."""
    if isinstance(fault, ReplyError):
        if "no such key" in str(fault):
            return "evicted"  # by the server, before it could be committed
        return fault.code if fault.code.isupper() else "refused"
    if isinstance(fault, ProtocolError):
        return "garbage"
    if isinstance(fault, TimeoutError):
        return "timeout"
    return "TLS" if isinstance(fault, ssl.SSLError) else "connection"


class RecordTransfers:
    """Talks to servers.

    Parameters
    ----------
    servers:
        Which; closed with this.
    records:
        What is kept there.
    connections:
        To each node, for reads, and as many for writes.
    """

    def __init__(self, servers: Servers, records: RecordFormat, connections: int) -> None:
        self._servers, self._records = servers, records
        self._connections = connections
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, "greencache-redis-lookup")
        self._reads = ThreadPoolExecutor(connections, "greencache-redis-read")
        self._writes = ThreadPoolExecutor(connections, "greencache-redis-write")

    def open(self) -> None:
        """Start the threads.

        Raises
        ------
        TierError
            If there are not so many to be had; everything is closed then.
        """
        threads = [LOOKUP_THREADS, self._connections, self._connections]
        try:
            for pool, count in zip(self._pools, threads, strict=True):
                start_threads(pool, count)
        except BaseException:
            self.close()
            raise

    @property
    def _pools(self) -> tuple[ThreadPoolExecutor, ...]:
        return self._lookups, self._reads, self._writes

    def close(self) -> None:
        """Wait for what is under way, which no deadline outlasts; close all connections."""
        for pool in self._pools:
            pool.shutdown()
        self._servers.close()

    async def ask(
        self, names: Sequence[bytes], commands: Sequence[bytes], deadline_s: float
    ) -> Results[Reply]:
        """Send a command for each name to where that stands; its reply, if it is not an error."""
        results: Results[Reply] = Results([None] * len(names), stop=len(names))

        def work(connection: RespConnection, places: deque[int], deadline: Deadline) -> None:
            while places:
                some = [places.popleft() for _ in range(min(len(places), MOST_COMMANDS))]
                connection.send(b"".join([commands[place] for place in some]), deadline)
                replies = connection.replies(len(some), deadline)
                for place, reply in zip(some, replies, strict=True):
                    if isinstance(reply, ReplyError):
                        self._note(results, place, reply)
                    else:
                        results.each[place] = reply

        await self._scatter(self._lookups, 1, names, results, work, deadline_s)
        return results

    async def read(self, parts: Sequence[Part], deadline_s: float) -> Results[Found]:
        """Read parts into their buffers, up to the first that is not good or a little beyond."""
        results: Results[Found] = Results([None] * len(parts), stop=len(parts))
        ahead = max(2, UNREAD_BYTES // self._records.record_bytes(0))

        def work(connection: RespConnection, places: deque[int], deadline: Deadline) -> None:
            asked: deque[int] = deque()
            while True:
                if len(asked) <= ahead // 2:
                    more = _take(places, ahead - len(asked), results)
                    asked += more
                    if more:
                        wanted = [command(b"GET", parts[place].name) for place in more]
                        connection.send(b"".join(wanted), deadline)
                if not asked:
                    return
                place = asked.popleft()
                self._note(results, place, self._read_one(connection, parts[place], deadline))

        names = [part.name for part in parts]
        await self._scatter(self._reads, self._connections, names, results, work, deadline_s)
        return results

    def _read_one(
        self, connection: RespConnection, part: Part, deadline: Deadline
    ) -> Found | ReplyError:
        length = connection.value_length(self._records.record_bytes(part.number), deadline)
        if length is None:
            return Found(Outcome.MISSING)
        if isinstance(length, ReplyError):
            return Found(Outcome.DAMAGED) if length.code == "WRONGTYPE" else length
        if length != self._records.record_bytes(part.number):
            connection.skip_value(length, deadline)
            return Found(Outcome.DAMAGED)
        header = bytearray(HEADER_BYTES)
        connection.read_into(memoryview(header), deadline)
        hashed = Checksum(header)
        for begin in range(0, len(part.view), PIECE_BYTES):
            piece = part.view[begin : begin + PIECE_BYTES]
            connection.read_into(piece, deadline)
            hashed.update(piece)
        checksum = connection.end_value(deadline, CHECKSUM_BYTES)
        writer = self._records.writer_of(header, part.key, part.number)
        if writer is None or checksum != hashed.digest():
            return Found(Outcome.DAMAGED)
        return Found(Outcome.GOOD, writer)

    async def write(
        self, parts: Sequence[Part], writer: bytes, ttl_s: float, deadline_s: float
    ) -> Results[Reply]:
        """Write records under their names, to stay for a while."""
        results: Results[Reply] = Results([None] * len(parts), stop=len(parts))
        window = max(2, UNANSWERED_BYTES // self._records.record_bytes(0))
        share = 2 * self._connections
        after = b"\r\n$2\r\nPX\r\n" + _word(b"%d" % round(ttl_s * 1000))

        def work(connection: RespConnection, places: deque[int], deadline: Deadline) -> None:
            # Fewer towards the end, so that all connections end at about the same time.
            while some := _take(places, min(window, 1 + len(places) // share), results):
                together = bytearray()
                for place in some:
                    name, key, number, view = parts[place]
                    header = self._records.header(key, number, writer)
                    together += b"*5\r\n$3\r\nSET\r\n" + _word(name)
                    together += b"$%d\r\n" % self._records.record_bytes(number) + header
                    hashed = Checksum(header)
                    if len(view) < SMALL_BYTES:
                        hashed.update(view)
                        together += view
                    else:
                        connection.send(together, deadline, more=True)
                        together.clear()
                        for begin in range(0, len(view), PIECE_BYTES):
                            piece = view[begin : begin + PIECE_BYTES]
                            hashed.update(piece)
                            connection.send(piece, deadline, more=True)
                    together += hashed.digest() + after
                    if len(together) >= TOGETHER_BYTES:
                        connection.send(together, deadline)
                        together.clear()
                if together:
                    connection.send(together, deadline)
                for place in some:
                    self._note(results, place, connection.reply(deadline))

        names = [part.name for part in parts]
        await self._scatter(self._writes, self._connections, names, results, work, deadline_s)
        return results

    async def _scatter(
        self,
        pool: ThreadPoolExecutor,
        width: int,
        names: Sequence[bytes],
        results: Results[T],
        work: Callable[[RespConnection, deque[int], Deadline], None],
        deadline_s: float,
    ) -> None:
        """Let threads work at the places of ``names``, for each node so many; see `run_all`."""
        deadline = Deadline(deadline_s)
        pending = list(range(len(names)))
        for _ in range(TRIES):
            try:
                if self._servers.is_stale:
                    await run_all(pool, [partial(self._servers.load, deadline)])
                nodes = self._servers.of([names[place] for place in pending])
            except SERVER_FAULTS as fault:
                results.faults.append(fault)
                return
            calls = []
            for node, found in nodes.items():
                places = deque(pending[each] for each in found)
                part = partial(self._part, node, places, results, work, deadline)
                calls += [part] * min(width, len(found))
            await run_all(pool, calls)
            pending, results.moved = sorted(results.moved), []
            if not pending:
                return
        results.faults.append(ReplyError("MOVED again and again"))

    def _part(
        self,
        node: ServerAddress,
        places: deque[int],
        results: Results[T],
        work: Callable[[RespConnection, deque[int], Deadline], None],
        deadline: Deadline,
    ) -> None:
        """What one thread does with one connection."""
        if not places:
            return  # others were faster
        try:
            with self._servers.connection(node, deadline) as connection:
                work(connection, places, deadline)
        except SERVER_FAULTS as fault:
            results.faults.append(fault)
            results.stop = 0
            self._servers.mark_stale()

    def _note(self, results: Results[Any], place: int, found: Reply | Found) -> None:
        """Note what was found at a place, and whether what follows is of use."""
        if isinstance(found, ReplyError) and found.code != "WRONGTYPE":
            if found.code == "MOVED":
                self._servers.moved(found)
                results.moved.append(place)
                return
            results.faults.append(found)
            results.stop = min(results.stop, place)
            return
        results.each[place] = found
        if isinstance(found, Found) and found.outcome is not Outcome.GOOD:
            results.stop = min(results.stop, place)


def _take(places: deque[int], count: int, results: Results[T]) -> list[int]:
    """The next places that are of use, at most so many; other threads take from the same."""
    taken: list[int] = []
    while len(taken) < count:
        try:
            place = places.popleft()
        except IndexError:
            break
        if place < results.stop:
            taken.append(place)
    return taken


def _word(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
