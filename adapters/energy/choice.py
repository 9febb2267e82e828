"""The meters that work here, as the settings say."""

from __future__ import annotations

import logging

from greencache.adapters.energy.base import Meter
from greencache.adapters.energy.monitor import EnergyMonitor
from greencache.adapters.energy.nvml import NvmlMeter
from greencache.adapters.energy.prometheus import PrometheusMeter
from greencache.adapters.energy.rapl import RaplMeter
from greencache.errors import SettingsError, SourceError
from greencache.settings import EnergySettings

__all__ = ["candidates", "energy_monitor"]

_LOG = logging.getLogger("greencache.adapters")


def _gpus(text: str | None) -> list[int] | None:
    if text is None:
        return None
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise SettingsError(
            f"GREENCACHE_ENERGY__GPUS: {text!r} is no list of numbers; write it like 0,1"
        )
    return [int(number) for number in numbers]


def candidates(settings: EnergySettings) -> list[Meter]:
    """Meters to try, those that go first before the others.

    Raises
    ------
    InputError
        If a setting is missing or malformed.
    """
    meters: dict[str, Meter] = {}
    if settings.url is not None:
        meters["prometheus"] = PrometheusMeter(
            settings.url,
            settings.component,
            query=settings.query,
            metric=settings.metric,
            key=settings.key.get_secret_value() if settings.key is not None else None,
        )
    elif settings.source == "prometheus":
        raise SettingsError("GREENCACHE_ENERGY__URL: energy from prometheus needs it")
    meters["nvml"] = NvmlMeter(_gpus(settings.gpus))
    meters["rapl"] = RaplMeter(settings.rapl)
    if settings.source == "auto":
        return list(meters.values())
    return [meters[settings.source]] if settings.source in meters else []


async def energy_monitor(settings: EnergySettings) -> EnergyMonitor:
    """The meters that work here; which they are is logged, and in `EnergyMonitor.sources`.

    By ``auto``, of each component the first that works: the counter that the settings name, NVML
    for GPUs, RAPL for CPUs and DRAM. By name, that one. What is left is modelled.

    Raises
    ------
    InputError
        If a setting is missing or malformed, never because a meter does not work.
    """
    chosen: list[Meter] = []
    measured: set[str] = set()
    for meter in candidates(settings):
        try:
            await meter.open()
        except SourceError as fault:
            level = logging.INFO if settings.source == "auto" else logging.WARNING
            _LOG.log(level, "energy: no %s: %s", meter.source, fault)
            await meter.close()
            continue
        if measured & meter.components:
            await meter.close()
            continue
        measured |= meter.components
        chosen.append(meter)
    monitor = EnergyMonitor(chosen, sample_s=settings.sample)
    sources = [f"{whose} by {source}" for whose, source in monitor.sources.items()]
    _LOG.info("energy: %s", ", ".join([*sources, "the rest by the power model"]))
    return monitor
