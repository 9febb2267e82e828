"""``BaseClient``: what both clients share, and do the same way.

Each operation is a *flow*: a generator that yields what it needs (a question answered, bytes
copied) and is sent the result. The clients differ only in how they wait for these steps. An
exception that ends a step is thrown into its flow, which gives back what it holds.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from greencache.buffers import Blocks, check_blocks
from greencache.client.arena import Extent, Part
from greencache.client.backoff import Backoff
from greencache.client.copies import Copiers, Work, reading, writing
from greencache.client.link import Link
from greencache.client.messages import (
    PROTOCOL,
    Acquire,
    Answer,
    Commit,
    Committed,
    Count,
    Delete,
    Done,
    Ended,
    Fetch,
    Flush,
    Found,
    Goodbye,
    Hbm,
    Hello,
    Join,
    Leased,
    Lookup,
    Observe,
    Prefetch,
    Question,
    Reserve,
    Reserved,
    Resize,
    Resized,
    Seen,
    Status,
    StatusText,
    Unpin,
    join_keys,
)
from greencache.client.pinning import Pinning, Pins
from greencache.client.place import default_socket
from greencache.client.session import Call, Session
from greencache.client.transactions import Lease, Reservation
from greencache.errors import GreenCacheError, InputError, ProtocolError, UnavailableError

__all__ = ["Ask", "BaseClient", "CopyAll", "Flow", "Step"]

TIMEOUT_S = 1.0
"""For an answer that takes no reading from disk, if nothing else is said."""

LONG_TIMEOUT_S = 30.0
"""For one that may."""

SILENCE_S = 1.0
"""A daemon that owes an answer and has said nothing for so long is given up. One that is slow with
one answer, but gives others, is not: mapping its memory again costs more."""

GOODBYE_S = 1.0

T = TypeVar("T")
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Ask:
    """A step: have a question answered.

    Attributes
    ----------
    long:
        Whether it may take `LONG_TIMEOUT_S`.
    session:
        Over which connection it has to go; any, if None.
    """

    question: Question
    long: bool = False
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class CopyAll:
    """A step: copy all of this, which is so many bytes."""

    work: Work
    size_bytes: int


Step: TypeAlias = Ask | CopyAll
Flow: TypeAlias = Generator[Step, Any, T]


class BaseClient:
    """What a client knows; see `greencache.client.Client`."""

    def __init__(
        self,
        block_bytes: int,
        *,
        socket: Path | str | None = None,
        shards: int = 1,
        shard: int | None = None,
        group: bytes = b"",
        name: str = "",
        timeout_s: float = TIMEOUT_S,
        long_timeout_s: float = LONG_TIMEOUT_S,
        copy_threads: int = 2,
        pinning: Pinning | None = None,
    ) -> None:
        if shards < 1 or block_bytes % shards or not (shard is None or 0 <= shard < shards):
            raise InputError(
                f"a block of {block_bytes} bytes is not made of {shards} shards, of which this is"
                f" {shard}"
            )
        self.block_bytes = block_bytes
        self.part = Part.of(block_bytes, shards, shard)
        self.shard = shard
        self.socket = default_socket() if socket is None else Path(socket)
        self.timeout_s, self.long_timeout_s = timeout_s, long_timeout_s
        self.closed = False
        pins = pinning is not None
        self._hello = Hello(0, PROTOCOL, block_bytes, shards, shard, group, name, pins)
        self._pinning = pinning
        self._start()
        self._copiers = Copiers(copy_threads)
        _clients.add(self)

    def _start(self) -> None:
        """With nothing of an earlier connection."""
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._backoff = Backoff()
        self._lost: list[Session] = []
        """Sessions of which the daemon, if it is the same, still keeps what they were given."""
        self._ending: tuple[Call, list[Session]] | None = None
        self._pins: Pins | None = None
        if self._pinning is not None:
            self._pins = Pins(self._pinning, _given_back_to(weakref.ref(self)))

    # Connections. All of this is called under the lock.

    def _session(self) -> Session:
        return Session(self.part, self.shard, self._pins)

    def _current(self) -> Link | None:
        """The connection as it is now; None if there is none."""
        if self.closed:
            raise UnavailableError("this client is closed")
        link = self._link
        if link is not None and not link.waiting:
            link.receive()  # so that a daemon that has ended is not asked
            self._note_loss(link)
        self._tell_ended()
        return self._link

    def _say_goodbye(self) -> Call | None:
        """End the session, if nothing of it is in use."""
        self._tell_ended()
        if self._link is None or self._link.session.used:
            return None
        return self._link.session.ask(Goodbye(0), time.monotonic())

    def _ask(self, link: Link, ask: Ask) -> Call:
        if ask.session is not None and ask.session is not link.session:
            raise UnavailableError("the connection over which this was given is lost")
        return link.session.ask(ask.question, time.monotonic())

    def _welcome(self, link: Link) -> None:
        """There is a connection."""
        self._backoff.succeeded()
        self._link = link
        self._note_loss(link)
        if self.closed:
            self._lose(link, UnavailableError("this client is closed"))
        self._tell_ended()

    def _unwelcome(self, link: Link, fault: BaseException) -> None:
        """There is none."""
        if isinstance(fault, GreenCacheError):
            self._backoff.failed(fault, time.monotonic())
        link.lose(UnavailableError("the daemon did not welcome this client"))

    def _lose(self, link: Link, fault: GreenCacheError) -> None:
        link.lose(fault)
        self._note_loss(link)

    def _note_loss(self, link: Link) -> None:
        """A connection may have been lost: then the next question goes over another."""
        if link.session.lost and self._link is link:
            self._link = None
            if link.session.identity:
                self._lost.append(link.session)

    def _tell_ended(self) -> None:
        """Say of which lost sessions nothing is in use any more, until the daemon has heard it."""
        link = self._link
        if link is None:
            return
        if self._ending is not None:
            call, sessions = self._ending
            if not call.done:
                return
            if call.fault is None:
                self._lost = [each for each in self._lost if each not in sessions]
            self._ending = None
        over = [each for each in self._lost if not each.used]
        if over:
            question = Ended(0, [each.identity for each in over])
            self._ending = link.session.ask(question, time.monotonic()), over

    def _late(self, link: Link, call: Call) -> UnavailableError:
        """An answer did not come in time."""
        now_s = time.monotonic()
        what = type(call.question).__name__
        fault = UnavailableError(
            f"the daemon has not answered {what} in {now_s - call.asked_s:.3g} s"
        )
        silent_s = link.session.silent_s(now_s)
        link.session.abandon(call, now_s)
        if silent_s >= SILENCE_S or not link.session.identity:
            self._lose(link, fault)
        return fault

    def give_back(self, session: Session, question: Question | None) -> bool:
        """As `greencache.client.transactions.Giver.give_back`."""
        with self._lock:
            session.uses -= 1
            link = self._link
            if link is None:
                return False
            if link.session is session:
                if question is not None:
                    session.tell(question, time.monotonic())
            else:
                self._tell_ended()
            self._push(link)
            return link.session is session and not session.lost

    def in_use(self, extents: list[Extent]) -> AbstractContextManager[None]:
        """As `greencache.client.transactions.Giver.in_use`."""
        return nullcontext() if self._pins is None else self._pins.in_use(extents)

    @property
    def pinned_bytes(self) -> int:
        """Memory of the daemon that is pinned now."""
        return 0 if self._pins is None else self._pins.pinned_bytes

    def _unpinned(self, session: Session, number: int) -> None:
        """Nothing of an extent is pinned any more; called in a thread."""
        with self._lock:
            session.tell(Unpin(0, [number]), time.monotonic())
            self._tell_ended()
            if self._link is not None:
                self._push(self._link)

    def _push(self, link: Link) -> None:
        """Send what there is to be sent, as far as it can be without waiting."""
        link.send()
        self._note_loss(link)

    def _leave_to_parent(self) -> None:
        """In a forked child: the connection and all that was given over it are the parent's."""
        link, lost = self._link, self._lost
        for session in [*lost, *([] if link is None else [link.session])]:
            session.pins = None  # the parent's, who may have been at it just then
        self._start()
        self._copiers = Copiers(self._copiers.threads)
        if link is not None:
            link.leave(UnavailableError("the connection is the parent's"))
        for session in lost:
            session.lose(UnavailableError("the connection is the parent's"))

    def _deadline(self, ask: Ask, end_s: float) -> float:
        wait_s = self.long_timeout_s if ask.long else self.timeout_s
        return min(end_s, time.monotonic() + wait_s)

    # Flows.

    def _lookup(self, keys: Sequence[bytes]) -> Flow[dict[str, int]]:
        answer = yield from _ask(Lookup(0, _joined(keys)), Found)
        return answer.blocks

    def _acquire(
        self,
        keys: Sequence[bytes],
        held: int,
        reusable: int | None,
        learn: bool,
        request: int = 0,
    ) -> Flow[Lease]:
        question = Acquire(0, _joined(keys), held, reusable, learn, request)
        call = yield Ask(question)
        return Lease(self, call.session, call.answer, call.standing)

    def _fetch(self, lease: Lease) -> Flow[int]:
        lease.check_running()
        if lease.ready < lease.blocks:
            call = yield Ask(Fetch(0, lease.number), long=True, session=lease.session)
            lease.blocks, lease.standing = call.answer.blocks, call.standing
        return lease.ready

    def _join_lease(self, number: int) -> Flow[Lease]:
        call = yield Ask(Join(0, lease=number))
        if not isinstance(call.answer, Leased):
            raise ProtocolError("a lease was joined, and a reservation given")
        return Lease(self, call.session, call.answer, call.standing, joined=True)

    def _load(self, keys: Sequence[bytes], into: Blocks, first: int, learn: bool) -> Flow[int]:
        wanted = first + len(into)
        if wanted > len(keys):
            raise InputError(f"{len(keys)} blocks have no buffers from {first} to {wanted}")
        check_blocks(into, self.part.size_bytes)
        with (yield from self._acquire(keys, first, wanted, learn)) as lease:
            if lease.blocks > first:
                yield from self._fetch(lease)
            count = max(0, min(lease.ready, wanted) - first)
            if count:
                work = reading(lease.standing, first, into[:count])
                yield CopyAll(work, count * self.part.size_bytes)
            return count

    def _reserve(self, keys: Sequence[bytes]) -> Flow[Reservation]:
        call = yield Ask(Reserve(0, _joined(keys)))
        return Reservation(self, call.session, call.answer, call.standing)

    def _join_reservation(self, number: int) -> Flow[Reservation]:
        call = yield Ask(Join(0, reservation=number))
        if not isinstance(call.answer, Reserved):
            raise ProtocolError("a reservation was joined, and a lease given")
        return Reservation(self, call.session, call.answer, call.standing, shard=self.shard)

    def _commit(self, reservation: Reservation) -> Flow[bool]:
        reservation.check_running()
        if not reservation.number:
            return False
        question = Commit(0, reservation.number, reservation.shard)
        try:
            answer = yield from _ask(question, Committed, session=reservation.session)
        finally:
            # Whatever became of it, nothing is written any more.
            reservation.end(None)
        return answer.visible

    def _store(self, keys: Sequence[bytes], blocks: Blocks, first: int) -> Flow[int]:
        if first + len(blocks) != len(keys):
            raise InputError(
                f"{len(keys)} blocks from {first} on need {len(keys) - first} buffers, not"
                f" {len(blocks)}"
            )
        check_blocks(blocks, self.block_bytes)
        if self.part.size_bytes != self.block_bytes:
            raise InputError("one shard alone cannot store blocks: reserve, and let others join")
        with (yield from self._reserve(keys)) as reservation:
            count = len(reservation)
            if count == 0 or reservation.first < first:
                return 0
            begin = reservation.first - first
            given = blocks[begin : begin + count]
            yield CopyAll(writing(reservation.standing, given), count * self.block_bytes)
            # The answer is not waited for, as nothing depends on it: it would take a tenth as long
            # as a copy of 64 MiB, which has crowded the daemon's code out of the processor's cache.
            if not reservation.end(Commit(0, reservation.number)):
                raise UnavailableError("the connection was lost before the blocks were committed")
            return count

    def _prefetch(self, keys: Sequence[bytes]) -> Flow[int]:
        answer = yield from _ask(Prefetch(0, _joined(keys)), Count, long=True)
        return answer.blocks

    def _delete(self, keys: Sequence[bytes]) -> Flow[int]:
        answer = yield from _ask(Delete(0, _joined(keys)), Count)
        return answer.blocks

    def _resize(self, capacity_bytes: Mapping[str, int]) -> Flow[dict[str, int]]:
        answer = yield from _ask(Resize(0, dict(capacity_bytes)), Resized, long=True)
        return answer.over_bytes

    def _flush(self) -> Flow[None]:
        yield from _ask(Flush(0), Done, long=True)

    def _status(self) -> Flow[dict[str, Any]]:
        answer = yield from _ask(Status(0), StatusText)
        try:
            found = json.loads(answer.json)
        except ValueError as fault:
            raise ProtocolError(f"the daemon's status is not JSON: {fault}") from None
        if not isinstance(found, dict):
            raise ProtocolError("the daemon's status is not a JSON object")
        return found

    def _observe(self, seen: Sequence[Seen], hbm: Hbm | None) -> Flow[None]:
        yield from _ask(Observe(0, list(seen), hbm), Done)


def _given_back_to(client: weakref.ref[BaseClient]) -> Callable[[Session, int], None]:
    """Tells a client that something is unpinned, if there is one still."""

    def given_back(session: Session, number: int) -> None:
        found = client()
        if found is not None:
            found._unpinned(session, number)

    return given_back


def _ask(
    question: Question, kind: type[A], *, long: bool = False, session: Session | None = None
) -> Flow[A]:
    call = yield Ask(question, long, session)
    assert isinstance(call.answer, kind), "as the session made sure"
    return call.answer


def _joined(keys: Sequence[bytes]) -> bytes:
    try:
        return join_keys(keys)
    except ProtocolError as fault:
        raise InputError(str(fault)) from None


_clients: weakref.WeakSet[BaseClient] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for client in list(_clients):
        client._leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
