"""``AsyncClient``: the daemon for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from greencache.buffers import Blocks
from greencache.client.address import connect
from greencache.client.base import (
    GOODBYE_S,
    Ask,
    BaseClient,
    CopyAll,
    Flow,
)
from greencache.client.copies import copy_all
from greencache.client.link import Link
from greencache.client.messages import Hbm, Seen
from greencache.client.session import Call, Session
from greencache.client.transactions import Lease, Reservation
from greencache.errors import GreenCacheError, UnavailableError
from greencache.waiting import ended

__all__ = ["AsyncClient"]

T = TypeVar("T")

_INLINE_BYTES = 256 << 10
"""Copying less takes about as long as handing it to a thread and back: 10 to 20 us."""

_TURN_S = 0.3e-3
"""How long the event loop's thread, which is awake, copies before others have their turn. Waiting
for threads instead, which first have to wake, takes 5 % longer for a batch of 64 MiB."""


class _LoopLink(Link):
    """A connection that an event loop watches."""

    def __init__(self, connection: socket.socket, session: Session) -> None:
        super().__init__(connection, session)
        self.loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def leave(self, fault: GreenCacheError) -> None:
        """As `Link.leave`."""
        # What a loop watches, a forked child shares with its parent.
        if os.getpid() == self._process and not self.loop.is_closed() and self.descriptor >= 0:
            self.loop.remove_reader(self.descriptor)
            self.loop.remove_writer(self.descriptor)
        self.descriptor = -1
        super().leave(fault)


class AsyncClient(BaseClient):
    """The host's store, for asyncio; any number of tasks of one event loop may share it.

    It is `greencache.client.Client` in all but how it waits. Many questions may be under way at
    once. The event loop goes on while a large copy is made: other threads share it (one at least,
    whatever ``copy_threads``), and its own part it does a little at a time. A task that is
    cancelled in a copy ends when the copy has.

    Parameters
    ----------
    block_bytes, socket, shards, shard, group, name, timeout_s, long_timeout_s, copy_threads, \
    pinning:
        As of `greencache.client.Client`. `Lease.in_use` and `Reservation.in_use` may wait for
        copies of other tasks: enter them in a thread (`asyncio.to_thread`), not in the event loop.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def lookup(
        self, keys: Sequence[bytes], *, timeout_s: float | None = None
    ) -> dict[str, int]:
        """As `Client.lookup`."""
        return await self._run(self._lookup(keys), timeout_s)

    async def acquire(
        self,
        keys: Sequence[bytes],
        *,
        held: int = 0,
        reusable: int | None = None,
        learn: bool = True,
        request: int = 0,
        timeout_s: float | None = None,
    ) -> Lease:
        """As `Client.acquire`."""
        return await self._run(self._acquire(keys, held, reusable, learn, request), timeout_s)

    async def fetch(self, lease: Lease, *, timeout_s: float | None = None) -> int:
        """As `Client.fetch`."""
        return await self._run(self._fetch(lease), timeout_s)

    def release(self, lease: Lease) -> None:
        """As `Lease.release`; it does not wait."""
        lease.release()

    async def load(
        self,
        keys: Sequence[bytes],
        into: Blocks,
        first: int = 0,
        *,
        learn: bool = True,
        timeout_s: float | None = None,
    ) -> int:
        """As `Client.load`."""
        return await self._run(self._load(keys, into, first, learn), timeout_s)

    async def join_lease(self, number: int, *, timeout_s: float | None = None) -> Lease:
        """As `Client.join_lease`."""
        return await self._run(self._join_lease(number), timeout_s)

    async def reserve(
        self, keys: Sequence[bytes], *, timeout_s: float | None = None
    ) -> Reservation:
        """As `Client.reserve`."""
        return await self._run(self._reserve(keys), timeout_s)

    async def join_reservation(self, number: int, *, timeout_s: float | None = None) -> Reservation:
        """As `Client.join_reservation`."""
        return await self._run(self._join_reservation(number), timeout_s)

    async def commit(self, reservation: Reservation, *, timeout_s: float | None = None) -> bool:
        """As `Client.commit`."""
        return await self._run(self._commit(reservation), timeout_s)

    def abort(self, reservation: Reservation) -> None:
        """As `Reservation.abort`; it does not wait."""
        reservation.abort()

    async def store(
        self,
        keys: Sequence[bytes],
        blocks: Blocks,
        first: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> int:
        """As `Client.store`."""
        return await self._run(self._store(keys, blocks, first), timeout_s)

    async def prefetch(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> int:
        """As `Client.prefetch`."""
        return await self._run(self._prefetch(keys), timeout_s)

    async def delete(self, keys: Sequence[bytes], *, timeout_s: float | None = None) -> int:
        """As `Client.delete`."""
        return await self._run(self._delete(keys), timeout_s)

    async def resize(
        self, *, timeout_s: float | None = None, **capacity_bytes: int
    ) -> dict[str, int]:
        """As `Client.resize`."""
        return await self._run(self._resize(capacity_bytes), timeout_s)

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """As `Client.flush`."""
        await self._run(self._flush(), timeout_s)

    async def status(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """As `Client.status`."""
        return await self._run(self._status(), timeout_s)

    async def observe(
        self, seen: Sequence[Seen], *, hbm: Hbm | None = None, timeout_s: float | None = None
    ) -> None:
        """As `Client.observe`."""
        await self._run(self._observe(seen, hbm), timeout_s)

    async def close(self) -> None:
        """As `Client.close`."""
        with self._lock:
            self.closed = True
        if self._pins is not None:
            await asyncio.to_thread(self._pins.close)
        with self._lock:
            link, goodbye = self._link, self._say_goodbye()
        if link is not None:
            try:
                if goodbye is not None:
                    await self._wait(link, goodbye, time.monotonic() + GOODBYE_S)
            except GreenCacheError:
                pass  # it was lost before
            finally:
                with self._lock:
                    self._lose(link, UnavailableError("this client is closed"))
        await asyncio.to_thread(self._copiers.close)

    # How steps are waited for.

    def _start(self) -> None:
        super()._start()
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _run(self, flow: Flow[T], timeout_s: float | None) -> T:
        end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    call: Call | None = None
                    if isinstance(step, CopyAll):
                        await self._copy(step)
                    else:
                        call = await self._answered(step, end_s)
                except BaseException as fault:
                    step = flow.throw(fault)
                else:
                    step = flow.send(call)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _copy(self, step: CopyAll) -> None:
        if step.size_bytes <= _INLINE_BYTES:
            copy_all(step.work)
            return
        helpers = self._copiers.submit(step.work, max(1, self._copiers.threads - 1))
        try:
            while not copy_all(step.work, _TURN_S):
                await asyncio.sleep(0)
        finally:
            step.work.clear()  # if this was cancelled, or failed
            begun = [asyncio.wrap_future(each) for each in helpers if not each.cancel()]
            await ended(begun)
        for each in helpers:
            if not each.cancelled():
                each.result()

    async def _answered(self, ask: Ask, end_s: float) -> Call:
        end_s = self._deadline(ask, end_s)
        link = await self._linked(end_s)
        with self._lock:
            call = self._ask(link, ask)
        return await self._wait(link, call, end_s)

    async def _wait(self, link: Link, call: Call, end_s: float) -> Call:
        """Have a call answered."""
        answered = asyncio.get_running_loop().create_future()
        with self._lock:
            call.wake = functools.partial(_wake, answered)
            self._push(link)
        try:
            if not call.done:
                await asyncio.wait((answered,), timeout=max(0.0, end_s - time.monotonic()))
        except asyncio.CancelledError:
            with self._lock:
                link.session.abandon(call, time.monotonic())
                self._push(link)
            raise
        if not call.done:
            with self._lock:
                raise self._late(link, call)
        return call.checked()

    async def _linked(self, end_s: float) -> Link:
        """The connection, made if there is none."""
        with self._lock:
            self._mind_loop()
            link = self._current()
        if link is not None:
            return link
        connecting = self._connecting
        if connecting.locked():
            self._backoff.check_trying(time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, end_s - time.monotonic())):
                await connecting.acquire()  # who makes it does so within its own deadline
        except TimeoutError:
            raise UnavailableError("the daemon could not be reached in time") from None
        try:
            with self._lock:
                link = self._current()  # another task may have made it meanwhile
                if link is not None:
                    return link
                self._backoff.check(time.monotonic())
            return await self._connect(end_s)
        finally:
            connecting.release()

    async def _connect(self, end_s: float) -> Link:
        try:
            link = _LoopLink(connect(self.socket), self._session())
        except GreenCacheError as fault:
            self._backoff.failed(fault, time.monotonic())
            raise
        try:
            link.loop.add_reader(link.descriptor, self._readable, link)
            call = link.session.ask(self._hello, time.monotonic())
            await self._wait(link, call, end_s)
        except BaseException as fault:
            with self._lock:
                self._unwelcome(link, fault)
            raise
        with self._lock:
            self._welcome(link)
        return link

    def _mind_loop(self) -> None:
        """A connection belongs to the event loop in which it was made."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._connecting = loop, asyncio.Lock()
            if self._link is not None:
                self._lose(self._link, UnavailableError("its event loop has ended"))

    def _unpinned(self, session: Session, number: int) -> None:
        # Called in a thread; what sends has to be in the loop's.
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the connection with it
            assert self._loop is not None
            self._loop.call_soon_threadsafe(super()._unpinned, session, number)

    def _readable(self, link: _LoopLink) -> None:
        with self._lock:
            link.receive()
            self._push(link)

    def _writable(self, link: _LoopLink) -> None:
        with self._lock:
            link.loop.remove_writer(link.descriptor)
            self._push(link)

    def _push(self, link: Link) -> None:
        super()._push(link)
        if link.session.outgoing and isinstance(link, _LoopLink):
            link.loop.add_writer(link.descriptor, self._writable, link)


def _wake(answered: asyncio.Future[None], _: Call) -> None:
    if not answered.done():
        answered.set_result(None)
