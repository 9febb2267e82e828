"""Reads engines' Prometheus pages now and then, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from greencache.adapters.engine_metrics import EngineInterval, EnginePages
from greencache.adapters.exposition import MOST_PAGE_BYTES, read_page
from greencache.adapters.web import Web
from greencache.errors import SourceError
from greencache.waiting import stopped

__all__ = ["EngineWatch"]

_LOG = logging.getLogger("greencache.adapters")


class EngineWatch:
    """Watches engines by their pages.

    A page that cannot be read is logged once, until it can be again, and counted; its counters go
    on meanwhile, so nothing of them is missed.

    Parameters
    ----------
    urls:
        The pages.
    every_s:
        Time between two looks.
    timeout_s:
        Time that an answer may take.
    clock:
        Whose seconds intervals are in.
    """

    def __init__(
        self,
        urls: list[str],
        *,
        every_s: float = 15.0,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.failures: Counter[str] = Counter()
        """How often a page could not be read, by kind."""
        self._webs = {
            url: Web(url, timeout_s=timeout_s, most_bytes=MOST_PAGE_BYTES) for url in urls
        }
        self._every_s, self._clock = every_s, clock
        self._pages = EnginePages(clock())
        self._said: set[str] = set()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EngineWatch:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Look once, and go on in the background."""
        await self.look()
        self._task = asyncio.create_task(self._run(), name="engine pages")

    async def close(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            await stopped(task)
        for web in self._webs.values():
            await web.close()

    async def take(self) -> EngineInterval:
        """What engines did since the last call; never raises."""
        await self.look()
        return self._pages.take(self._clock())

    async def waiting(self) -> float | None:
        """Requests that wait in engines now; None if no page can be read. Never raises."""
        await self.look()
        return self._pages.waiting(unread=self._said) if self._said < self._webs.keys() else None

    async def look(self) -> None:
        """Read all pages once; never raises."""
        async with self._lock:
            await asyncio.gather(*(self._look(url, web) for url, web in self._webs.items()))

    async def _look(self, url: str, web: Web) -> None:
        try:
            body = await web.get(headers={"Accept": "text/plain"})
            # A page of some hundred KB takes tens of milliseconds to read.
            samples = await asyncio.to_thread(lambda: list(read_page(body, web.host)))
        except SourceError as fault:
            self.failures[fault.kind] += 1
            if url not in self._said:
                self._said.add(url)
                _LOG.warning("engine: %s", fault)
            return
        if url in self._said:
            self._said.discard(url)
            _LOG.info("engine: %s can be read again", web.host)
        self._pages.see(url, samples, self._clock())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()
