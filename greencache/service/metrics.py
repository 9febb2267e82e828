"""The daemon's metrics for Prometheus: read from whoever has them whenever the page is asked for.

`MetricsPage` is given *sources*: functions that return samples of the metrics that
`greencache.metrics` names. Nothing is counted here, so nothing can be counted twice; what the
tiers, the sessions and the controller know of themselves is all there is. Values of several sources
for one metric and the same labels are added up, as with blocks of several sizes, each in a cache of
its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from greencache.durations import Durations
from greencache.metrics import (
    BACKED,
    BLOCKS,
    BREAKER_OPEN,
    BUILD,
    CAPACITY,
    DECLINED_BLOCKS,
    DROPPED_BLOCKS,
    EVICTED_BLOCKS,
    FAILURES,
    HIT_BLOCKS,
    IO,
    METRICS,
    METRICS_FAILURES,
    MISSED_BLOCKS,
    PINNED,
    PROMOTED_BLOCKS,
    READ_BYTES,
    SHARE_QUEUE,
    SSD_WRITTEN_BYTES,
    UNPINNING,
    UNSHARED_BLOCKS,
    USED,
    WRITE_QUEUE,
    WRITTEN_BYTES,
    Metric,
    Sample,
)
from greencache.tiers.base import Tier, TierStats
from greencache.tiers.cache_stats import CacheStats
from greencache.version import VERSION

__all__ = ["MetricsPage", "Source", "breaker_samples", "cache_samples", "few"]

Source: TypeAlias = Callable[[], Iterable[Sample]]
"""Returns what somebody knows now."""

MOST_VALUES = 32
"""Of one label, where they are not fixed in the code: more would fill a Prometheus server."""

_log = logging.getLogger("greencache.service")


def few(counts: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Counts by a label's value; what is beyond the first values seen is summed as ``other``."""
    rest = 0.0
    for place, (value, count) in enumerate(counts.items()):
        if place < MOST_VALUES:
            yield value, count
        else:
            rest += count
    if len(counts) > MOST_VALUES:
        yield "other", rest


class Attempts(Protocol):
    """Decides whether something is tried: `greencache.tiers.breaker.Breaker`."""

    @property
    def would_allow(self) -> bool:
        """Whether an attempt would be let through now."""


@runtime_checkable
class Guarded(Protocol):
    """A tier that is not asked while asking it fails."""

    @property
    def breakers(self) -> Mapping[str, Attempts]:
        """By what it is asked for."""


def breaker_samples(tiers: Iterable[Tier]) -> Iterator[Sample]:
    """Of those tiers that are guarded, what they are not asked for now."""
    for tier in tiers:
        if isinstance(tier, Guarded):
            for op, breaker in tier.breakers.items():
                yield Sample(BREAKER_OPEN, float(not breaker.would_allow), (tier.name, op))


def cache_samples(stats: CacheStats) -> Iterator[Sample]:
    """What one cache's tiers have and did."""
    for name, tier in stats.tiers.items():
        yield from _tier_samples(name, tier)
        if name == "ssd":
            yield Sample(SSD_WRITTEN_BYTES, tier.written_bytes)
    yield Sample(DECLINED_BLOCKS, stats.declined_blocks)
    yield Sample(DROPPED_BLOCKS, stats.dropped_blocks)
    yield Sample(PROMOTED_BLOCKS, stats.promoted_blocks)
    yield Sample(WRITE_QUEUE, stats.waiting_bytes)
    yield Sample(UNSHARED_BLOCKS, stats.unshared_blocks)
    yield Sample(SHARE_QUEUE, stats.sharing_bytes)


def _tier_samples(name: str, tier: TierStats) -> Iterator[Sample]:
    values = {
        CAPACITY: tier.capacity_bytes,
        USED: tier.used_bytes,
        BACKED: tier.backed_bytes,
        PINNED: tier.pinned_bytes,
        UNPINNING: tier.unpinning_bytes,
        BLOCKS: tier.blocks,
        HIT_BLOCKS: tier.hit_blocks,
        MISSED_BLOCKS: tier.missed_blocks,
        READ_BYTES: tier.read_bytes,
        WRITTEN_BYTES: tier.written_bytes,
        EVICTED_BLOCKS: tier.evicted_blocks,
    }
    for metric, value in values.items():
        yield Sample(metric, value, (name,))
    for cause, count in few(tier.failures):
        yield Sample(FAILURES, count, (name, cause))
    for op, took in tier.took.items():
        yield Sample(IO, took, (name, op))


def _build() -> Iterator[Sample]:
    yield Sample(BUILD, 1, (VERSION,))


class MetricsPage:
    """Renders all metrics.

    Parameters
    ----------
    sources:
        By a name for logs, and for the metric that counts how often each failed: what one cannot
        tell is missing on the page, the rest is there.
    process:
        Whether to add what the system knows of this process: ``process_*``.
    """

    def __init__(self, sources: Mapping[str, Source], *, process: bool = True) -> None:
        self._sources = {"build": _build, **sources}
        self._failed: Counter[str] = Counter(dict.fromkeys(self._sources, 0))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if process:
            ProcessCollector(registry=self._registry)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page, in OpenMetrics if an ``Accept`` header takes that, and its content type.

        What is known is read at once; putting it into words, which takes longer, is done in a
        thread.
        """
        collected = _Collected(list(self._registry.collect()))
        if "application/openmetrics-text" in accept.lower():
            page = await asyncio.to_thread(openmetrics.generate_latest, collected)
            return page, openmetrics.CONTENT_TYPE_LATEST
        return await asyncio.to_thread(generate_latest, collected), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Family]:
        """All metrics of which somebody knows a value; called by prometheus_client."""
        totals: dict[Metric, dict[tuple[str, ...], float | Durations]] = {}
        for name, source in self._sources.items():
            try:
                samples = list(source())
            except Exception as fault:
                if not self._failed[name]:
                    _log.warning(
                        "metrics of %s cannot be read; counted from now on", name, exc_info=fault
                    )
                self._failed[name] += 1
            else:
                for metric, value, labels in samples:
                    values = totals.setdefault(metric, {})
                    values[labels] = _sum(values[labels], value) if labels in values else value
        totals[METRICS_FAILURES] = {(name,): count for name, count in self._failed.items()}
        for metric in METRICS:
            if metric in totals:
                yield _family(metric, totals[metric])


class _Collected(Collector):
    """Families that were collected before."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _sum(first: float | Durations, second: float | Durations) -> float | Durations:
    if isinstance(first, Durations) and isinstance(second, Durations):
        return first + second
    assert not isinstance(first, Durations)
    assert not isinstance(second, Durations)
    return first + second


def _family(metric: Metric, values: Mapping[tuple[str, ...], float | Durations]) -> Family:
    """A metric in prometheus_client's form."""
    name, labels = metric.name, metric.labels
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, metric.help, labels=labels, unit=metric.unit)
        for of, value in values.items():
            assert isinstance(value, Durations)
            buckets = [(floatToGoString(end), float(count)) for end, count in value.cumulative()]
            histogram.add_metric(of, buckets, value.total_s)
        return histogram
    if metric.kind == "info":
        info = InfoMetricFamily(name.removesuffix("_info"), metric.help, labels=labels)
        for of in values:
            info.add_metric(of, dict(zip(labels, of, strict=True)))
        return info
    simple = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = simple(name, metric.help, labels=labels, unit=metric.unit)
    for of, value in values.items():
        assert not isinstance(value, Durations)
        family.add_metric(of, value)
    return family
