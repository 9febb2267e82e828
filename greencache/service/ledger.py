"""``Ledger``: who holds which leases and reservations, and when they end.

A plain state machine: it does no I/O, reads no clock and knows no tier. It is told what clients say
and which processes have ended, and says what has to be done (`Effects`).

*Processes* connect by *sessions* and belong to *groups*: the processes of one engine, which share
what one of them leases or reserves. Whatever a process may still read or write stays:

- The end of a connection ends nothing, as a thread of the process may be copying.
- A lease ends when the group says so, or when nobody is left who could read it.
- A reservation's slots are free when each *shard* of it was committed or aborted, or can be written
  by nobody any more. It becomes visible if all shards were committed, and only then: a shard that
  was aborted, or whose process ended before, dooms it.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from greencache.errors import BlockStateError, InputError, RefusedError
from greencache.service.effects import Effects

__all__ = ["Effects", "Holdings", "Ledger"]

L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")

MOST_SHARDS = 1024


class Holdings(NamedTuple):
    """What a process has leased and reserved."""

    transactions: int
    leased_blocks: int
    reserved_blocks: int


NOTHING = Holdings(0, 0, 0)


@dataclass(slots=True, eq=False)
class _Session:
    id: bytes
    process: Hashable
    group: _Group
    shard: int | None
    connected: bool = True


@dataclass(slots=True, eq=False)
class _Group:
    name: bytes
    """Empty if it is one session's own."""
    shards: int
    sessions: set[_Session] = field(default_factory=set)
    transactions: dict[int, _Lease | _Reservation] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    """Shards whose process has ended, and that no other has taken over."""

    def writers(self, shard: int) -> set[Hashable]:
        """Processes that may write this shard as their own; one at the most."""
        return {session.process for session in self.sessions if session.shard == shard}


@dataclass(slots=True, eq=False)
class _Lease:
    maker: _Session
    handle: Any
    blocks: int
    busy: int = 0
    """Uses that `Ledger.end` has not ended yet."""
    over: bool = False


@dataclass(slots=True, eq=False)
class _Reservation:
    maker: _Session
    handle: Any
    blocks: int
    open: set[int]
    """Shards that may still be written."""
    doomed: bool = False


