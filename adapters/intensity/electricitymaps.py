"""Electricity Maps: hourly average intensity of some 350 zones, from its HTTP API, version 3.

Reference: https://portal.electricitymaps.com/developer-hub/api/reference (read November 2026).

* ``GET /v3/carbon-intensity/history?zone=DE`` has the last 24 hours; every plan has it. Answer:
  ``{"zone", "history": [{"carbonIntensity", "datetime", "isEstimated", "emissionFactorType", ...}]}``.
* ``GET /v3/carbon-intensity/past-range?zone=DE&start=...&end=...`` has older hours, 10 days an
  answer; paid plans. Answer: ``{"zone", "data": [...]}`` of the same rows.
* ``GET /v3/carbon-intensity/forecast?zone=DE`` has the coming 24 hours or more; paid plans.
  Answer: ``{"zone", "forecast": [{"carbonIntensity", "datetime"}], "updatedAt"}``.

The key is sent in the header ``auth-token``. Values are gCO2e/kWh; each is for the hour that begins
at its time. Where a zone is not known the service takes the caller's own place: an answer for
another zone than the one asked for is refused here.
"""  # noqa: E501 - forms of answers stay whole

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from greencache.adapters.intensity.base import Label, chunks, iso, seconds
from greencache.adapters.web import RefusedError, Web, decoded, number
from greencache.controller.intensity import Points
from greencache.errors import SourceError
from greencache.quantities import DAY_S, HOUR_S

__all__ = ["ElectricityMaps"]

URL = "https://api.electricitymaps.com"

_HISTORY_S = DAY_S
_LONGEST_RANGE_S = 10 * DAY_S


class _Row(msgspec.Struct):
    datetime: str
    carbonIntensity: Any = None  # noqa: N815 - the service's name
    emissionFactorType: str | None = None  # noqa: N815


class _Answer(msgspec.Struct):
    zone: str
    history: list[_Row] | None = None
    data: list[_Row] | None = None
    forecast: list[_Row] | None = None


class ElectricityMaps:
    """One zone of Electricity Maps.

    Parameters
    ----------
    zone:
        Its key, such as ``DE`` or ``US-CAL-CISO``.
    key:
        The API key.
    factors:
        ``lifecycle`` or ``direct``.
    url:
        Where the API is.
    timeout_s:
        Time that an answer may take.

    Raises
    ------
    InputError
        If the key would travel in the open.
    """

    backfill_s = 56 * DAY_S

    def __init__(
        self,
        zone: str,
        key: str,
        *,
        factors: str = "lifecycle",
        url: str = URL,
        timeout_s: float = 10.0,
    ) -> None:
        self.label = Label(zone, "average", factors, "Electricity Maps")
        self._key = key
        self._web = Web(url, timeout_s=timeout_s, secret=True)
        self._has_range = self._has_forecast = True

    async def history(self, since_s: float, now_s: float) -> Points:
        """As `Provider.history`; hours older than a day only if the plan has them."""
        answer = await self._ask("history")
        parts = [self._points(answer.history)]
        if since_s < now_s - _HISTORY_S and self._has_range:
            parts += await self._older(since_s, now_s - _HISTORY_S)
        return Points.joined(parts)

    async def _older(self, since_s: float, until_s: float) -> list[Points]:
        parts: list[Points] = []
        for begin_s, end_s in chunks(since_s, until_s, _LONGEST_RANGE_S):
            try:
                answer = await self._ask("past-range", start=iso(begin_s), end=iso(end_s))
            except RefusedError:
                self._has_range = False  # not in this plan; a day is better than nothing
                break
            except SourceError:
                if not parts:
                    raise
                break
            parts.append(self._points(answer.data))
        return parts

    async def forecast(self, now_s: float) -> Points | None:
        """As `Provider.forecast`; None from the first refusal on: not in this plan."""
        if not self._has_forecast:
            return None
        try:
            return self._points((await self._ask("forecast")).forecast)
        except RefusedError:
            self._has_forecast = False
            raise

    async def close(self) -> None:
        """As `Provider.close`."""
        await self._web.close()

    async def _ask(self, what: str, **params: str) -> _Answer:
        zone, factors = self.label.zone, self.label.factors
        body = await self._web.get(
            f"/v3/carbon-intensity/{what}",
            params={"zone": zone, "emissionFactorType": factors, **params},
            headers={"auth-token": self._key},
        )
        answer = decoded(body, _Answer, self._web.host)
        if answer.zone != zone:
            raise SourceError(
                "zone", f"{self._web.host} answers for {answer.zone[:40]!r}, not for {zone}"
            )
        return answer

    def _points(self, rows: Sequence[_Row] | None) -> Points:
        if rows is None:
            raise SourceError("garbage", f"{self._web.host} gives no list of hours")
        found = []
        for row in rows:
            if row.emissionFactorType not in (None, self.label.factors):
                raise SourceError(
                    "garbage",
                    f"{self._web.host} answers in {row.emissionFactorType[:40]} factors,"
                    f" not {self.label.factors}",
                )
            begin_s = seconds(row.datetime, self._web.host)
            if row.carbonIntensity is not None:  # an hour it knows nothing of
                found.append((begin_s, begin_s + HOUR_S, number(row.carbonIntensity)))
        return Points.of(found)
