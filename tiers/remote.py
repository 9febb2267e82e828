"""``RemoteRecords``: what a tier asks of servers, as long as breakers let it.

Nothing here raises because of a server: what it was asked and did not do is a miss, counted by what
was asked and why that failed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from greencache.tiers.base import Blocks
from greencache.tiers.breaker import Attempt, Breaker, BreakerState
from greencache.tiers.record_transfers import (
    Found,
    Outcome,
    Part,
    RecordTransfers,
    Results,
    cause_of,
)
from greencache.tiers.records import RecordFormat
from greencache.tiers.resp import Reply, command
from greencache.tiers.servers import Servers

__all__ = ["Deadlines", "RemoteRecords"]

DRAFT_S = 60.0
"""Beyond the deadline of writing it, how long a block stays on the server that is not committed."""

T = TypeVar("T")

_log = logging.getLogger("greencache.tiers")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The most that a server may cost, in seconds, however many blocks are asked for at once.

    Attributes
    ----------
    connect_s:
        Until a connection is ready, within the others.
    lookup_s:
        To find, commit or delete blocks.
    read_s, write_s:
        To read and write them.
    """

    connect_s: float = 1.0
    lookup_s: float = 0.25
    read_s: float = 5.0
    write_s: float = 10.0


class RemoteRecords:
    """Records on servers.

    Parameters
    ----------
    name:
        What messages call the tier.
    servers, records, connections:
        As `RecordTransfers` has them.
    ttl_s:
        How long a record stays that nobody asks for.
    deadlines:
        What a server may cost.
    clock:
        Seconds that do not go back.

    Attributes
    ----------
    lookups, reads, writes:
        The breakers.
    failures:
        What went wrong, by cause, and how often.
    """

    def __init__(
        self,
        name: str,
        servers: Servers,
        records: RecordFormat,
        connections: int,
        *,
        ttl_s: float,
        deadlines: Deadlines,
        clock: Callable[[], float],
    ) -> None:
        self._name, self._records, self._deadlines = name, records, deadlines
        self._transfers = RecordTransfers(servers, records, connections)
        self._ttl_ms = b"%d" % round(ttl_s * 1000)
        self.failures: Counter[str] = Counter()
        self.lookups, self.reads, self.writes = (
            Breaker(clock, random.random, partial(self._say, what))
            for what in ("lookups", "reads", "writes")
        )

    def open(self) -> None:
        """As `RecordTransfers.open`."""
        self._transfers.open()

    async def close(self) -> None:
        """Wait for what is under way, which no deadline outlasts; close all connections."""
        await asyncio.to_thread(self._transfers.close)

    async def stored(self, keys: Sequence[bytes]) -> list[int | None]:
        """Bytes of each block's records; 0 where one is missing; None where nobody knows.

        Less than 0 stands for what is no record of it.
        """
        with self.lookups.attempt() as attempt:
            if attempt is None:
                return [None] * len(keys)
            names = self._names(keys)
            asked = [command(b"STRLEN", name) for name in names]
            results = await self._ask("lookup", names, asked, attempt)
        expected = [self._records.record_bytes(part) for part in range(self._records.parts)]
        return [_stored(lengths, expected) for lengths in self._by_block(results.each)]

    async def renew(self, keys: Sequence[bytes]) -> None:
        """Let the time that blocks have to live begin anew, if the server takes writes."""
        if self.writes.would_allow:
            names = self._names(keys)
            asked = [command(b"PEXPIRE", name, self._ttl_ms) for name in names]
            await self._ask("renew", names, asked, Attempt(probe=False))

    async def read(self, keys: Sequence[bytes], into: Blocks) -> list[Outcome | None]:
        """Read blocks into buffers, up to the first that is not good or a little beyond."""
        with self.reads.attempt() as attempt:
            if attempt is None:
                return [None] * len(keys)
            parts = self._parts(self._names(keys), keys, into)
            results = await self._transfers.read(parts, self._deadlines.read_s)
            self._note("read", results, attempt)
        return [_outcome(found) for found in self._by_block(results.each)]

    async def write(self, keys: Sequence[bytes], writer: bytes, blocks: Blocks) -> bool:
        """Write blocks as this writer's drafts; whether all are on the server."""
        limit_s = self._deadlines.write_s
        with self.writes.attempt(decides=False) as attempt:  # only if they can be committed too
            if attempt is None:
                return False
            parts = self._parts(self._drafts(keys, writer), keys, blocks)
            results = await self._transfers.write(parts, writer, limit_s + DRAFT_S, limit_s)
            self._note("write", results, attempt)
        return all(each == b"OK" for each in results.each)

    async def publish(self, keys: Sequence[bytes], writer: bytes) -> int:
        """Let a writer's drafts be found; how many blocks, from the first one, are."""
        drafts = self._drafts(keys, writer)
        asked = []
        for name, draft in zip(self._names(keys), drafts, strict=True):
            asked += [command(b"RENAME", draft, name), command(b"PEXPIRE", name, self._ttl_ms)]
        with self.writes.attempt() as attempt:
            if attempt is None:
                return 0
            names = [name for name in drafts for _ in range(2)]
            results = await self._ask("commit", names, asked, attempt)
        done = zip(results.each[::2], results.each[1::2], strict=True)
        each = self._by_block([answers == (b"OK", 1) for answers in done])
        return next((i for i, parts in enumerate(each) if not all(parts)), len(keys))

    async def discard(self, keys: Sequence[bytes], writer: bytes) -> None:
        """Take drafts off the server."""
        await self._unlink(self._drafts(keys, writer))

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Take blocks off the server; of how many something was there."""
        removed = await self._unlink(self._names(keys))
        return sum(any(parts) for parts in self._by_block(removed))

    async def _unlink(self, names: Sequence[bytes]) -> list[bool]:
        """Take records off the server if it takes writes; which were there.

        That it does so is no sign that it takes more: a full one does.
        """
        if not self.writes.would_allow:
            return [False] * len(names)
        asked = [command(b"UNLINK", name) for name in names]
        results = await self._ask("delete", names, asked, Attempt(probe=False))
        return [each == 1 for each in results.each]

    def count(self, cause: str, what: str) -> None:
        """Count something that is no failure of the server, and say so the first time."""
        if not self.failures[cause]:
            _log.warning("%s: %s: %s; counted from now on", self._name, cause, what)
        self.failures[cause] += 1

    def _names(self, keys: Sequence[bytes]) -> list[bytes]:
        """Of the records of these blocks, one block's after another's."""
        return [name for key in keys for name in self._records.names(key)]

    def _drafts(self, keys: Sequence[bytes], writer: bytes) -> list[bytes]:
        return [name for key in keys for name in self._records.draft_names(key, writer)]

    def _parts(self, names: Sequence[bytes], keys: Sequence[bytes], blocks: Blocks) -> list[Part]:
        """The records of blocks that stand, or are to stand, in buffers."""
        ranges = [self._records.range_of(part) for part in range(self._records.parts)]
        places = (
            (key, number, block.data[begin:end])
            for key, block in zip(keys, blocks, strict=True)
            for number, (begin, end) in enumerate(ranges)
        )
        return [Part(name, *place) for name, place in zip(names, places, strict=True)]

    def _by_block(self, each: Sequence[T]) -> Iterator[Sequence[T]]:
        """What came of each record, a block's together."""
        parts = self._records.parts
        return (each[begin : begin + parts] for begin in range(0, len(each), parts))

    async def _ask(
        self, what: str, names: Sequence[bytes], asked: Sequence[bytes], attempt: Attempt
    ) -> Results[Reply]:
        results = await self._transfers.ask(names, asked, self._deadlines.lookup_s)
        self._note(what, results, attempt)
        return results

    def _note(self, what: str, results: Results[Any], attempt: Attempt) -> None:
        for fault in results.faults:
            attempt.failed(f"{what}: {str(fault) or type(fault).__name__}")
        for cause in {cause_of(fault) for fault in results.faults}:
            self.failures[f"{what}: {cause}"] += 1

    def _say(self, what: str, state: BreakerState, why: str) -> None:
        if state is BreakerState.CLOSED:
            _log.warning("%s: %s go on: %s", self._name, what, why)
        else:
            _log.warning("%s: %s stop for now, all of them are misses: %s", self._name, what, why)


def _stored(lengths: Sequence[Reply], expected: Sequence[int]) -> int | None:
    """What the lengths of a block's records come to; as `RemoteRecords.stored`."""
    if None in lengths:
        return None
    if 0 in lengths:
        return 0
    return sum(expected) if list(lengths) == list(expected) else -1


def _outcome(parts: Sequence[Found | None]) -> Outcome | None:
    """What became of a block, by its parts; those of two writers are not one block."""
    good = [part for part in parts if part is not None]
    worst = max((part.outcome for part in good), default=None)
    if worst is Outcome.GOOD and len(good) < len(parts):
        return None
    if worst is Outcome.GOOD and len({part.writer for part in good}) > 1:
        return Outcome.DAMAGED
    return worst
