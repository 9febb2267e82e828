"""``Observation``: a daemon's metrics and health over HTTP, and its alarm about old leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from greencache.client.messages import Seen
from greencache.errors import ServiceError
from greencache.metrics import (
    CONNECTIONS,
    FAILURES,
    HIT_TOKENS,
    LEASES,
    LOOKUP_TOKENS,
    OLDEST_LEASE,
    OLDEST_RESERVATION,
    OUTPUT_TOKENS,
    POOLS,
    QUESTIONS,
    REFUSED_CLIENTS,
    REQUESTS,
    RESERVATIONS,
    SESSIONS,
    Sample,
)
from greencache.output import as_bytes
from greencache.quantities import format_bytes
from greencache.service.causes import TIER_CAUSES, at_zero
from greencache.service.daemon import Daemon
from greencache.service.http import HttpServer, Reply
from greencache.service.metrics import MetricsPage, Source, breaker_samples, cache_samples
from greencache.service.session import Held, Taken

__all__ = ["PORT", "Observation"]

PORT = 19600
"""Unless something else is said. Prometheus' own list of ports, 9100 to 9999, is all given away."""

_TIERS = ("hbm", "dram", "ssd", "redis")
"""Those of which engines tell; a client makes up no others."""

_LONG_S = 900.0
"""Longer than any request: what is leased or reserved so long was likely forgotten."""

_LOOK_EVERY_S = 60.0

_log = logging.getLogger("greencache.service")


