"""``RedisTier``: blocks on a server of Redis or Valkey, or on a cluster, that hosts share.

Each block is a record that says what it is (`greencache.tiers.records`), with a time to live that
begins anew whenever the block is asked for. The server is asked what is there; so a host finds
what others have stored. What a host has stored itself it counts, and keeps within the tier's
capacity (`greencache.tiers.share`); what others have stored is left to them, and a server that is
full evicts what it likes. So a lease keeps a block from this host's eviction, but not from the
server's: fewer blocks may be read than were leased.

A block is written under a name of its own and renamed when it is committed: other hosts see none
before, and what a writer leaves that was killed goes by itself after a minute or two.

A server that is slow, dead or full costs its users the deadline of what they asked for and is a
miss; after a few failures in a row it is asked no more for a while (`greencache.tiers.breaker`),
lookups, reads and writes each for themselves: one that is full can still be read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from greencache.errors import BlockStateError, InputError, TierClosedError
from greencache.tiers.base import (
    Blocks,
    Tier,
    TierLease,
    TierReservation,
    TierStats,
    check_blocks,
    check_prompt,
)
from greencache.tiers.breaker import Breaker
from greencache.tiers.departures import Departures
from greencache.tiers.record_transfers import Outcome
from greencache.tiers.records import WRITER_BYTES, RecordFormat
from greencache.tiers.remote import Deadlines, RemoteRecords
from greencache.tiers.servers import RedisUrl, Servers
from greencache.tiers.share import Kept, Share
from greencache.tiers.workers import uninterrupted

__all__ = ["Deadlines", "RedisTier"]

TTL_S = 24 * 3600.0
CONNECTIONS = 4

LOOKUP_BLOCKS = 1024
"""Asked for at once; what follows only if all of those are there."""


@dataclass(slots=True, eq=False)
class _Writing:
    """What a reservation holds."""

    blocks: list[Kept]
    before: list[Kept]
    writer: bytes
    under_way: bool = False
    drafted: bool = False


class RedisTier(Tier):
    """A tier on a server that hosts share.

    Parameters
    ----------
    url:
        ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://`` with TLS, or ``unix://``.
    block_bytes:
        Bytes of a block.
    capacity_bytes:
        What this host may keep there of what it writes; records are 64 bytes larger than blocks.
        What others wrote can be read in any case.
    namespace:
        What the blocks belong to: `greencache.blocks.KVLayout.namespace`.
    cluster:
        Whether the server is a node of a cluster.
    ca_file:
        Certificates by which TLS is checked; the system's if there is none.
    ttl_s:
        How long a block stays that nobody asks for.
    deadlines:
        What a server may cost.
    connections:
        To each node, for reads, and as many for writes.
    prefix:
        What all names on the server begin with.
    name:
        What metrics and messages call the tier.
    clock:
        Seconds that do not go back.
    """

    def __init__(
        self,
        url: str,
        block_bytes: int,
        capacity_bytes: int,
        *,
        namespace: bytes = b"",
        cluster: bool = False,
        ca_file: str | Path | None = None,
        ttl_s: float = TTL_S,
        deadlines: Deadlines | None = None,
        connections: int = CONNECTIONS,
        prefix: str = "greencache",
        name: str = "redis",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if block_bytes < 1 or capacity_bytes < 0:
            raise InputError("a tier has blocks of 1 byte or more and a capacity of 0 or more")
        if ttl_s < 0.001 or connections < 1:
            raise InputError("blocks have a time to live, and a tier one connection or more")
        self.name, self.block_bytes = name, block_bytes
        self._records = RecordFormat(block_bytes, namespace, prefix)
        deadlines = deadlines or Deadlines()
        self._remote = RemoteRecords(
            name,
            Servers(RedisUrl.parse(url, ca_file), cluster=cluster, connect_s=deadlines.connect_s),
            self._records,
            connections,
            ttl_s=ttl_s,
            deadlines=deadlines,
            clock=clock,
        )
        self._ttl_s, self._clock = ttl_s, clock
        self._capacity_bytes = capacity_bytes
        self._share = Share(self._blocks_in(capacity_bytes))
        self._departures = Departures()
        self._was_opened = self._is_open = False
        self._counts = TierStats(failures=self._remote.failures)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """For lookups, reads and writes, what lets them through."""
        remote = self._remote
        return {"lookups": remote.lookups, "reads": remote.reads, "writes": remote.writes}

    def bytes_for(self, blocks: int) -> int:
        """The least capacity that has room for so many blocks."""
        return blocks * self._records.stored_bytes

    def _blocks_in(self, capacity_bytes: int) -> int:
        return capacity_bytes // self._records.stored_bytes

    async def open(self) -> None:
        """As `Tier.open`; a server that cannot be reached is missed later on, not here."""
        if self._was_opened:
            raise TierClosedError(f"tier {self.name} was opened before: make another one")
        self._was_opened = True
        self._remote.open()
        self._is_open = True

    async def close(self) -> None:
        """As `Tier.close`; blocks stay on the server."""
        if self._is_open:
            try:
                await self._departures.over()
            finally:  # who gives up waiting does not close a second time
                self._is_open = False
                await uninterrupted(self._close())

    async def _close(self) -> None:
        await self._departures.over()  # with what began to leave meanwhile
        await self._remote.close()

    # Finding.

    async def match(self, keys: Sequence[bytes]) -> int:
        """As `Tier.match`."""
        self._check_open()
        return await self._readable(keys)

    async def acquire(self, keys: Sequence[bytes]) -> TierLease:
        """As `Tier.acquire`; the time that blocks have to live begins anew, a little later."""
        self._check_open()
        found = await self._readable(keys)
        self._counts.hit_blocks += found
        self._counts.missed_blocks += len(keys) - found
        if found and self._is_open:
            self._departures.begin((), self._remote.renew(keys[:found]))
        return TierLease(keys[:found], self._share.lease(keys[:found], self._clock()))

    async def hold(self, keys: Sequence[bytes]) -> TierLease:
        """As `Tier.hold`."""
        self._check_open()
        found = await self._readable(keys)
        return TierLease(keys[:found], self._share.lease(keys[:found]))

    async def _readable(self, keys: Sequence[bytes]) -> int:
        """Length of the prefix that is on the server, if it would be read at all."""
        if not self._remote.reads.would_allow:
            return 0
        return (await self._find(keys))[0]

    async def _find(self, keys: Sequence[bytes]) -> tuple[int, bool]:
        """Length of the prefix that is on the server, and whether no longer one may be."""
        self._share.expire(self._clock() - self._ttl_s)
        keys = keys[: self._visible(keys)]
        with self._departures.watched() as left:
            found, sure = await self._ask(keys)
            if left:  # since the server was asked
                found = next((i for i in range(found) if keys[i] in left), found)
        return self._share.visible(keys[:found]), sure

    async def _ask(self, keys: Sequence[bytes]) -> tuple[int, bool]:
        """Ask the server, some blocks at a time up to the first that is missing."""
        for begin in range(0, len(keys), LOOKUP_BLOCKS):
            some = keys[begin : begin + LOOKUP_BLOCKS]
            known = self._share.committed(some)
            sizes = await self._remote.stored(some)
            for place, size in enumerate(sizes):
                if size == self._records.stored_bytes:
                    continue
                if size == 0:
                    self._lost(some[place], known[place])
                elif size is not None:
                    self._damaged(some[place])
                return begin + place, size is not None
        return len(keys), True

    def _visible(self, keys: Sequence[bytes]) -> int:
        """Leading blocks that are not leaving, nor are to."""
        return self._departures.staying(keys[: self._share.visible(keys)])

    # Reading.

    async def read(self, lease: TierLease, into: Blocks, first: int = 0) -> int:
        """As `Tier.read`; fewer blocks may be good than are leased, if the server evicted some."""
        self._check_open()
        if lease.released:
            raise BlockStateError("this lease was released before")
        keys = lease.keys[first : first + len(into)]
        if len(keys) < len(into):
            raise BlockStateError(f"{len(lease)} blocks are leased, not {first + len(into)}")
        check_blocks(into, self.block_bytes)
        if len(keys) == 0:
            return 0
        known = self._share.committed(keys)
        with self._counts.took["read"].timing(self._clock):
            outcomes = await self._remote.read(keys, into)
        for key, block, outcome in zip(keys, known, outcomes, strict=True):
            if outcome == Outcome.MISSING:
                self._lost(key, block)
            elif outcome == Outcome.DAMAGED:
                self._damaged(key)
        if lease.released:
            raise BlockStateError("this lease was released while it was being read")
        good = next((i for i, each in enumerate(outcomes) if each != Outcome.GOOD), len(keys))
        self._counts.read_bytes += good * self.block_bytes
        return good

    def release(self, lease: TierLease) -> None:
        """As `Tier.release`."""
        if lease.released:
            raise BlockStateError("this lease was released before")
        lease.released = True
        self._leave(self._share.release(lease.handle))

    def _lost(self, key: bytes, block: Kept | None) -> None:
        """A block that had been committed when it was asked for is not on the server any more."""
        if block is not None and self._share.get(key) is block and not block.gone:
            self._leave(self._share.lose(key))

    def _damaged(self, key: bytes) -> None:
        """Take a record off the server that is not what it should be, whoever wrote it."""
        self._remote.count("damaged record", self._records.names(key)[0].decode())
        self._leave({key, *self._share.drop(key)})

    # Writing.

    async def reserve(self, keys: Sequence[bytes]) -> TierReservation:
        """As `Tier.reserve`; another host may be writing the same blocks, with the same bytes."""
        self._check_open()
        check_prompt(keys)
        found, sure = await self._find(keys)
        if not sure or not self._remote.writes.would_allow:
            return TierReservation((), found, _Writing([], [], b""))
        await self._departures.over(keys[found:])
        blocks, before, removed = self._share.reserve(keys, found, self._clock())
        reservation = TierReservation(
            keys[found : found + len(blocks)],
            found,
            _Writing(blocks, before, secrets.token_bytes(WRITER_BYTES)),
        )
        try:
            self._leave(removed)
            await self._departures.over(removed)  # so that there is room on the server as well
        except BaseException:
            self.abort(reservation)
            raise
        return reservation

    async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
        """As `Tier.write`."""
        self._check_open()
        reservation.check_writable(blocks, self.block_bytes)
        if len(reservation) == 0:
            return True
        mine: _Writing = reservation.handle
        reservation.written, mine.under_way, mine.drafted = False, True, True
        try:
            with self._counts.took["write"].timing(self._clock):
                written = await self._remote.write(reservation.keys, mine.writer, blocks)
        finally:
            mine.under_way = False
        reservation.written = written
        if written:
            self._counts.written_bytes += len(blocks) * self.block_bytes
        else:
            self.abort(reservation)
        return written

    async def commit(self, reservation: TierReservation) -> None:
        """As `Tier.commit`; what fails is counted, and is as if it had been aborted."""
        self._check_open()
        reservation.check_running()
        if len(reservation) and not reservation.written:
            raise BlockStateError("these blocks were not written: nothing can be committed")
        reservation.ended = True
        await uninterrupted(self._commit(reservation))

    async def _commit(self, reservation: TierReservation) -> None:
        mine: _Writing = reservation.handle
        gone = (i for i, block in enumerate(mine.blocks) if block.gone)  # deleted meanwhile
        wanted = next(gone, len(mine.blocks))
        stored = 0
        try:
            if wanted:
                stored = await self._remote.publish(reservation.keys[:wanted], mine.writer)
        finally:
            self._leave(self._share.finish(mine.blocks, mine.before, stored))
            self._leave(reservation.keys[stored:wanted])  # whatever a failure left of them
            if stored < len(mine.blocks):
                self._discard(reservation)

    def abort(self, reservation: TierReservation) -> None:
        """As `Tier.abort`."""
        reservation.check_running()
        mine: _Writing = reservation.handle
        if mine.under_way:
            raise BlockStateError("this reservation is being written: wait for the end of that")
        reservation.ended = True
        self._leave(self._share.finish(mine.blocks, mine.before, 0))
        if mine.drafted:
            self._discard(reservation)

    def _discard(self, reservation: TierReservation) -> None:
        """Take drafts off the server."""
        if self._is_open:
            writer = reservation.handle.writer
            self._departures.begin((), self._remote.discard(reservation.keys, writer))

    # Deleting.

    async def delete(self, keys: Sequence[bytes]) -> int:
        """As `Tier.delete`; of blocks that others wrote, the last of ``keys`` alone."""
        self._check_open()
        last = keys[-1:]
        if len(last) == 0 or self._visible(last) == 0:
            return 0
        if self._share.get(last[0]) is None:
            with self._departures.hidden(last):
                return await self._remote.remove(last)
        before = len(self._share)
        removed = self._share.drop(last[0])
        count = before - len(self._share)
        self._leave(removed)
        await self._departures.over(removed)
        return count

    async def resize(self, capacity_bytes: int) -> int:
        """As `Tier.resize`: of what this host wrote."""
        self._check_open()
        if capacity_bytes < 0:
            raise InputError(f"a tier's capacity is 0 bytes or more, not {capacity_bytes}")
        self._capacity_bytes = capacity_bytes
        self._share.capacity_blocks = self._blocks_in(capacity_bytes)
        removed = self._share.make_room(0)
        self._leave(removed)
        await self._departures.over(removed)
        over = max(0, len(self._share) - self._share.capacity_blocks)
        return over * self._records.stored_bytes

    async def flush(self) -> None:
        """As `Tier.flush`: how long a server keeps anything is its own affair."""

    def stats(self) -> TierStats:
        """As `Tier.stats`; sizes and blocks are those of this host's share."""
        used_bytes = len(self._share) * self._records.stored_bytes
        return self._counts.copy(
            capacity_bytes=self._capacity_bytes,
            used_bytes=used_bytes,
            backed_bytes=used_bytes,
            blocks=len(self._share),
            evicted_blocks=self._share.evicted_blocks,
        )

    def _leave(self, keys: Collection[bytes]) -> None:
        """Take blocks off the server; they are found no longer from now on."""
        if keys and self._is_open:
            keys = list(keys)
            self._departures.begin(keys, self._remote.remove(keys))

    def _check_open(self) -> None:
        if not self._is_open:
            raise TierClosedError(f"tier {self.name} is not open: use it in `async with`")
