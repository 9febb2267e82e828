"""A feed of carbon intensity as the settings say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from greencache.adapters.intensity import electricitymaps, gb, watttime
from greencache.adapters.intensity.base import Provider
from greencache.adapters.intensity.feed import IntensityFeed
from greencache.adapters.intensity.file import GridFile
from greencache.controller.forecasts import Forecaster
from greencache.controller.intensity import IntensityBook, Recorded
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.errors import SettingsError
from greencache.quantities import HOUR_S
from greencache.settings import IntensitySettings, Settings
from greencache.traces.samples import grid_zones, named_grid

__all__ = ["intensity_feed", "provider_of"]


def _needed(value: str | None, variable: str, provider: str) -> str:
    if not value:
        raise SettingsError(f"GREENCACHE_INTENSITY__{variable}: intensity from {provider} needs it")
    return value


def provider_of(settings: Settings) -> Provider:
    """The provider that the settings name.

    Raises
    ------
    SettingsError
        If a setting that it needs is missing; its text names the variable.
    InputError
        If it cannot be asked that way: no such file or zone, a key over http.
    """
    wanted = settings.intensity
    if wanted.provider == "file":
        return GridFile(wanted.zone or settings.grid.zone)
    if wanted.provider == "gb":
        return gb.GreatBritain(
            wanted.zone or "GB", url=wanted.url or gb.URL, timeout_s=wanted.timeout
        )
    zone = _needed(wanted.zone, "ZONE", wanted.provider)
    secret = wanted.key.get_secret_value() if wanted.key is not None else None
    key = _needed(secret, "KEY", wanted.provider)
    if wanted.provider == "electricitymaps":
        return electricitymaps.ElectricityMaps(
            zone,
            key,
            factors=wanted.factors,
            url=wanted.url or electricitymaps.URL,
            timeout_s=wanted.timeout,
        )
    return watttime.WattTime(
        zone,
        _needed(wanted.username, "USERNAME", wanted.provider),
        key,
        signal=wanted.signal,
        url=wanted.url or watttime.URL,
        timeout_s=wanted.timeout,
    )


def _recorded(wanted: IntensitySettings, provider: Provider) -> Recorded | None:
    """The series to fall back on: the named one, the file's own, or the zone's if it ships."""
    if wanted.fallback is not None:
        return Recorded.of(named_grid(wanted.fallback))
    if isinstance(provider, GridFile):
        return provider.recorded
    zone = provider.label.zone
    return Recorded.of(named_grid(zone)) if zone in grid_zones() else None


def _hours_ahead(settings: Settings) -> int:
    """Hours from the newest one that is known to the end of the longest plan."""
    control = settings.control
    ahead_s = control.horizon * control.interval + settings.intensity.stale
    return max(math.ceil(ahead_s / HOUR_S) + 1, 24)


def intensity_feed(
    settings: Settings,
    *,
    forecaster: Forecaster | None = None,
    directory: Path | None = None,
    epoch_s: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> IntensityFeed:
    """A feed as the settings say, not yet opened.

    Parameters
    ----------
    settings:
        All settings.
    forecaster:
        Forecasts hours from the hours before, as far as the controller plans and a lag more; by
        default a `LaggedRegression`.
    directory:
        Where to keep what is known, unless the settings name a file; None to keep nothing.
    epoch_s:
        When the caller's clock was 0, in seconds since 1970.
    clock:
        The caller's clock.

    Raises
    ------
    InputError
        As `provider_of`, and if the series to fall back on cannot be read.
    """
    wanted = settings.intensity
    provider = provider_of(settings)
    cache = wanted.cache or (directory / "intensity.json" if directory is not None else None)
    book = IntensityBook(
        forecaster or LaggedRegression(horizon=_hours_ahead(settings)),
        settings.control.interval,
        stale_s=wanted.stale,
        constant_gco2_per_kwh=wanted.fallback_gco2_per_kwh,
        recorded=_recorded(wanted, provider),
        trust_forecast=wanted.forecast == "provider",
        epoch_s=epoch_s,
    )
    keeps = None if wanted.provider == "file" else cache  # a file needs no file
    return IntensityFeed(
        provider, book, refresh_s=wanted.refresh, cache=keeps, epoch_s=epoch_s, clock=clock
    )