class Ledger(Generic[L, R]):
    """Leases ``L`` and reservations ``R`` of all groups.

    Sessions are named by who calls; leases and reservations are numbered, and known only in their
    group.

    Parameters
    ----------
    first:
        Number of the first. A daemon's are to be others than an earlier daemon's: processes of a
        group tell each other numbers, and one may have heard of the earlier daemon's end before.
    """

    def __init__(self, first: int = 1) -> None:
        self._sessions: dict[bytes, _Session] = {}
        self._groups: dict[bytes, _Group] = {}
        self._numbers = itertools.count(first)
        self._busy: dict[int, _Lease] = {}
        self._held: dict[Hashable, Holdings] = {}
        """Of each process that made transactions which have not ended."""
        self._open: dict[type, dict[int, _Lease | _Reservation]] = {_Lease: {}, _Reservation: {}}
        """All transactions, the oldest first."""

    # Sessions.

    def attach(
        self,
        session: bytes,
        process: Hashable,
        *,
        group: bytes = b"",
        shards: int = 1,
        shard: int | None = None,
    ) -> None:
        """Begin a session.

        Raises
        ------
        InputError
            If there is no such shard.
        RefusedError
            If the group has another number of shards, or another process has this shard.
        """
        if not 1 <= shards <= MOST_SHARDS or (shard is not None and not 0 <= shard < shards):
            raise InputError(f"there is no shard {shard} of {shards}")
        found = self._groups.get(group) if group else None
        if found is None:
            found = _Group(group, shards)
        if found.shards != shards:
            raise RefusedError(f"this group has {found.shards} shards, not {shards}")
        if shard is not None and found.writers(shard) - {process}:
            raise RefusedError(f"shard {shard} of this group is another process's, which runs")
        if group:
            self._groups[group] = found
        made = _Session(session, process, found, shard)
        self._replace(made)
        self._sessions[session] = made
        found.sessions.add(made)
        if shard is not None:
            found.dead.discard(shard)

    def lost(self, session: bytes) -> Effects[L, R]:
        """A connection ended. Nothing ends by that, as somebody may still be copying."""
        found = self._sessions.get(session)
        if found is None:
            return Effects()
        found.connected = False
        return self._settled(found.group, Effects())

    def goodbye(self, session: bytes) -> Effects[L, R]:
        """Nothing of a session is in use any more, says its client.

        What it made stays for the others of its group. A shard of it that was not committed is not
        going to be.
        """
        found = self._sessions.get(session)
        if found is None:
            return Effects()
        return self._left([found], Effects(), died=False)

    def ended(self, session: bytes, process: Hashable) -> Effects[L, R]:
        """Nothing of a session that lost its connection is in use: what it made ends with it."""
        found = self._sessions.get(session)
        if found is None or found.process != process:
            return Effects()
        effects: Effects[L, R] = Effects()
        for number, transaction in list(found.group.transactions.items()):
            if transaction.maker is not found:
                continue
            if isinstance(transaction, _Lease):
                self._end_lease(number, transaction, effects)
            else:
                others = {
                    shard for shard in transaction.open if found.group.writers(shard) - {process}
                }
                transaction.doomed = True
                self._close(number, transaction, transaction.open - others, effects)
        return self._left([found], effects, died=False)

    def died(self, process: Hashable) -> Effects[L, R]:
        """A process has ended: nothing of it reads or writes any more."""
        sessions = [each for each in self._sessions.values() if each.process == process]
        return self._left(sessions, Effects(), died=True)

    # Leases.

    def lease(self, session: bytes, handle: L, blocks: int) -> int:
        """Enter a lease of so many blocks; its number.

        Raises
        ------
        BlockStateError
            If the session has ended: the lease is the caller's to release.
        """
        maker = self._session(session)
        return self._enter(_Lease(maker, handle, blocks))

    def find_lease(self, session: bytes, number: int) -> L:
        """A lease of the session's group.

        Raises
        ------
        BlockStateError
            If it has none of this number.
        """
        found: L = self._find(session, number, _Lease).handle
        return found

    def begin(self, session: bytes, number: int) -> L:
        """The same, to be used for a while: whatever happens, it is released after `end`."""
        lease = self._find(session, number, _Lease)
        lease.busy += 1
        self._busy[number] = lease
        handle: L = lease.handle
        return handle

    def end(self, number: int) -> Effects[L, R]:
        """A use is over that began by `begin`."""
        lease = self._busy[number]
        lease.busy -= 1
        effects: Effects[L, R] = Effects()
        if lease.busy == 0:
            del self._busy[number]
            if lease.over:
                effects.released.append(lease.handle)
        return effects

    def release(self, session: bytes, number: int) -> Effects[L, R]:
        """End a lease of one's own.

        Raises
        ------
        BlockStateError
            If there is none of this number, or another process has asked for it.
        """
        lease = self._find(session, number, _Lease)
        if lease.maker.process != self._session(session).process:
            raise BlockStateError(f"lease {number} is released by the process that asked for it")
        effects: Effects[L, R] = Effects()
        self._end_lease(number, lease, effects)
        return self._settled(lease.maker.group, effects)

    # Reservations.

    def may_reserve(self, session: bytes) -> bool:
        """Whether a reservation of this session could ever be committed: no shard is dead."""
        found = self._sessions.get(session)
        return found is not None and not found.group.dead

    def reserve(self, session: bytes, handle: R, blocks: int) -> int:
        """Enter a reservation; its number.

        Raises
        ------
        BlockStateError
            If the session has ended, or a shard's process: it is the caller's to abort.
        """
        maker = self._session(session)
        if maker.group.dead:
            raise BlockStateError("a shard of this group has ended: nothing can be stored")
        shards = set(range(maker.group.shards))
        return self._enter(_Reservation(maker, handle, blocks, shards))

    def find_reservation(self, session: bytes, number: int) -> R:
        """A reservation of the session's group; raises as `find_lease`."""
        found: R = self._find(session, number, _Reservation).handle
        return found

    def commit(self, session: bytes, number: int, shard: int | None) -> Effects[L, R]:
        """A shard is written, or all are.

        Raises
        ------
        BlockStateError
            If the session's group has no such reservation, or not this shard of it any more.
        """
        return self._close_shards(session, number, shard, failed=False)

    def abort(self, session: bytes, number: int, shard: int | None) -> Effects[L, R]:
        """A shard will not be written, or nobody writes any of them any more; as `commit`."""
        return self._close_shards(session, number, shard, failed=True)

    # What there is.

    @property
    def sessions(self) -> int:
        """Those of which something may be in use, connected or not."""
        return len(self._sessions)

    @property
    def groups(self) -> int:
        """Those that are named."""
        return len(self._groups)

    @property
    def transactions(self) -> int:
        """Leases and reservations."""
        return sum(held.transactions for held in self._held.values())

    def leases(self) -> tuple[int, L | None]:
        """How many there are, and the oldest."""
        leases = self._open[_Lease]
        return len(leases), next((each.handle for each in leases.values()), None)

    def reservations(self) -> tuple[int, R | None]:
        """How many there are, and the oldest."""
        reservations = self._open[_Reservation]
        return len(reservations), next((each.handle for each in reservations.values()), None)

    def holdings(self, process: Hashable) -> Holdings:
        """What sessions of a process leased and reserved."""
        return self._held.get(process, NOTHING)

    def knows(self, process: Hashable) -> bool:
        """Whether a process has any session."""
        return any(each.process == process for each in self._sessions.values())

    def processes(self) -> dict[Hashable, Holdings]:
        """All that hold anything."""
        return dict(self._held)

    # Bookkeeping.

    def _replace(self, new: _Session) -> None:
        """Forget sessions of which this is the successor, as far as nothing of theirs is left."""
        group = new.group
        makers = {transaction.maker for transaction in group.transactions.values()}
        for old in list(group.sessions):
            alike = old.process == new.process and old.shard == new.shard
            if alike and not old.connected and old not in makers:
                del self._sessions[old.id]
                group.sessions.discard(old)

    def _session(self, session: bytes) -> _Session:
        found = self._sessions.get(session)
        if found is None:
            raise BlockStateError("this session has ended")
        return found

    def _find(self, session: bytes, number: int, kind: type[T]) -> T:
        found = self._session(session).group.transactions.get(number)
        if not isinstance(found, kind):
            raise BlockStateError(f"number {number} names nothing here, or it has ended")
        return found

    def _enter(self, transaction: _Lease | _Reservation) -> int:
        number = next(self._numbers)
        transaction.maker.group.transactions[number] = transaction
        self._open[type(transaction)][number] = transaction
        self._count(transaction, 1)
        return number

    def _remove(self, number: int, transaction: _Lease | _Reservation) -> None:
        del transaction.maker.group.transactions[number]
        del self._open[type(transaction)][number]
        self._count(transaction, -1)

    def _count(self, transaction: _Lease | _Reservation, sign: int) -> None:
        process = transaction.maker.process
        transactions, leased, reserved = self._held.get(process, NOTHING)
        blocks = sign * transaction.blocks
        if isinstance(transaction, _Lease):
            leased += blocks
        else:
            reserved += blocks
        self._held[process] = Holdings(transactions + sign, leased, reserved)
        if transactions + sign == 0:
            del self._held[process]

    def _end_lease(self, number: int, lease: _Lease, effects: Effects[L, R]) -> None:
        self._remove(number, lease)
        lease.over = True
        if lease.busy == 0:
            effects.released.append(lease.handle)

    def _close_shards(
        self, session: bytes, number: int, shard: int | None, *, failed: bool
    ) -> Effects[L, R]:
        found = self._find(session, number, _Reservation)
        shards = found.open if shard is None else {shard}
        if not shards <= found.open:
            raise BlockStateError(f"there is no shard {shard}, or it was committed or aborted")
        effects: Effects[L, R] = Effects()
        found.doomed |= failed
        self._close(number, found, set(shards), effects)
        return self._settled(found.maker.group, effects)

    def _close(
        self, number: int, reservation: _Reservation, shards: set[int], effects: Effects[L, R]
    ) -> None:
        """Nobody writes these shards any more."""
        reservation.open -= shards
        if not reservation.open:
            self._remove(number, reservation)
            ending = effects.aborted if reservation.doomed else effects.committed
            ending.append(reservation.handle)

    def _left(
        self, sessions: Iterable[_Session], effects: Effects[L, R], *, died: bool
    ) -> Effects[L, R]:
        """Sessions are over: so are their shards, and groups of which they were the last."""
        for session in sessions:
            group = session.group
            if self._sessions.pop(session.id, None) is None:
                continue  # it went with its group
            group.sessions.discard(session)
            if session.shard is not None and not group.writers(session.shard):
                if died:
                    group.dead.add(session.shard)
                for number, reservation in _reservations(group):
                    if session.shard in reservation.open:
                        reservation.doomed = True
                        self._close(number, reservation, {session.shard}, effects)
            self._settled(group, effects)
        return effects

    def _settled(self, group: _Group, effects: Effects[L, R]) -> Effects[L, R]:
        """Let go what nobody is left to use, and forget what means nothing any more."""
        if not group.sessions:
            for number, transaction in list(group.transactions.items()):
                if isinstance(transaction, _Lease):
                    self._end_lease(number, transaction, effects)
                else:
                    transaction.doomed = True
                    self._close(number, transaction, set(transaction.open), effects)
        elif not group.transactions and not any(each.connected for each in group.sessions):
            for session in group.sessions:
                del self._sessions[session.id]
            group.sessions.clear()
        if not group.sessions:
            self._groups.pop(group.name, None)
        return effects


def _reservations(group: _Group) -> list[tuple[int, _Reservation]]:
    return [
        (number, each)
        for number, each in group.transactions.items()
        if isinstance(each, _Reservation)
    ]
