"""``RemoteRecords``: what a tier asks of servers, as long as breakers let it.

Nothing here raises because of a server: what it was asked and did not do is a miss, counted by what
was asked and why that failed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from greencache.tiers.base import Blocks
from greencache.tiers.breaker import Attempt, Breaker, BreakerState
from greencache.tiers.record_transfers import Outcome, RecordTransfers, Results, cause_of
from greencache.tiers.records import RecordFormat
from greencache.tiers.resp import Reply, command
from greencache.tiers.servers import Servers

__all__ = ["Deadlines", "RemoteRecords"]

DRAFT_S = 60.0
"""Beyond the deadline of writing it, how long a block stays on the server that is not committed."""

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

    async def close(self) -> None:
        """Wait for what is under way, which no deadline outlasts; close all connections."""
        await asyncio.to_thread(self._transfers.close)

    async def lengths(self, keys: Sequence[bytes]) -> list[Reply]:
        """Bytes of each block's record, 0 where there is none; None where nobody knows."""
        names = [self._records.name(key) for key in keys]
        with self.lookups.attempt() as attempt:
            if attempt is None:
                return [None] * len(keys)
            asked = [command(b"STRLEN", name) for name in names]
            results = await self._ask("lookup", names, asked, attempt)
        return results.each

    async def renew(self, keys: Sequence[bytes]) -> None:
        """Let the time that blocks have to live begin anew, if the server takes writes."""
        if self.writes.would_allow:
            names = [self._records.name(key) for key in keys]
            asked = [command(b"PEXPIRE", name, self._ttl_ms) for name in names]
            await self._ask("renew", names, asked, Attempt(probe=False))

    async def read(self, keys: Sequence[bytes], into: Blocks) -> list[Outcome | None]:
        """Read blocks into buffers, up to the first that is not good or a little beyond."""
        with self.reads.attempt() as attempt:
            if attempt is None:
                return [None] * len(keys)
            results = await self._transfers.read(keys, into, self._deadlines.read_s)
            self._note("read", results, attempt)
        return results.each

    async def write(self, keys: Sequence[bytes], writer: bytes, blocks: Blocks) -> bool:
        """Write blocks as this writer's drafts; whether all are on the server."""
        names = self._drafts(keys, writer)
        limit_s = self._deadlines.write_s
        with self.writes.attempt(decides=False) as attempt:  # only if they can be committed too
            if attempt is None:
                return False
            results = await self._transfers.write(names, keys, blocks, limit_s + DRAFT_S, limit_s)
            self._note("write", results, attempt)
        return all(each == b"OK" for each in results.each)

    async def publish(self, keys: Sequence[bytes], writer: bytes) -> int:
        """Let a writer's drafts be found; how many, from the first one, are."""
        drafts = self._drafts(keys, writer)
        asked = []
        for key, draft in zip(keys, drafts, strict=True):
            name = self._records.name(key)
            asked += [command(b"RENAME", draft, name), command(b"PEXPIRE", name, self._ttl_ms)]
        with self.writes.attempt() as attempt:
            if attempt is None:
                return 0
            names = [name for name in drafts for _ in range(2)]
            results = await self._ask("commit", names, asked, attempt)
        done = zip(results.each[::2], results.each[1::2], strict=True)
        return next((i for i, each in enumerate(done) if each != (b"OK", 1)), len(keys))

    async def discard(self, keys: Sequence[bytes], writer: bytes) -> int:
        """Take drafts off the server; how many."""
        return await self._unlink(self._drafts(keys, writer))

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Take blocks off the server; how many."""
        return await self._unlink([self._records.name(key) for key in keys])

    async def _unlink(self, names: Sequence[bytes]) -> int:
        """Take records off the server if it takes writes.

        That it does so is no sign that it takes more: a full one does.
        """
        if not self.writes.would_allow:
            return 0
        asked = [command(b"UNLINK", name) for name in names]
        results = await self._ask("delete", names, asked, Attempt(probe=False))
        return sum(each == 1 for each in results.each)

    def count(self, cause: str, what: str) -> None:
        """Count something that is no failure of the server, and say so the first time."""
        if not self.failures[cause]:
            _log.warning("%s: %s: %s; counted from now on", self._name, cause, what)
        self.failures[cause] += 1

    def _drafts(self, keys: Sequence[bytes], writer: bytes) -> list[bytes]:
        return [self._records.draft_name(key, writer) for key in keys]

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
