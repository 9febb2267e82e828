"""``WhileUsed``: ends a daemon that one engine started, some time after nobody uses it any more."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from greencache.service.daemon import Daemon
from greencache.waiting import stopped

__all__ = ["WhileUsed"]

UNUSED_S = 5.0
"""Longer than a client that lost its connection needs to come back."""

FIRST_S = 60.0
"""For the first client to come: the engine that started the daemon."""

_LOOK_EVERY_S = 0.25

_log = logging.getLogger("greencache.service")


class WhileUsed:
    """Ends a daemon when it has had no client for a while; takes part in it as a service.

    Parameters
    ----------
    daemon:
        Not yet started.
    unused_s, first_s:
        How long it goes on after its last client has gone, and without any from the start.
    """

    def __init__(
        self, daemon: Daemon, *, unused_s: float = UNUSED_S, first_s: float = FIRST_S
    ) -> None:
        self._daemon = daemon
        self._unused_s, self._first_s = unused_s, first_s
        self._looking: asyncio.Task[None] | None = None
        daemon.services.append(self)

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look(), name="while used")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._looking is not None:
            await stopped(self._looking)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        end_s, asked = loop.time() + self._first_s, 0
        while loop.time() < end_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            questions = self._daemon.counts.total()  # also of who came and went meanwhile
            if self._daemon.connections or questions != asked:
                end_s, asked = loop.time() + self._unused_s, questions
        _log.info("ending, as no engine uses this daemon any more")
        self._daemon.end()
