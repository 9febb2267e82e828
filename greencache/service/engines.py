"""What engines' Prometheus pages add to what clients tell of an interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from greencache.adapters.engine_metrics import EngineInterval
from greencache.adapters.live_window import StoreInterval, live_window
from greencache.controller.assembly import ControlledEngine
from greencache.controller.telemetry import Window

__all__ = ["PagedEngines", "Watch"]


class Watch(Protocol):
    """Reads pages: `greencache.adapters.engine_watch.EngineWatch`."""

    async def take(self) -> EngineInterval:
        """What engines did since the last call."""

    async def waiting(self) -> float | None:
        """Requests that wait in engines now; None if no page can be read."""


class PagedEngines:
    """Pages of engines that the controller sizes the tiers of.

    Clients tell of each request by itself, so where they tell of requests that ended, their figures
    stand; a page knows sums and histograms only. What work waits and what running requests keep of
    HBM clients may tell, too: what waits then stands, and HBM pages look at as often as is set.

    Parameters
    ----------
    watch:
        Reads them.
    engine:
        What is controlled.
    """

    def __init__(self, watch: Watch, engine: ControlledEngine) -> None:
        self._watch, self._engine = watch, engine
        self._prompt_s = 0.0
        """Of one engine, for each request that waits, as the last interval's took."""

    async def window(self, told: Window) -> Window:
        """As `greencache.service.sources.EngineSource`."""
        interval = await self._watch.take()
        if interval.pages == 0:
            return told
        # Of the time that went by for whoever asks: clocks that are moved forward leave some out.
        interval = replace(interval, start_s=told.start_s, duration_s=told.duration_s)
        engine = self._engine
        store = StoreInterval(
            lookups=told.arrivals,
            lookup_tokens=told.prompt_tokens,
            hit_tokens=told.hit_tokens,
            read_bytes=told.read_bytes,
            written_bytes=told.written_bytes,
            declined_bytes=told.declined_bytes,
            capacity_bytes=told.capacity_bytes,
            used_bytes=told.used_bytes,
        )
        made = live_window(
            interval,
            store,
            engine.hardware,
            ttft_s=engine.slo.ttft_s,
            tpot_s=engine.slo.tpot_s,
            max_batched_tokens=engine.max_batched_tokens,
            replicas=engine.replicas,
        )
        paged, self._prompt_s = made.window, made.prompt_s
        if told.finished:
            backlog_s = told.backlog_s or paged.backlog_s
            return replace(told, held_blocks=paged.held_blocks, backlog_s=backlog_s)
        return replace(
            paged,
            arrivals=max(paged.arrivals, told.arrivals),
            capacity_bytes=told.capacity_bytes,
            used_bytes=told.used_bytes,
        )

    async def waiting_s(self) -> float | None:
        """As `greencache.service.sources.EngineSource`."""
        waiting = await self._watch.waiting()
        return None if waiting is None else waiting * self._prompt_s
