"""WattTime: marginal intensity of grid regions every five minutes, from its HTTP API, version 3.

Reference: https://docs.watttime.org, and its client, github.com/WattTime/watttime-python-client
(read November 2026).

* ``GET /login`` with user name and password gives ``{"token"}``, good for 30 minutes, which is sent
  with all other questions as ``Authorization: Bearer``.
* ``GET /v3/historical?region=CAISO_NORTH&signal_type=co2_moer&start=...&end=...`` has five-minute
  values, 30 days an answer; paid plans, but for the region CAISO_NORTH.
* ``GET /v3/forecast?region=...&signal_type=co2_moer&horizon_hours=48`` has the coming hours.

Both answer ``{"data": [{"point_time", "value"}], "meta": {"region", "signal_type", "units",
"data_point_period_seconds", ...}}``. Values are pounds of CO2 per MWh, made grams per kWh here.

``co2_moer`` is marginal: what one more kWh causes. ``co2_aoer`` is average, and has no forecast.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from greencache.adapters.intensity.base import Label, chunks, iso, seconds
from greencache.adapters.web import RefusedError, Web, decoded, number
from greencache.controller.intensity import Points
from greencache.errors import SourceError
from greencache.quantities import DAY_S, HOUR_S

__all__ = ["WattTime"]

URL = "https://api.watttime.org"

G_PER_KWH_OF_LB_PER_MWH = 453.59237 / 1000
"""The international pound is 0.45359237 kg (NIST Handbook 44, appendix C)."""

_LONGEST_RANGE_S = 30 * DAY_S
_HORIZON_H = "48"
_PERIOD_S = 300.0
"""Of a value, where the answer does not say."""


class _Token(msgspec.Struct):
    token: str


class _Row(msgspec.Struct):
    point_time: str
    value: Any = None


class _Meta(msgspec.Struct):
    region: str
    signal_type: str
    units: str
    data_point_period_seconds: float = _PERIOD_S


class _Answer(msgspec.Struct):
    data: list[_Row]
    meta: _Meta


class WattTime:
    """One region of WattTime.

    Parameters
    ----------
    zone:
        The region, such as ``CAISO_NORTH``.
    username, password:
        Of the account.
    signal:
        ``co2_moer`` or ``co2_aoer``.
    url:
        Where the API is.
    timeout_s:
        Time that an answer may take.

    Raises
    ------
    InputError
        If the password would travel in the open.
    """

    backfill_s = 56 * DAY_S

    def __init__(
        self,
        zone: str,
        username: str,
        password: str,
        *,
        signal: str = "co2_moer",
        url: str = URL,
        timeout_s: float = 10.0,
    ) -> None:
        kind = "marginal" if signal == "co2_moer" else "average"
        self.label = Label(zone, kind, "direct", "WattTime")
        self._login, self._signal = (username, password), signal
        self._web = Web(url, timeout_s=timeout_s, secret=True)
        self._token: str | None = None
        self._has_forecast = signal == "co2_moer"

    async def history(self, since_s: float, now_s: float) -> Points:
        """As `Provider.history`."""
        parts: list[Points] = []
        for begin_s, end_s in chunks(since_s, now_s, _LONGEST_RANGE_S):
            try:
                points = await self._ask("historical", start=iso(begin_s), end=iso(end_s))
            except SourceError:
                if not parts:
                    raise
                break
            parts.append(points)
        return Points.joined(parts)

    async def forecast(self, now_s: float) -> Points | None:
        """As `Provider.forecast`; None from the first refusal on: not in this plan."""
        if not self._has_forecast:
            return None
        try:
            return await self._ask("forecast", horizon_hours=_HORIZON_H)
        except RefusedError:
            self._has_forecast = False
            raise

    async def close(self) -> None:
        """As `Provider.close`."""
        await self._web.close()

    async def _ask(self, what: str, **params: str) -> Points:
        query = {"region": self.label.zone, "signal_type": self._signal, **params}
        fresh = self._token is None
        try:
            body = await self._with_token(what, query)
        except RefusedError as fault:
            self._token = None
            if fault.status not in (401, 403) or fresh:
                raise
            body = await self._with_token(what, query)  # the token had run out
        return self._points(decoded(body, _Answer, self._web.host))

    async def _with_token(self, what: str, query: dict[str, str]) -> bytes:
        if self._token is None:
            body = await self._web.get("/login", auth=self._login)
            self._token = decoded(body, _Token, self._web.host).token
        headers = {"Authorization": f"Bearer {self._token}"}
        return await self._web.get(f"/v3/{what}", params=query, headers=headers)

    def _points(self, answer: _Answer) -> Points:
        meta, host = answer.meta, self._web.host
        if meta.region != self.label.zone:
            raise SourceError(
                "zone", f"{host} answers for {meta.region[:40]!r}, not for {self.label.zone}"
            )
        if meta.signal_type != self._signal or meta.units != "lbs_co2_per_mwh":
            raise SourceError(
                "garbage",
                f"{host} answers {meta.signal_type[:40]!r} in {meta.units[:40]!r}, not"
                f" {self._signal} in lbs_co2_per_mwh",
            )
        period_s = meta.data_point_period_seconds
        if not (math.isfinite(period_s) and 0 < period_s <= HOUR_S):
            raise SourceError("garbage", f"{host} gives values of {period_s:g} s")
        return Points.of(
            (begin_s, begin_s + period_s, number(row.value) * G_PER_KWH_OF_LB_PER_MWH)
            for row in answer.data
            if row.value is not None
            for begin_s in (seconds(row.point_time, host),)
        )
