"""``Daemon``: one store per host, which engines share."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from greencache.client.place import default_socket
from greencache.service.connection import ConnectionLimits
from greencache.service.doctor.disk import check_ssd
from greencache.service.doctor.finding import Verdict
from greencache.service.endpoint import Endpoint
from greencache.service.hbm import EnginePools
from greencache.service.ledger import Effects, Ledger
from greencache.service.peers import Peer, peer_of
from greencache.service.pinning import Pinned
from greencache.service.pools import Pools
from greencache.service.server import Server
from greencache.service.session import Events, Held, Process, Taken
from greencache.service.sizes import in_words, pool_options
from greencache.service.warming import warm_up
from greencache.settings import Settings
from greencache.version import VERSION

__all__ = ["Daemon"]

_log = logging.getLogger("greencache.service")

_ANSWERED_WITHIN_S = 5.0
"""Questions that are being answered when the daemon is stopped are waited for so long."""


_OTHER_DESCRIPTORS = 768
"""Left for memory and files: twice 256 extents of DRAM, those of SSD, and what else there is."""

_UNLIMITED = 1 << 20


class Daemon:
    """The store of a host, at a socket.

    Others take part by `services`, `events`, `reports` and `resize`, before it is started.

    Parameters
    ----------
    settings:
        All of them; its own are ``serve``.
    limits:
        Of each connection.
    who:
        Tells who connected.

    Raises
    ------
    SettingsError
        If settings of sizes do not go together.

    Attributes
    ----------
    pools:
        The caches.
    ledger:
        Who holds what.
    pinned:
        Who may have memory pinned.
    hbm:
        What engines' own pools have.
    events:
        Who hears of requests.
    services:
        Started after the pools and stopped before them.
    reports:
        Parts of `status` by name: each is called for it.
    counts:
        Questions by kind, clients ``refused`` and ``cut_off``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        limits: ConnectionLimits | None = None,
        who: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        self.settings = settings
        self.path = settings.serve.socket or default_socket()
        self._options = pool_options(settings)
        self.pools = Pools(self._options)
        self.ledger: Ledger[Held, Taken] = Ledger(1 + secrets.randbits(62))
        self.pinned: Pinned[Process] = Pinned()
        self.hbm = EnginePools()
        self.events = Events(hbm=[self.hbm.told])
        self.services: list[AbstractAsyncContextManager[Any]] = []
        self.reports: dict[str, Callable[[], Any]] = {"hbm": self.hbm.report}
        self.counts: Counter[str] = Counter()
        self._limits, self._who = limits or ConnectionLimits(), who
        self._endpoint: Endpoint | None = None
        self._server: Server | None = None
        self._open = AsyncExitStack()
        self._started_s = time.monotonic()
        self._wanted_end = asyncio.Event()

    async def start(self) -> None:
        """Open the tiers, start what takes part, listen.

        Raises
        ------
        ServiceError
            If another daemon listens at this socket.
        InputError
            If a setting cannot be had on this machine.
        TierError
            If memory or files cannot be used.
        """
        possible, wanted = _clients_possible(), self.settings.serve.sessions
        if possible < wanted:
            _log.warning(
                "at most %d clients instead of %d: `ulimit -n` allows no more", possible, wanted
            )
        await warm_up(self.pools.small())
        async with AsyncExitStack() as stack:
            endpoint = Endpoint(self.path)
            stack.callback(endpoint.close)
            await stack.enter_async_context(self.pools)
            await asyncio.to_thread(self._warn_of_disk)
            for service in self.services:
                await stack.enter_async_context(service)
            self._server = Server(
                self,
                endpoint.socket,
                limits=self._limits,
                most=min(possible, wanted),
                who=self._who,
            )
            self._endpoint = endpoint
            self._open = stack.pop_all()
        _log.info("%s", in_words(self._options))
        _log.info("listening at %s", self.path)

    def _warn_of_disk(self) -> None:
        """Log what `greencache doctor` finds amiss with the folder for SSD."""
        folder = self._options.ssd_dir
        if folder is None:
            return
        try:
            for each in check_ssd(folder, self._options.ssd_bytes):
                if each.verdict is not Verdict.OK:
                    _log.warning("%s: %s; %s", each.check, each.text, each.advice)
        except OSError as fault:
            _log.warning("%s could not be looked at: %s", folder, fault)

    async def stop(self) -> None:
        """Take no more questions, write what waits, flush, close. Twice does nothing more."""
        server, self._server = self._server, None
        if server is None or self._endpoint is None:
            return
        async with self._open:
            self._endpoint.hide()
            await server.stop(_ANSWERED_WITHIN_S)
        _log.info("stopped")

    async def __aenter__(self) -> Daemon:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def run(self) -> None:
        """Start, serve until `end`, SIGTERM or SIGINT, stop.

        A second signal ends the process at once.
        """
        loop = asyncio.get_running_loop()

        def signalled(number: int) -> None:
            if self._wanted_end.is_set():
                os._exit(128 + number)
            self.end()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled, number)
        async with self:
            await self._wanted_end.wait()

    def end(self) -> None:
        """Have `run` stop and return."""
        self._wanted_end.set()

    @property
    def serving(self) -> bool:
        """Whether it takes questions: not while it starts or stops."""
        return self._server is not None

    @property
    def connections(self) -> int:
        """Clients connected."""
        return self._server.connections if self._server else 0

    async def resize(self, **capacity_bytes: int) -> dict[str, int]:
        """Change what all pools together may hold; as `Pools.resize`."""
        return await self.pools.resize(**capacity_bytes)

    def apply(self, effects: Effects[Held, Taken]) -> None:
        """Release and abort what has ended."""
        for held in effects.released:
            held.pool.cache.release(held.lease)
        for taken in effects.aborted:
            taken.pool.cache.abort(taken.reservation)

    def status(self) -> dict[str, Any]:
        """What the daemon is and has, as plain values: ``greencache status --json``."""
        server = self._server
        return {
            "schema": "greencache.status/1",
            "version": VERSION,
            "pid": os.getpid(),
            "socket": str(self.path),
            "up_s": time.monotonic() - self._started_s,
            "connections": server.connections if server else 0,
            "processes": server.processes if server else 0,
            "sessions": self.ledger.sessions,
            "transactions": self.ledger.transactions,
            "counts": dict(self.counts),
            "pinned": self._report_pinned(),
            "capacity_bytes": self.pools.capacity_bytes,
            "pools": [pool.report() for pool in self.pools],
            **{name: report() for name, report in self.reports.items()},
        }

    def _report_pinned(self) -> list[dict[str, int]]:
        """Processes that may have memory pinned, and how much of it they are asked for."""
        return [
            {"pid": process.pid, "extents": extents, "asked_back": asked}
            for process, (extents, asked) in self.pinned.processes().items()
        ]


def _clients_possible() -> int:
    """How many there may be: each takes a descriptor, and its process another one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return _UNLIMITED
    return max(1, (hard - _OTHER_DESCRIPTORS) // 2)
