"""Samples of what the daemon is told from outside: how fresh it is, and how often it failed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from greencache.adapters.energy.monitor import EnergyMonitor
from greencache.adapters.intensity import FeedReport
from greencache.metrics import (
    ENERGY_SOURCE,
    INTENSITY_AGE,
    INTENSITY_FALLBACKS,
    SOURCE_FAILURES,
    Sample,
)
from greencache.service.causes import (
    INTENSITY_FALLBACK_KINDS,
    METER_CAUSES,
    SOURCE_CAUSES,
    at_zero,
)
from greencache.service.metrics import few

__all__ = ["energy_samples", "failure_samples", "intensity_samples", "meter_samples"]


def failure_samples(source: str, failures: Mapping[str, int]) -> Iterator[Sample]:
    """How often one of the sources outside failed, by cause."""
    yield from at_zero(SOURCE_FAILURES, SOURCE_CAUSES.get(source, ()), source)
    for cause, count in few(failures):
        yield Sample(SOURCE_FAILURES, count, (source, cause))


def intensity_samples(report: FeedReport) -> Iterator[Sample]:
    """How carbon intensity's source stands; without an age while it has said nothing yet."""
    if math.isfinite(report.age_s):
        yield Sample(INTENSITY_AGE, max(0.0, report.age_s), (report.label.zone,))
    yield from at_zero(INTENSITY_FALLBACKS, INTENSITY_FALLBACK_KINDS)
    for kind, count in few(report.fallbacks):
        yield Sample(INTENSITY_FALLBACKS, count, (kind,))
    yield from failure_samples("intensity", report.failures)


def energy_samples(sources: Mapping[str, str]) -> Iterator[Sample]:
    """What each component's energy is from."""
    for component, source in sources.items():
        yield Sample(ENERGY_SOURCE, 1, (component, source))


def meter_samples(meters: EnergyMonitor) -> Iterator[Sample]:
    """How often meters of energy failed, by meter and cause."""
    for meter in sorted(set(meters.sources.values())):
        causes = (f"{meter} {cause}" for cause in METER_CAUSES.get(meter, ()))
        yield from at_zero(SOURCE_FAILURES, causes, "energy")
    yield from failure_samples("energy", meters.failures)
