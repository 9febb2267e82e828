"""Samples of what the daemon is told from outside: how fresh it is, and how often it failed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from greencache.adapters.intensity import FeedReport
from greencache.metrics import (
    ENERGY_SOURCE,
    INTENSITY_AGE,
    INTENSITY_FALLBACKS,
    SOURCE_FAILURES,
    Sample,
)
from greencache.service.metrics import few

__all__ = ["energy_samples", "failure_samples", "intensity_samples"]


def failure_samples(source: str, failures: Mapping[str, int]) -> Iterator[Sample]:
    """How often one of the sources outside failed, by cause."""
    for cause, count in few(failures):
        yield Sample(SOURCE_FAILURES, count, (source, cause))


def intensity_samples(report: FeedReport) -> Iterator[Sample]:
    """How carbon intensity's source stands; without an age while it has said nothing yet."""
    if math.isfinite(report.age_s):
        yield Sample(INTENSITY_AGE, max(0.0, report.age_s), (report.label.zone,))
    for kind, count in few(report.fallbacks):
        yield Sample(INTENSITY_FALLBACKS, count, (kind,))
    yield from failure_samples("intensity", report.failures)


def energy_samples(sources: Mapping[str, str], failures: Mapping[str, int]) -> Iterator[Sample]:
    """What each component's energy is from, and how often meters failed."""
    for component, source in sources.items():
        yield Sample(ENERGY_SOURCE, 1, (component, source))
    yield from failure_samples("energy", failures)
