"""``Client``: the daemon for code that waits."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from greencache.buffers import Blocks
from greencache.client.address import connect
from greencache.client.base import GOODBYE_S, Ask, BaseClient, CopyAll, Flow
from greencache.client.link import Link
from greencache.client.looking import look_often
from greencache.client.messages import Hbm, Seen
from greencache.client.session import Call
from greencache.client.transactions import Lease, Reservation
from greencache.errors import GreenCacheError, UnavailableError

__all__ = ["Client"]

T = TypeVar("T")


class Client(BaseClient):
    """The host's store, for code that waits for answers; any number of threads may share it.

    It connects when it is first asked something, and again after the connection was lost. Every
    call ends within its deadline: with `UnavailableError` if the daemon does not run, has ended or
    does not answer, which an engine takes for a miss. While there is no daemon, calls fail at once
    and only now and then try to connect.

    A forked child has no part in its parent's connection: it makes its own, and what the parent was
    given stays the parent's.

    Parameters
    ----------
    block_bytes:
        Bytes of a block, all shards together.
    socket:
        Where the daemon listens; by default where ``GREENCACHE_SERVE__SOCKET`` says, or in the
        user's own runtime directory.
    shards, shard:
        Over how many processes blocks are split, and whose part this one reads and writes; all of
        it, if None.
    group:
        Names the processes of one engine, 16 bytes that nobody else knows. They share leases and
        reservations, which end only when all of them have.
    name:
        What the daemon's logs and metrics call this client.
    timeout_s, long_timeout_s:
        For each answer, and for one that may have to wait for a disk.
    copy_threads:
        How many threads share a large copy.
    pinning:
        Pins the daemon's memory for a device, as far and as long as the daemon allows; copies that
        rely on it are made within `Lease.in_use` or `Reservation.in_use`.

    Raises
    ------
    InputError
        If a block is not made of so many shards.

    Examples
    --------
    >>> import numpy as np
    >>> from greencache.client import Client
    >>> from greencache.errors import UnavailableError
    >>> keys = [bytes([i]) * 16 for i in range(3)]
    >>> blocks = np.full((3, 4096), 7, np.uint8)
    >>> with Client(block_bytes=4096, socket="/nowhere/daemon.sock") as client:
    ...     try:
    ...         client.store(keys, blocks)
    ...     except UnavailableError:
    ...         print("no daemon: nothing is stored")
    no daemon: nothing is stored
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def lookup(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> dict[str, int]:
        """Length of the prefix that each tier has now; it does not count as asked for.

        Parameters
        ----------
        keys:
            Blocks from the start of a prompt; here and everywhere 65,536 at the most.
        timeout_s:
            Here and everywhere: in which time the whole call is to end. It also ends if any one
            answer takes longer than the client's own limits.

        Raises
        ------
        UnavailableError
            Here and everywhere: if the daemon cannot be had, or does not answer in time.
        RefusedError
            Here and everywhere: if it does not serve this client.
        ProtocolError
            Here and everywhere: if it says what cannot be understood. The connection is over then.
        """
        return self._run(self._lookup(keys), timeout_s)

    def acquire(
        self,
        keys: Sequence[bytes],
        *,
        held: int = 0,
        reusable: int | None = None,
        learn: bool = True,
        request: int = 0,
        timeout_s: float | None = None,
    ) -> Lease:
        """Find what a request can load, and keep it until it is released.

        Parameters
        ----------
        keys:
            All full blocks of its prompt.
        held:
            Leading blocks that the engine has already.
        reusable:
            Leading blocks that may be loaded; all, if nothing is said.
        learn:
            Whether it counts as a request; not where the same one asks again.
        request:
            The caller's number of it, by which `observe` tells of the same; 0 for none.
        timeout_s:
            As of `lookup`.
        """
        return self._run(self._acquire(keys, held, reusable, learn, request), timeout_s)

    def fetch(self, lease: Lease, *, timeout_s: float | None = None) -> int:
        """Get all of a lease's blocks into memory; how many leading ones are ready then."""
        return self._run(self._fetch(lease), timeout_s)

    def release(self, lease: Lease) -> None:
        """As `Lease.release`."""
        lease.release()

    def load(
        self,
        keys: Sequence[bytes],
        into: Blocks,
        first: int = 0,
        *,
        learn: bool = True,
        timeout_s: float | None = None,
    ) -> int:
        """Copy what there is of a prompt into buffers.

        Parameters
        ----------
        keys:
            All full blocks of the prompt.
        into:
            Buffers for the blocks from ``first`` on: an array [blocks, block_bytes] of uint8, or an
            array for each. Of a client with a shard, they hold its parts.
        first:
            Leading blocks that the engine has already.
        learn:
            As of `acquire`.
        timeout_s:
            As of `lookup`.

        Returns
        -------
        int
            How many blocks, from ``first`` on, are in their buffers. What is in the others means
            nothing.
        """
        return self._run(self._load(keys, into, first, learn), timeout_s)

    def join_lease(self, number: int, *, timeout_s: float | None = None) -> Lease:
        """Read what another process of the group was given; only that one can end it.

        Parameters
        ----------
        number:
            The other's `Lease.number`.
        timeout_s:
            As of `lookup`.
        """
        return self._run(self._join_lease(number), timeout_s)

    def reserve(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> Reservation:
        """Take room for what follows the part of a prompt that is stored.

        It may be for fewer blocks than are missing, or for none.
        """
        return self._run(self._reserve(keys), timeout_s)

    def join_reservation(self, number: int, *, timeout_s: float | None = None) -> Reservation:
        """Write this shard of what another process of the group reserved.

        Parameters
        ----------
        number:
            The other's `Reservation.number`.
        timeout_s:
            As of `lookup`.
        """
        return self._run(self._join_reservation(number), timeout_s)

    def commit(self, reservation: Reservation, *, timeout_s: float | None = None) -> bool:
        """All blocks, or this shard's parts of them, are written.

        Returns
        -------
        bool
            Whether the blocks are found from now on: no other shard is missing, none failed.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before.
        UnavailableError
            If the daemon could not be told: unless it was only the answer that was lost, the blocks
            are not found. The reservation has ended.
        """
        return self._run(self._commit(reservation), timeout_s)

    def abort(self, reservation: Reservation) -> None:
        """As `Reservation.abort`."""
        reservation.abort()

    def store(
        self,
        keys: Sequence[bytes],
        blocks: Blocks,
        first: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> int:
        """Store a prompt that was computed.

        Parameters
        ----------
        keys:
            All its full blocks.
        blocks:
            Bytes of those from ``first`` on, as for `load`. What is stored already is not copied.
        first:
            Place of the first block given. What is missing before it, nothing is stored behind.
        timeout_s:
            As of `lookup`.

        Returns
        -------
        int
            How many blocks are new. The daemon was told to commit them, which it does before it
            answers anything that this client asks next; `commit` waits for that.
        """
        return self._run(self._store(keys, blocks, first), timeout_s)

    def prefetch(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> int:
        """Get a prompt into memory that is asked for soon; how many leading blocks are there."""
        return self._run(self._prefetch(keys), timeout_s)

    def delete(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> int:
        """Drop the last of these blocks and what builds on it; how many are gone."""
        return self._run(self._delete(keys), timeout_s)

    def resize(self, *, timeout_s: float | None = None, **capacity_bytes: int) -> dict[str, int]:
        """Change tiers' capacities: ``resize(dram=..., ssd=...)``.

        Returns
        -------
        dict
            For each, bytes still to be given back as leases and pins end.

        Raises
        ------
        InputError
            If there is no such tier.
        TierError
            If a capacity cannot be had.
        """
        return self._run(self._resize(capacity_bytes), timeout_s)

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Write what waits, so that it outlasts a loss of power."""
        self._run(self._flush(), timeout_s)

    def status(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the daemon is and has, as ``greencache status --json`` prints it."""
        return self._run(self._status(), timeout_s)

    def observe(
        self, seen: Sequence[Seen], *, hbm: Hbm | None = None, timeout_s: float | None = None
    ) -> None:
        """Tell the controller what became of requests, and what the engine's own memory has."""
        self._run(self._observe(seen, hbm), timeout_s)

    def close(self) -> None:
        """End the session. Leases and reservations are to be given back before.

        What was not ends with this process. Calling it twice does nothing.
        """
        with self._lock:
            self.closed = True
        if self._pins is not None:
            self._pins.close()
        with self._lock:
            link, goodbye = self._link, self._say_goodbye()
        if link is not None:
            try:
                if goodbye is not None:
                    with contextlib.suppress(GreenCacheError):  # it was lost before
                        self._wait(link, goodbye, time.monotonic() + GOODBYE_S)
            finally:
                with self._lock:
                    self._lose(link, UnavailableError("this client is closed"))
        self._copiers.close()

    # How steps are waited for.

    def _start(self) -> None:
        super()._start()
        self._changed = threading.Condition(self._lock)
        self._connecting = threading.Lock()
        self._looking: threading.Thread | None = None

    def _run(self, flow: Flow[T], timeout_s: float | None) -> T:
        end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    call: Call | None = None
                    if isinstance(step, CopyAll):
                        self._copiers.run(step.work)
                    else:
                        call = self._answered(step, end_s)
                except BaseException as fault:
                    step = flow.throw(fault)
                else:
                    step = flow.send(call)
        except StopIteration as end:
            result: T = end.value
            return result

    def _answered(self, ask: Ask, end_s: float) -> Call:
        end_s = self._deadline(ask, end_s)
        link = self._linked(end_s)
        with self._lock:
            call = self._ask(link, ask)
        return self._wait(link, call, end_s)

    def _wait(self, link: Link, call: Call, end_s: float) -> Call:
        """Have a call answered. Of all threads that wait, one reads for all."""
        with self._changed:
            try:
                self._push(link)
                while not call.done:
                    left_s = end_s - time.monotonic()
                    if left_s <= 0:
                        raise self._late(link, call)
                    if link.waiting and not link.session.outgoing:
                        self._changed.wait(left_s)
                    else:
                        self._turn(link, left_s)
            except BaseException:  # also what a handler of signals raises
                if not call.abandoned:
                    link.session.abandon(call, time.monotonic())
                    self._push(link)
                raise
        return call.checked()

    def _turn(self, link: Link, most_s: float) -> None:
        """Wait, without the lock, until something comes in or there is room to send."""
        poll = select.poll()
        poll.register(
            link.descriptor, select.POLLIN | (select.POLLOUT if link.session.outgoing else 0)
        )
        link.waiting += 1
        self._lock.release()
        try:
            poll.poll(most_s * 1e3)
        finally:
            self._lock.acquire()
            link.waiting -= 1
            self._changed.notify_all()
        link.receive()
        self._push(link)

    def _linked(self, end_s: float) -> Link:
        """The connection, made if there is none."""
        with self._lock:
            link = self._current()
        if link is not None:
            return link
        if self._connecting.locked():
            self._backoff.check_trying(time.monotonic())
        if not self._connecting.acquire(timeout=max(0.0, end_s - time.monotonic())):
            raise UnavailableError("the daemon could not be reached in time")
        try:
            with self._lock:
                link = self._current()  # another thread may have made it meanwhile
                if link is not None:
                    return link
                self._backoff.check(time.monotonic())
            return self._connect(end_s)
        finally:
            self._connecting.release()

    def _connect(self, end_s: float) -> Link:
        try:
            link = Link(connect(self.socket), self._session())
        except GreenCacheError as fault:
            self._backoff.failed(fault, time.monotonic())
            raise
        try:
            call = link.session.ask(self._hello, time.monotonic())
            self._wait(link, call, end_s)
        except BaseException as fault:
            with self._lock:
                self._unwelcome(link, fault)
            raise
        with self._lock:
            self._welcome(link)
            if self._pins is not None and self._looking is None:
                self._looking = look_often(self)
        return link

    def look(self) -> bool:
        """As `greencache.client.looking.Looks`."""
        with self._lock:
            if self.closed:
                return False
            link, ended = self._current(), bool(self._lost)
            if link is not None:
                self._push(link)
        if link is None and ended:
            with contextlib.suppress(GreenCacheError):  # until the next look
                self.lookup([])
        return True