class Observation:
    """Lets others see how a daemon does; takes part in it as a service.

    Parameters
    ----------
    daemon:
        Not yet started.
    long_s, look_every_s:
        Age of a lease or reservation that is warned of, and how often that is looked for.

    Attributes
    ----------
    sources:
        Of metrics, by name; more may be put here before the daemon is started.
    """

    def __init__(
        self, daemon: Daemon, *, long_s: float = _LONG_S, look_every_s: float = _LOOK_EVERY_S
    ) -> None:
        self._daemon = daemon
        self._long_s, self._look_every_s = long_s, look_every_s
        self._hit_tokens: Counter[str] = Counter(dict.fromkeys(_TIERS, 0))
        self._requests = self._prompt_tokens = self._output_tokens = 0
        self.sources: dict[str, Source] = {
            "requests": self._tokens,
            "pools": self._pools,
            "clients": self._clients,
            "hbm": daemon.hbm.samples,
        }
        self._http: HttpServer | None = None
        self._open = AsyncExitStack()
        self._warned: dict[str, float] = {}
        """Since when those were held that were warned of last."""
        daemon.events.seen.append(self._seen)
        daemon.reports["held"] = self._report_held
        daemon.reports["metrics"] = self._report
        daemon.services.append(self)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._daemon.settings.serve.metrics:
                self._http = await self._listening(stack)
            watching = asyncio.create_task(self._watch(), name="old leases")
            stack.callback(watching.cancel)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def _listening(self, stack: AsyncExitStack) -> HttpServer | None:
        """The server; None if a port that nobody asked for cannot be had.

        Raises
        ------
        SettingsError
            If it could be reached from other hosts, and there is no token.
        ServiceError
            If the port that was asked for cannot be had.
        """
        wanted = self._daemon.settings.serve
        page = MetricsPage(self.sources)

        async def metrics(accept: str) -> Reply:
            return Reply(*await page.render(accept))

        server = HttpServer(
            {"/metrics": metrics, "/healthz": self._health},
            address=wanted.metrics_address,
            port=PORT if wanted.metrics_port is None else wanted.metrics_port,
            token=token.get_secret_value() if (token := wanted.metrics_token) else None,
            public=["/healthz"],
        )
        try:
            await stack.enter_async_context(server)
        except ServiceError as fault:
            if wanted.metrics_port is not None:
                raise
            _log.warning("no metrics: %s", fault)  # serving KV is worth more
            return None
        _log.info("metrics at http://%s:%d/metrics", wanted.metrics_address, server.port)
        return server

    async def _health(self, accept: str) -> Reply:
        """Whether it serves and nothing else: whoever reaches the port may ask."""
        serving = self._daemon.serving
        status = {"status": "ok" if serving else "not serving"}
        code = HTTPStatus.OK if serving else HTTPStatus.SERVICE_UNAVAILABLE
        return Reply(as_bytes(status), "application/json", code)

    # What others know.

    def _seen(self, name: str, requests: list[Seen]) -> None:
        for each in requests:
            if each.ended:  # only now all is known
                self._requests += 1
                self._prompt_tokens += max(0, each.prompt_tokens)
                self._output_tokens += max(0, each.output_tokens)
                for tier in _TIERS:
                    self._hit_tokens[tier] += max(0, each.hit_tokens.get(tier, 0))

    def _tokens(self) -> Iterator[Sample]:
        yield Sample(REQUESTS, self._requests)
        yield Sample(LOOKUP_TOKENS, self._prompt_tokens)
        yield Sample(OUTPUT_TOKENS, self._output_tokens)
        for tier, tokens in self._hit_tokens.items():
            yield Sample(HIT_TOKENS, tokens, (tier,))

    def _pools(self) -> Iterator[Sample]:
        yield Sample(POOLS, len(self._daemon.pools))
        shared = [] if self._daemon.settings.redis.url is None else ["redis"]
        for tier in [*self._daemon.pools.tiers, *shared]:  # also of pools that are still to come
            yield from at_zero(FAILURES, TIER_CAUSES[tier], tier)
        for pool in self._daemon.pools:
            yield from cache_samples(pool.cache.stats())
            yield from breaker_samples(pool.cache.tiers.values())

    def _clients(self) -> Iterator[Sample]:
        daemon = self._daemon
        yield Sample(CONNECTIONS, daemon.connections)
        yield Sample(SESSIONS, daemon.ledger.sessions)
        leases, lease = daemon.ledger.leases()
        reservations, reservation = daemon.ledger.reservations()
        yield Sample(LEASES, leases)
        yield Sample(OLDEST_LEASE, _age_s(lease))
        yield Sample(RESERVATIONS, reservations)
        yield Sample(OLDEST_RESERVATION, _age_s(reservation))
        for cause in ("refused", "cut_off"):
            yield Sample(REFUSED_CLIENTS, daemon.counts[cause], (cause,))
        for kind, count in daemon.counts.items():
            if kind not in ("refused", "cut_off"):
                yield Sample(QUESTIONS, count, (kind.lower(),))

    # The daemon's status.

    def _report(self) -> dict[str, Any]:
        wanted, server = self._daemon.settings.serve, self._http
        if server is None:
            return {"address": None, "port": None}
        return {"address": wanted.metrics_address, "port": server.port}

    def _report_held(self) -> dict[str, Any]:
        leases, lease = self._daemon.ledger.leases()
        reservations, reservation = self._daemon.ledger.reservations()
        return {
            "leases": leases,
            "oldest_lease_s": _age_s(lease),
            "reservations": reservations,
            "oldest_reservation_s": _age_s(reservation),
        }

    # Old leases.

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_every_s)
            self._warn_of("lease", self._daemon.ledger.leases()[1])
            self._warn_of("reservation", self._daemon.ledger.reservations()[1])

    def _warn_of(self, what: str, oldest: Held | Taken | None) -> None:
        """Say once that one is old; the next oldest is said when that one is gone."""
        age_s = _age_s(oldest)
        if oldest is None or age_s < self._long_s or self._warned.get(what) == oldest.since_s:
            return
        self._warned[what] = oldest.since_s
        _log.warning(
            "process %d has had a %s of %d blocks (%s) for %.0f s: it makes no room for others",
            oldest.process.pid,
            what,
            len(oldest),
            format_bytes(len(oldest) * oldest.pool.block_bytes),
            age_s,
        )


def _age_s(oldest: Held | Taken | None) -> float:
    return 0.0 if oldest is None else time.monotonic() - oldest.since_s
