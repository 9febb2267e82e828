"""What the daemon is told from outside: carbon intensity, and energy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from greencache.adapters.intensity import provider_of
from greencache.adapters.intensity.base import Provider
from greencache.adapters.intensity.file import GridFile
from greencache.controller.intensity import usable
from greencache.errors import GreenCacheError, SourceError
from greencache.quantities import HOUR_S
from greencache.service.doctor.finding import Finding, fail, ok, warn
from greencache.settings import EnergySettings, Settings
from greencache.traces.samples import grid_zones

__all__ = ["check_energy", "check_intensity"]

_INTENSITY = "carbon intensity"
_ASKED_H = 48
"""Services publish with a delay; a day is not always there."""

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


def check_energy(settings: EnergySettings) -> Iterator[Finding]:
    """Which meters of this machine can be read."""
    if settings.source in ("auto", "nvml"):
        yield _judged("GPU energy (NVML)", _nvml(), settings.source == "nvml")
    if settings.source in ("auto", "rapl"):
        yield _judged("CPU energy (RAPL)", _rapl(settings.rapl), settings.source == "rapl")
    if settings.source == "model":
        yield ok("energy", "from the power model, as set")


def _judged(name: str, found: Finding | str, asked_for: bool) -> Finding:
    """A meter that works, or how bad it is that it does not."""
    if isinstance(found, Finding):
        return found
    reason, _, advice = found.partition("; ")
    if asked_for:
        return fail(name, reason, advice)
    return warn(name, f"{reason}: the power model stands for it", advice)


def _nvml() -> Finding | str:
    try:
        import pynvml
    except ImportError:
        return "no NVML; pip install 'greencache[gpu]', if this host has NVIDIA GPUs"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as fault:
        return f"{fault}; look at nvidia-smi, if this host has NVIDIA GPUs"
    try:
        count = pynvml.nvmlDeviceGetCount()
        names = set()
        for number in range(count):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            names.add(str(pynvml.nvmlDeviceGetName(gpu)))
            pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except pynvml.NVMLError as fault:
        return f"{fault}; GPUs since Volta count joules, older ones only show watts"
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    if count == 0:
        return "no GPU; look at nvidia-smi, if this host has NVIDIA GPUs"
    return ok("GPU energy (NVML)", f"{count} GPUs ({', '.join(sorted(names))}) count joules")


def _rapl(path: Path) -> Finding | str:
    counters = sorted(path.glob("intel-rapl:*/energy_uj"))
    if not counters:
        return f"no counters in {path}; virtual machines have none, else load intel_rapl_common"
    names = []
    for counter in counters:
        try:
            int(counter.read_text())
            names.append((counter.parent / "name").read_text().strip())
        except PermissionError:
            user = os.environ.get("USER", str(os.geteuid()))
            return (
                f"{counter} may be read by root only; setfacl -m u:{user}:r it at every boot (a"
                " tmpfiles.d line)"
            )
        except (OSError, ValueError) as fault:
            return f"{counter} gives no number ({fault}); look at the kernel's log"
    return ok("CPU energy (RAPL)", f"{len(names)} counters: {', '.join(names)}")
