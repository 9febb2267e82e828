"""``Steering``: live control as a part of a daemon.

It makes the daemon's caches with the admission and the eviction costs that the settings' engine
has, hears what clients tell, opens feeds and meters, and starts the loop as soon as an engine of
the settings' kind stores something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from greencache.adapters.energy.choice import energy_monitor
from greencache.adapters.energy.monitor import EnergyMonitor
from greencache.adapters.engine_watch import EngineWatch
from greencache.adapters.intensity.choice import intensity_feed
from greencache.adapters.intensity.feed import IntensityFeed
from greencache.client import messages as m
from greencache.controller.assembly import ControlledEngine, forecasters
from greencache.controller.lookout import IntensitySource
from greencache.controller.sizes import Sizes
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Window
from greencache.errors import GreenCacheError, InputError
from greencache.metrics import Sample
from greencache.service.clocks import Clock, WallClock
from greencache.service.control import MINUTE_S, LiveControl, Parts
from greencache.service.daemon import Daemon
from greencache.service.engines import PagedEngines, Watch
from greencache.service.pools import Pool, PoolOptions, make_cache
from greencache.service.preloading import load_admission, load_models
from greencache.service.requests import Requests
from greencache.service.source_metrics import (
    energy_samples,
    failure_samples,
    intensity_samples,
    meter_samples,
)
from greencache.service.sources import EnergySource
from greencache.service.status import ControlStatus, control_samples
from greencache.service.stores import PoolStore
from greencache.settings import Settings
from greencache.tiers import CacheLease, DramTier
from greencache.tiers.cache import FLUSH_S
from greencache.tiers.making import new_cache
from greencache.waiting import stopped

__all__ = ["Steering", "reason_off"]

_log = logging.getLogger("greencache.control")

_SMALL_BLOCK_BYTES = 4096
"""Of the pool that is made to load compiled code; no model has such small ones."""


def reason_off(settings: Settings) -> str | None:
    """Why the tiers are not to be sized; None if they are."""
    if settings.serve.control == "off":
        return "GREENCACHE_SERVE__CONTROL=off"
    named = settings.engine.model_fields_set >= {"model", "hardware"}
    if settings.serve.control == "auto" and not named:
        return "set GREENCACHE_ENGINE__MODEL and GREENCACHE_ENGINE__HARDWARE to what is served"
    return None


class Steering:
    """Sizes a daemon's tiers; takes part in it as a service.

    Parameters
    ----------
    daemon:
        Not yet started.
    clock:
        Whose time the loop runs on; the wall's if nothing is said.
    intensity, energy, watch:
        What to use instead of what the settings name; opened and closed by who gives it.

    Attributes
    ----------
    control:
        The loop, once it runs.
    requests:
        What clients told.
    """

    def __init__(
        self,
        daemon: Daemon,
        *,
        clock: Clock | None = None,
        intensity: IntensitySource | None = None,
        energy: EnergySource | None = None,
        watch: Watch | None = None,
    ) -> None:
        settings = daemon.settings
        self.control: LiveControl | None = None
        self.requests = Requests(Slo(settings.slo.ttft, settings.slo.tpot, settings.slo.target))
        self._daemon, self._settings = daemon, settings
        most = daemon.pools.capacity_bytes
        self._installed = Sizes(max(most["dram"], settings.serve.staging), most.get("ssd", 0))
        """What there is to choose from, whatever tiers are resized to later."""
        self._clock = clock or WallClock()
        self._intensity, self._energy, self._watch = intensity, energy, watch
        self._feed: IntensityFeed | None = None
        self._meters: EnergyMonitor | None = None
        self._pages: EngineWatch | None = None
        self._off = reason_off(settings)
        self._unfit = ""
        """Why the blocks that are stored are not the engine's."""
        self._never = ""
        """Why the loop does not begin, whatever is stored."""
        self._engine: ControlledEngine | None = None
        self._stored = asyncio.Event()
        """Set once there is such an engine."""
        self._task: asyncio.Task[None] | None = None
        self._open = AsyncExitStack()
        daemon.reports["control"] = lambda: self.status().as_json()
        daemon.services.append(self)
        if self._off is None:
            daemon.pools.make = self._make_pool
            daemon.events.acquired.append(self._acquired)
            daemon.events.seen.append(self._seen)

    # As a service.

    async def __aenter__(self) -> Self:
        if self._off is not None:
            _log.info("tiers keep their sizes: %s", self._off)
            return self
        forecasters(self._settings.control)  # so that what cannot be is refused before it serves
        await asyncio.to_thread(load_admission)
        async with AsyncExitStack() as stack:
            if self._intensity is None:
                self._feed = intensity_feed(
                    self._settings, directory=self._folder(), clock=self._clock
                )
                self._intensity = await stack.enter_async_context(self._feed)
            if self._energy is None:
                self._meters = await energy_monitor(self._settings.energy)
                self._energy = await stack.enter_async_context(self._meters)
            urls = self._settings.engine.metrics_url
            if self._watch is None and urls is not None:
                every_s = self._settings.engine.metrics_every
                self._pages = EngineWatch(urls.split(","), every_s=every_s, clock=self._clock)
                self._watch = await stack.enter_async_context(self._pages)
            self._task = asyncio.create_task(self._begin(), name="control begins")
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._open:
            if self._task is not None:
                await stopped(self._task)
            if self.control is not None:
                await self.control.close()

    def _folder(self) -> Path:
        """Where to keep what is known: with the blocks, or with the socket."""
        folder = self._settings.serve.ssd_dir or self._daemon.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    async def _begin(self) -> None:
        """Start the loop once an engine has stored something."""
        try:
            await asyncio.to_thread(load_models, self._settings)
        except GreenCacheError as fault:
            _log.warning("the tiers keep their sizes: %s", fault)
            self._never = f"{fault}"
            return
        await self._stored.wait()
        assert self._engine is not None
        assert self._intensity is not None
        engine, block_bytes = self._engine, self._engine.hardware.layout.block_bytes
        parts = Parts(
            store=PoolStore(self._daemon.pools, block_bytes),
            intensity=self._intensity,
            load=forecasters(engine.control)[1],
            clock=self._clock,
            usual_gco2_per_kwh=self._settings.intensity.fallback_gco2_per_kwh,
            energy=self._energy,
            engines=None if self._watch is None else PagedEngines(self._watch, engine),
            hbm=self._daemon.hbm,
            state=self._folder() / "control.state",
        )
        try:
            control = await asyncio.to_thread(
                LiveControl, engine, parts, engine.candidates.largest, requests=self.requests
            )
            await control.start()
        except Exception:
            _log.exception("the tiers keep their sizes: the controller cannot begin")
            self._never = "the controller cannot begin; see the log"
            return
        self.control = control
        _log.info("sizing the tiers for %s, every %g s", control.name, engine.control.interval)

    # What the daemon tells.

    def _make_pool(
        self, block_bytes: int, dram_bytes: int, ssd_bytes: int, options: PoolOptions
    ) -> Pool:
        """A pool of the settings' engine, whose admission knows what computing and writing cost."""
        try:
            engine = ControlledEngine.of(
                self._settings,
                block_bytes,
                self._installed,
                least_dram_bytes=options.staging_bytes,
            )
        except InputError as fault:
            if not self._unfit and block_bytes > _SMALL_BLOCK_BYTES:
                self._unfit = f"{fault}"
                _log.warning("tiers are not sized for all that is stored: %s", fault)
            return make_cache(block_bytes, dram_bytes, ssd_bytes, options)
        path = None if options.ssd_dir is None else options.ssd_dir / str(block_bytes)
        usual = engine.prices(self._settings.intensity.fallback_gco2_per_kwh)
        cache = new_cache(
            engine.rules(usual),
            block_bytes,
            dram_bytes=dram_bytes,
            ssd_bytes=ssd_bytes,
            ssd_path=path,
            shared=options.shared_tier(block_bytes),
            prefault=options.prefault,
            flush_s=FLUSH_S,
        )
        assert isinstance(cache.dram, DramTier)
        if self._engine is None:
            self._engine = engine
            self._stored.set()
        return Pool(block_bytes, cache, cache.dram)

    def _acquired(self, client: str, pool: Pool, question: m.Acquire, lease: CacheLease) -> None:
        engine = self._engine
        if engine is None or pool.block_bytes != engine.hardware.layout.block_bytes:
            return
        if question.learn:
            self.requests.block_tokens = engine.hardware.layout.block_tokens
            self.requests.acquired(
                client,
                question.keys,
                self._clock(),
                request=question.request,
                held=question.held,
                reusable=question.reusable,
                found=lease.found_by_tier(question.held),
            )

    def _seen(self, client: str, requests: Sequence[m.Seen]) -> None:
        for seen in requests:
            arrived_s = self._clock.of_monotonic(seen.arrived_s)
            self.requests.seen(client, msgspec.structs.replace(seen, arrived_s=arrived_s))

    # What others ask.

    def status(self) -> ControlStatus:
        """How it stands."""
        if why := self._off or self._never:
            return ControlStatus("off", why)
        if self.control is None:
            return ControlStatus("waiting", self._unfit or "no engine has stored anything yet")
        return ControlStatus.of(self.control, **self._grid())

    def _grid(self) -> dict[str, Any]:
        minute = Window.empty(self._clock() - MINUTE_S, MINUTE_S)
        if self._feed is None:
            assert self._intensity is not None
            return {"gco2_per_kwh": self._intensity.past(minute)}
        report = self._feed.report()
        return {
            "gco2_per_kwh": self._feed.reading(minute),
            "zone": report.label.zone,
            "intensity_fallback": report.fallback,
        }

    def samples(self) -> Iterator[Sample]:
        """For Prometheus."""
        status = self.status()
        yield from control_samples(status)
        if self._feed is not None:
            yield from intensity_samples(self._feed.report())
        yield from energy_samples(status.energy_sources)
        if self._meters is not None:
            yield from meter_samples(self._meters)
        if self._pages is not None:
            yield from failure_samples("engine", self._pages.failures)
