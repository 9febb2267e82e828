"""``Session``: what one client asks of its pool, and what it gets."""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from greencache.client import messages as m
from greencache.errors import (
    BlockStateError,
    GreenCacheError,
    InputError,
    ProtocolError,
    RefusedError,
)
from greencache.service.arena import Arena
from greencache.service.connection import Connection
from greencache.service.ledger import Effects, Ledger
from greencache.service.pinning import Pinned
from greencache.service.pools import Pool, Pools
from greencache.tiers import CacheLease, CacheReservation
from greencache.tiers.state import PINNED
from greencache.version import VERSION

__all__ = ["Events", "Held", "Process", "Service", "Session", "Taken"]

MOST_TRANSACTIONS = 1 << 14
"""Leases and reservations of one process."""

GROUP_BYTES = 16

_WITHOUT_HELLO = (m.Status, m.Resize)
"""What a person asks, who stores no blocks of any size."""


@dataclass(slots=True, eq=False)
class Process:
    """A client's process.

    Attributes
    ----------
    pid:
        Of it.
    dead:
        Whether it has ended.
    connections:
        That it has now.
    """

    pid: int
    dead: bool = False
    connections: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A lease: where it is, whose, and since when."""

    pool: Pool
    lease: CacheLease
    process: Process
    since_s: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.lease)


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """A reservation: where it is, whose, and since when."""

    pool: Pool
    reservation: CacheReservation
    process: Process
    since_s: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.reservation)


@dataclass(slots=True)
class Events:
    """Who wants to hear of what happens; called on the event loop, so they must be quick.

    Attributes
    ----------
    acquired:
        Called with who asks (its engine's group, or the session), the pool, the question and what
        was found, for each request that asks.
    committed:
        Called with the pool and what can be found from now on.
    seen:
        Called with the same name and the requests that it tells of.
    hbm:
        Called with the same name and what that engine's own memory has; raises `InputError` if
        that cannot be.
    """

    acquired: list[Callable[[str, Pool, m.Acquire, CacheLease], None]] = field(default_factory=list)
    committed: list[Callable[[Pool, CacheReservation], None]] = field(default_factory=list)
    seen: list[Callable[[str, list[m.Seen]], None]] = field(default_factory=list)
    hbm: list[Callable[[str, m.Hbm], None]] = field(default_factory=list)


class Service(Protocol):
    """What sessions need of the daemon."""

    pools: Pools
    ledger: Ledger[Held, Taken]
    pinned: Pinned[Process]
    events: Events
    counts: Counter[str]

    async def resize(self, **capacity_bytes: int) -> dict[str, int]:
        """As `Pools.resize`, by hand."""

    def status(self) -> dict[str, Any]:
        """What ``greencache status`` shows."""

    def apply(self, effects: Effects[Held, Taken]) -> None:
        """Release and abort what has ended."""


class Session:
    """One connection's questions.

    Parameters
    ----------
    service:
        The daemon.
    process:
        Who asks.
    """

    def __init__(self, service: Service, process: Process) -> None:
        self._service, self.process = service, process
        self._connection: Connection
        self._pool: Pool
        self._arena: Arena
        self.id = b""
        """Empty until `Hello` was answered."""
        self._greeting = False
        self.name = self.who = ""
        self._block_limit = 0

    def connected(self, connection: Connection) -> None:
        """Tell it where it answers."""
        self._connection = connection

    async def answer(self, question: m.Question) -> m.Answer | None:
        """Answer one question; what cannot be done is an answer too.

        Raises
        ------
        ProtocolError
            If the connection has to end.
        """
        self._service.counts[type(question).__name__] += 1
        try:
            if isinstance(question, m.Hello):
                return await self._hello(question)
            if not self.id and not isinstance(question, _WITHOUT_HELLO):
                raise ProtocolError("the first message is Hello, and the next waits for Welcome")
            return await _ANSWERS[type(question)](self, question)
        except ProtocolError:
            raise
        except GreenCacheError as fault:
            return m.Failed(question.number, _kind(fault), f"{fault}")

    def lost(self) -> None:
        """The connection ended."""
        if self.id:
            self._service.apply(self._service.ledger.lost(self.id))
            self._service.pinned.lost(self.id)

    def tell(self) -> None:
        """Tell the client of memory that went, and of what it may pin."""
        if self.id:
            self._arena.tell_gone()
            self._arena.offer()

    # Beginning and end.

    async def _hello(self, question: m.Hello) -> m.Answer:
        if self._greeting:
            raise ProtocolError("Hello was said before")
        self._greeting = True
        if question.protocol != m.PROTOCOL:
            raise RefusedError(
                f"this daemon speaks version {m.PROTOCOL} of the protocol, the client"
                f" {question.protocol}: use the same release of greencache on both sides"
            )
        if len(question.group) not in {0, GROUP_BYTES}:
            raise InputError(f"a group is named by {GROUP_BYTES} bytes")
        self._pool = await self._service.pools.get(question.block_bytes)
        if self.process.dead:
            raise RefusedError("the process that connected has ended")
        group = question.group and question.group + struct.pack("<Q", question.block_bytes)
        session = secrets.token_bytes(16)
        ledger = self._service.ledger
        ledger.attach(
            session, self.process, group=group, shards=question.shards, shard=question.shard
        )
        self.id, self.name = session, question.name[:100]
        self.who = (group or session).hex()
        self._arena = Arena(self._pool.dram, self._connection, pins=question.pins)
        if question.pins:
            self._service.pinned.attach(session, self.process, self._arena)
        if self._connection.closed:
            self.lost()
        self._arena.offer()
        return m.Welcome(question.number, session, VERSION, self._service.pools.tiers)

    async def _goodbye(self, question: m.Goodbye) -> m.Answer:
        self._service.apply(self._service.ledger.goodbye(self.id))
        self._service.pinned.goodbye(self.id)
        return m.Done(question.number)

    async def _ended(self, question: m.Ended) -> m.Answer:
        for session in question.sessions:
            self._service.apply(self._service.ledger.ended(session, self.process))
            self._service.pinned.ended(session, self.process)
        return m.Done(question.number)

    async def _unpin(self, question: m.Unpin) -> m.Answer:
        self._arena.unpinned(question.extents)
        return m.Done(question.number)

    # Loading.

    async def _lookup(self, question: m.Lookup) -> m.Answer:
        keys = m.split_keys(question.keys)
        return m.Found(question.number, await self._pool.cache.lookup(keys))

    async def _acquire(self, question: m.Acquire) -> m.Answer:
        keys = m.split_keys(question.keys)
        for count in (question.held, question.reusable or 0):
            if not 0 <= count <= len(keys):
                raise InputError(f"{count} of {len(keys)} blocks makes no sense")
        reusable = question.reusable if self._may_lease() else 0
        lease = await self._pool.cache.acquire(
            keys, held=question.held, reusable=reusable, learn=question.learn
        )
        held = Held(self._pool, lease, self.process)
        for hear in self._service.events.acquired:
            hear(self.who, self._pool, question, lease)
        number = 0
        try:
            if len(lease):
                number = self._service.ledger.lease(self.id, held, len(lease))
        finally:
            if number == 0:
                self._pool.cache.release(lease)
        return self._leased(question.number, number, held, question.held)

    async def _fetch(self, question: m.Fetch) -> m.Answer:
        held = self._service.ledger.begin(self.id, question.lease)
        try:
            await held.pool.cache.fetch(held.lease)
        finally:
            self._service.apply(self._service.ledger.end(question.lease))
        if held.lease.released:
            raise BlockStateError("the lease ended while it was fetched")
        return self._leased(question.number, question.lease, held, 0)

    def _leased(self, number: int, lease: int, held: Held, above: int) -> m.Answer:
        found = held.lease.found_by_tier(above)
        if lease == 0:
            return m.Leased(number, 0, 0, found, m.Places())
        dram = held.lease.parts[held.pool.dram.name]
        extents, offsets = held.pool.dram.leased_places(dram, 0, len(dram))
        self._arena.tell(extents)
        return m.Leased(number, lease, len(held.lease), found, m.Places.of(extents, offsets))

    async def _release(self, question: m.Release) -> m.Answer:
        fault: BlockStateError | None = None
        for lease in question.leases:
            try:
                self._service.apply(self._service.ledger.release(self.id, lease))
            except BlockStateError as error:
                fault = error
        if fault is not None:
            raise fault
        return m.Done(question.number)

    async def _prefetch(self, question: m.Prefetch) -> m.Answer:
        keys = m.split_keys(question.keys)
        return m.Count(question.number, await self._pool.cache.prefetch(keys))

    # Storing.

    async def _reserve(self, question: m.Reserve) -> m.Answer:
        pool, ledger = self._pool, self._service.ledger
        keys = m.split_keys(question.keys)
        room = await self._room(keys)
        if room == 0 or not ledger.may_reserve(self.id):
            return m.Reserved(question.number, 0, 0, m.Places())
        reservation = await pool.cache.reserve(keys[:room])
        taken, number = Taken(pool, reservation, self.process), 0
        try:
            if len(reservation):
                number = ledger.reserve(self.id, taken, len(reservation))
        finally:
            if number == 0:
                pool.cache.abort(reservation)
        if number == 0:
            return m.Reserved(question.number, 0, reservation.first, m.Places())
        return self._reserved(question.number, number, taken)

    def _reserved(self, number: int, reservation: int, taken: Taken) -> m.Answer:
        extents, offsets = taken.pool.dram.reserved_places(taken.reservation.part)
        self._arena.tell(extents)
        places = m.Places.of(extents, offsets)
        return m.Reserved(number, reservation, taken.reservation.first, places)

    async def _join(self, question: m.Join) -> m.Answer:
        if bool(question.lease) == bool(question.reservation):
            raise InputError("who joins names a lease or a reservation")
        if question.lease:
            held = self._service.ledger.find_lease(self.id, question.lease)
            return self._leased(question.number, question.lease, held, 0)
        taken = self._service.ledger.find_reservation(self.id, question.reservation)
        return self._reserved(question.number, question.reservation, taken)

    async def _commit(self, question: m.Commit) -> m.Answer:
        effects = self._service.ledger.commit(self.id, question.reservation, question.shard)
        self._service.apply(effects)
        for taken in effects.committed:
            await taken.pool.cache.commit(taken.reservation)
            for hear in self._service.events.committed:
                hear(taken.pool, taken.reservation)
        return m.Committed(question.number, bool(effects.committed))

    async def _abort(self, question: m.Abort) -> m.Answer:
        ledger = self._service.ledger
        self._service.apply(ledger.abort(self.id, question.reservation, question.shard))
        return m.Done(question.number)

    # Everything else.

    async def _delete(self, question: m.Delete) -> m.Answer:
        keys = m.split_keys(question.keys)
        gone = [await tier.delete(keys) for tier in self._pool.cache.tiers.values()]
        return m.Count(question.number, max(gone))

    async def _resize(self, question: m.Resize) -> m.Answer:
        over = await self._service.resize(**question.capacity_bytes)
        return m.Resized(question.number, over)

    async def _flush(self, question: m.Flush) -> m.Answer:
        await self._pool.cache.flush()
        return m.Done(question.number)

    async def _status(self, question: m.Status) -> m.Answer:
        return m.StatusText(question.number, json.dumps(self._service.status()).encode())

    async def _observe(self, question: m.Observe) -> m.Answer:
        if len(question.seen) > m.MOST_SEEN:
            raise InputError(f"a message tells of {m.MOST_SEEN:,} requests at the most")
        if question.hbm is not None:
            for learn in self._service.events.hbm:
                learn(self.who, question.hbm)
        for hear in self._service.events.seen:
            hear(self.who, question.seen)
        return m.Done(question.number)

    # Limits.

    def _may_lease(self) -> bool:
        """Whether the process may keep more: half of DRAM for one, once half of it is kept."""
        own = self._service.ledger.holdings(self.process)
        if own.transactions >= MOST_TRANSACTIONS:
            raise RefusedError(
                f"{own.transactions:,} leases and reservations are open: release some"
            )
        index = self._pool.dram.index
        half = index.capacity_blocks / 2
        return own.leased_blocks + own.reserved_blocks <= half or index.state.meta[PINNED] <= half

    async def _room(self, keys: list[bytes]) -> int:
        """How far into a prompt the process may reserve now: half of DRAM for one."""
        if not self._may_lease():
            return 0
        own = self._service.ledger.holdings(self.process)
        left = max(1, self._pool.dram.index.capacity_blocks // 2) - own.reserved_blocks
        if left <= 0 or len(keys) <= left:  # mostly: then it matters not what is there already
            return max(0, min(left, len(keys)))
        return await self._pool.dram.match(keys) + left


_ANSWERS: dict[type[Any], Callable[[Session, Any], Awaitable[m.Answer]]] = {
    m.Abort: Session._abort,
    m.Acquire: Session._acquire,
    m.Commit: Session._commit,
    m.Delete: Session._delete,
    m.Ended: Session._ended,
    m.Fetch: Session._fetch,
    m.Flush: Session._flush,
    m.Goodbye: Session._goodbye,
    m.Join: Session._join,
    m.Lookup: Session._lookup,
    m.Observe: Session._observe,
    m.Prefetch: Session._prefetch,
    m.Release: Session._release,
    m.Reserve: Session._reserve,
    m.Resize: Session._resize,
    m.Status: Session._status,
    m.Unpin: Session._unpin,
}

_KINDS: list[tuple[type[GreenCacheError], str]] = [
    (BlockStateError, "state"),
    (InputError, "input"),
    (RefusedError, "refused"),
]


def _kind(fault: GreenCacheError) -> str:
    return next((name for kind, name in _KINDS if isinstance(fault, kind)), "tier")
