"""Energy from a counter in joules that Prometheus knows, or that an exporter shows on its page.

*With a query*, an instant query of Prometheus' HTTP API, ``GET /api/v1/query?query=...``, gives a
vector or a scalar: ``{"status": "success", "data": {"resultType": "vector", "result":
[{"metric": {...}, "value": [time, "123.4"]}]}}``
(https://prometheus.io/docs/prometheus/latest/querying/api/). *Without*, the page itself is read in
the text format, and the counter is the named one, or the only one whose name ends in
``_joules_total``. All its series are summed. Each may begin anew by itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from greencache.adapters.counters import Counters
from greencache.adapters.exposition import read_page
from greencache.adapters.web import Web, decoded
from greencache.errors import SourceError

__all__ = ["PrometheusMeter"]

_SUFFIX = "_joules_total"
_LONGEST_S = 300.0

_Labels = tuple[tuple[str, str], ...]


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(msgspec.Struct):
    resultType: str  # noqa: N815 - the service's name
    result: Any


class _Result(msgspec.Struct):
    status: str
    data: _Data


class PrometheusMeter:
    """A counter in joules.

    Parameters
    ----------
    url:
        Of the Prometheus server, if there is a query; else of the page.
    component:
        Whose energy it is.
    query:
        PromQL that gives the counter, in joules.
    metric:
        The counter's name on the page, if it has several in joules.
    key:
        Bearer token, if it wants one.
    timeout_s:
        Time that an answer may take.

    Raises
    ------
    InputError
        If the token would travel in the open.
    """

    source = "prometheus"
    longest_s = _LONGEST_S

    def __init__(
        self,
        url: str,
        component: str = "gpu",
        *,
        query: str | None = None,
        metric: str | None = None,
        key: str | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.components = frozenset({component})
        self._component, self._query, self._metric = component, query, metric
        self._web = Web(url, timeout_s=timeout_s, secret=key is not None)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._counters: Counters[_Labels] = Counters()
        self._joules = 0.0

    async def open(self) -> None:
        """As `Meter.open`."""
        try:
            await self._values()
        except SourceError:
            await self.close()
            raise

    async def read(self, now_s: float) -> Mapping[str, float]:
        """As `Meter.read`."""
        grown = self._counters.grown(await self._values())
        self._joules += math.fsum(grown.values())
        return {self._component: self._joules}

    async def close(self) -> None:
        """As `Meter.close`."""
        await self._web.close()

    async def _values(self) -> dict[_Labels, float]:
        if self._query is not None:
            values = await self._asked(self._query)
        else:
            body = await self._web.get(headers=self._headers)
            values = await asyncio.to_thread(self._shown, body)
        values = {key: value for key, value in values.items() if 0 <= value < math.inf}
        if not values:
            raise SourceError("absent", f"{self._web.host} has no joules by that name")
        return values

    async def _asked(self, query: str) -> dict[_Labels, float]:
        body = await self._web.get("/api/v1/query", params={"query": query}, headers=self._headers)
        data = decoded(body, _Result, self._web.host).data
        try:
            if data.resultType == "scalar":
                return {(): float(msgspec.convert(data.result, tuple[float, str])[1])}
            if data.resultType == "vector":
                series = msgspec.convert(data.result, list[_Series])
                return {tuple(sorted(s.metric.items())): float(s.value[1]) for s in series}
        except (msgspec.ValidationError, ValueError):
            pass
        raise SourceError("garbage", f"{self._web.host} gives neither a vector nor a scalar")

    def _shown(self, body: bytes) -> dict[_Labels, float]:
        values: dict[str, dict[_Labels, float]] = {}
        for sample in read_page(body, self._web.host):
            wanted = sample.name.endswith(_SUFFIX) if self._metric is None else (
                sample.name in (self._metric, f"{self._metric}_total")
            )  # fmt: skip
            if wanted:
                series = values.setdefault(sample.name, {})
                series[tuple(sorted(sample.labels.items()))] = sample.value
        if len(values) > 1:
            names = ", ".join(sorted(values)[:8])
            raise SourceError(
                "garbage",
                f"{self._web.host} has several counters in joules: name one by"
                f" GREENCACHE_ENERGY__METRIC: {names}",
            )
        return next(iter(values.values()), {})
