"""What the daemon is told from outside: carbon intensity, energy, and engines' own metrics."""

from __future__ import annotations

import asyncio
import time

from greencache.adapters.energy.base import Meter
from greencache.adapters.energy.choice import candidates
from greencache.adapters.engine_metrics import COUNTERS
from greencache.adapters.exposition import MOST_PAGE_BYTES, read_page
from greencache.adapters.intensity import provider_of
from greencache.adapters.intensity.base import Provider
from greencache.adapters.intensity.file import GridFile
from greencache.adapters.web import Web
from greencache.controller.intensity import usable
from greencache.errors import GreenCacheError, SourceError
from greencache.quantities import HOUR_S
from greencache.service.doctor.finding import Finding, fail, ok, warn
from greencache.settings import EnergySettings, EngineSettings, Settings
from greencache.traces.samples import grid_zones

__all__ = ["check_energy", "check_engines", "check_intensity"]

_INTENSITY = "carbon intensity"
_ASKED_H = 48
"""Services publish with a delay; a day is not always there."""

_PAGE_S = 5.0

_WHAT_TO_DO = {
    "refused": "look at GREENCACHE_INTENSITY__KEY, its plan, and GREENCACHE_INTENSITY__ZONE",
    "zone": "look at GREENCACHE_INTENSITY__ZONE: it is as the source calls it",
    "limited": "raise GREENCACHE_INTENSITY__REFRESH, or get a plan with more requests",
}
_OTHERWISE = "look at the network, proxy and GREENCACHE_INTENSITY__URL; fallbacks are taken"


async def check_intensity(settings: Settings) -> Finding:
    """Whether the grid's carbon intensity is to be had, and is of now."""
    try:
        provider = provider_of(settings)
    except GreenCacheError as fault:
        return fail(_INTENSITY, str(fault), "set it right, or take it from a file")
    try:
        return await _ask(provider, settings)
    finally:
        await provider.close()


async def _ask(provider: Provider, settings: Settings) -> Finding:
    label, now_s = provider.label, time.time()
    where = f"{label.source}, {label.zone}"
    if isinstance(provider, GridFile) and (settings.intensity.zone or settings.grid.zone) in (
        grid_zones()
    ):
        advice = "set GREENCACHE_INTENSITY__PROVIDER to decide by the grid as it is now"
        return warn(_INTENSITY, f"{where}: a recorded year stands for this one", advice)
    try:
        async with asyncio.timeout(3 * settings.intensity.timeout):
            points = await provider.history(now_s - _ASKED_H * HOUR_S, now_s)
    except TimeoutError:
        return warn(_INTENSITY, f"{where}: no answer in time", _OTHERWISE)
    except SourceError as fault:
        # Serving goes on: that is what fallbacks are for.
        return warn(_INTENSITY, f"{where}: {fault}", _WHAT_TO_DO.get(fault.kind, _OTHERWISE))
    known, _ = usable(points, -float("inf"), now_s)
    if len(known.end_s) == 0:
        return warn(_INTENSITY, f"{where}: knows nothing of the last {_ASKED_H} h", _OTHERWISE)
    newest = int(known.end_s.argmax())
    age_h = max(0.0, now_s - float(known.end_s[newest])) / HOUR_S
    text = f"{where}: {known.gco2_per_kwh[newest]:.0f} gCO2e/kWh, {age_h:.1f} h old"
    if age_h * HOUR_S > settings.intensity.stale:
        advice = "ask the source why, or raise GREENCACHE_INTENSITY__STALE; fallbacks are taken"
        return warn(_INTENSITY, text, advice)
    return ok(_INTENSITY, text)


async def check_energy(settings: EnergySettings) -> list[Finding]:
    """Which meters work here, of those that the settings allow."""
    if settings.source == "model":
        return [ok("energy", "from the power model, as set")]
    try:
        meters = candidates(settings)
    except GreenCacheError as fault:
        return [fail("energy", str(fault), "set it, or GREENCACHE_ENERGY__SOURCE to another")]
    return [await _check_meter(meter, needed=settings.source != "auto") for meter in meters]


async def _check_meter(meter: Meter, *, needed: bool) -> Finding:
    name = f"energy ({meter.source})"
    try:
        await meter.open()
        joules = await meter.read(time.monotonic())
    except SourceError as fault:
        text = f"{fault}; the power model stands for it"
        if needed:
            return fail(name, text, "mend it, or set GREENCACHE_ENERGY__SOURCE to auto")
        return warn(name, text, "nothing, if this host has none; grams are then modelled")
    finally:
        await meter.close()
    return ok(name, f"counts the joules of {', '.join(sorted(joules))}")


async def check_engines(settings: EngineSettings) -> list[Finding]:
    """Whether the engines' Prometheus pages can be read, if any are named."""
    urls = [] if settings.metrics_url is None else settings.metrics_url.split(",")
    return [await _check_page(url) for url in urls]


async def _check_page(url: str) -> Finding:
    name = "engine's metrics"
    try:
        async with Web(url, timeout_s=_PAGE_S, most_bytes=MOST_PAGE_BYTES) as web:
            body = await web.get(headers={"Accept": "text/plain"})
            names = {sample.name for sample in read_page(body, web.host)}
    except SourceError as fault:
        advice = "start the engine, or mend GREENCACHE_ENGINE__METRICS_URL"
        return warn(name, f"{url}: {fault}", advice)
    known = names & COUNTERS.keys()
    if not known:
        advice = "name the page of a vLLM server (GREENCACHE_ENGINE__METRICS_URL)"
        return warn(name, f"{url}: none of {', '.join(COUNTERS)}", advice)
    return ok(name, f"{url}: {len(names):,} metrics")
