"""Great Britain's public Carbon Intensity API, by the National Energy System Operator (NESO).

Reference: https://carbon-intensity.github.io/api-definitions/ (read November 2026); free, no key;
data under CC BY 4.0.

* ``GET /intensity/{from}/{to}`` has half hours, 14 days an answer:
  ``{"data": [{"from", "to", "intensity": {"forecast", "actual", "index"}}]}``. ``actual``, the
  estimate from metered generation, is null as long as there is none.
* ``GET /intensity/{from}/fw48h`` has the same for the coming 48 hours.
* ``GET /regional/intensity/{from}/{to}/regionid/{id}`` and ``.../{from}/fw48h/regionid/{id}`` have
  the 14 regions and three nations (ids 1 to 17):
  ``{"data": {"regionid", "shortname", "data": [{"from", "to", "intensity": {"forecast"}}]}}``.
  Of regions nothing is metered: their forecasts stand for their past.

Values are gCO2/kWh of average generation and imports, from what is burnt: nuclear power, wind and
sun count as 0.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from greencache.adapters.intensity.base import Label, chunks, iso, seconds
from greencache.adapters.web import Web, decoded, number
from greencache.controller.intensity import Points
from greencache.errors import InputError, SourceError
from greencache.quantities import DAY_S

__all__ = ["GreatBritain"]

URL = "https://api.carbonintensity.org.uk"

_LONGEST_RANGE_S = 13 * DAY_S
"""A day less than the service allows."""


class _Intensity(msgspec.Struct):
    forecast: Any = None
    actual: Any = None


class _Period(msgspec.Struct, rename={"begin": "from", "end": "to"}):
    begin: str
    end: str
    intensity: _Intensity


class _National(msgspec.Struct):
    data: list[_Period]


class _Region(msgspec.Struct):
    regionid: int
    data: list[_Period]


class _Regional(msgspec.Struct):
    data: _Region


class GreatBritain:
    """Great Britain as a whole, or one region of it.

    Parameters
    ----------
    zone:
        ``GB``, or ``GB/13`` for the region with that id (London).
    url:
        Where the API is.
    timeout_s:
        Time that an answer may take.

    Raises
    ------
    InputError
        If there is no such region.
    """

    backfill_s = 56 * DAY_S

    def __init__(self, zone: str = "GB", *, url: str = URL, timeout_s: float = 10.0) -> None:
        match = re.fullmatch(r"GB(?:/(\d{1,2}))?", zone)
        self._region = int(match[1]) if match and match[1] else None
        if match is None or (self._region is not None and not 1 <= self._region <= 17):
            raise InputError(f"{zone!r} is no zone of Great Britain: GB, or GB/1 to GB/17")
        self.label = Label(zone, "average", "direct", "Carbon Intensity API, NESO (CC BY 4.0)")
        self._web = Web(url, timeout_s=timeout_s)

    async def history(self, since_s: float, now_s: float) -> Points:
        """As `Provider.history`."""
        parts: list[Points] = []
        for begin_s, end_s in chunks(since_s, now_s, _LONGEST_RANGE_S):
            try:
                periods = await self._ask(f"{iso(begin_s)}/{iso(end_s)}")
            except SourceError:
                if not parts:
                    raise
                break
            parts.append(self._points(periods, past=True))
        return Points.joined(parts)

    async def forecast(self, now_s: float) -> Points | None:
        """As `Provider.forecast`."""
        return self._points(await self._ask(f"{iso(now_s)}/fw48h"), past=False)

    async def close(self) -> None:
        """As `Provider.close`."""
        await self._web.close()

    async def _ask(self, span: str) -> list[_Period]:
        if self._region is None:
            body = await self._web.get(f"/intensity/{span}")
            return decoded(body, _National, self._web.host).data
        body = await self._web.get(f"/regional/intensity/{span}/regionid/{self._region}")
        region = decoded(body, _Regional, self._web.host).data
        if region.regionid != self._region:
            raise SourceError(
                "zone",
                f"{self._web.host} answers for region {region.regionid}, not {self._region}",
            )
        return region.data

    def _points(self, periods: list[_Period], *, past: bool) -> Points:
        found = []
        for each in periods:
            value = each.intensity.forecast
            if past and self._region is None:
                value = each.intensity.actual
            if value is not None:
                host = self._web.host
                found.append((seconds(each.begin, host), seconds(each.end, host), number(value)))
        return Points.of(found)
