"""What can go wrong, by causes that are known beforehand: they are exported at 0 from the start.

A series that first appears as 1 has never grown, to Prometheus (``increase`` of it is 0), so an
alarm would miss the first failure, which may be the only one. `MetricsPage` adds up samples, so
these stand beside those of who counts. What servers answer has names of its own and is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from greencache.metrics import Metric, Sample

__all__ = [
    "FALLBACK_KINDS",
    "INTENSITY_FALLBACK_KINDS",
    "METER_CAUSES",
    "PARTS",
    "SOURCE_CAUSES",
    "TIER_CAUSES",
    "at_zero",
]

_SLOTS = ("claim", "write", "give back")
_ASKED = ("lookup", "read", "write", "renew", "commit", "delete")
_LOST = ("connection", "timeout", "garbage", "TLS")
_WEB = ("slow", "down", "huge", "limited", "refused", "failing", "garbage")

TIER_CAUSES: Mapping[str, tuple[str, ...]] = {
    "dram": (*_SLOTS, "prefault"),
    "ssd": (*_SLOTS, "read", "checksum", "manifest"),
    "redis": (*(f"{what}: {lost}" for what in _ASKED for lost in _LOST), "damaged record"),
}
"""Of `greencache.tiers.base.TierStats.failures`, by tier."""

PARTS = ("accounts", "energy", "engine", "intensity", "interval", "look", "resize", "state")
"""Of the controller: `greencache.service.control.LiveControl.failures`."""

FALLBACK_KINDS = ("decomposition", "infeasible", "intensity", "largest", "last plan", "load")
"""Of decisions, and of notices: `greencache.controller.loop.Controller.fallbacks`."""

INTENSITY_FALLBACK_KINDS = ("same hour", "recorded", "constant")
"""`greencache.controller.intensity.IntensityBook.fallbacks`."""

SOURCE_CAUSES: Mapping[str, tuple[str, ...]] = {
    "intensity": (
        *(*_WEB, "zone", "stale", "absurd", "cache"),
        *(f"forecast {kind}" for kind in (*_WEB, "zone")),
    ),
    "engine": _WEB,
}
"""Kinds of `greencache.errors.SourceError`, by source."""

METER_CAUSES: Mapping[str, tuple[str, ...]] = {
    "nvml": ("busy", "lost", "slow", "absurd"),
    "rapl": ("denied", "lost", "garbage", "slow", "absurd"),
    "prometheus": (*_WEB, "absent", "absurd"),
}
"""The same of meters of energy that were opened."""


def at_zero(metric: Metric, causes: Iterable[str], *of: str) -> Iterator[Sample]:
    """A metric at 0 for each cause; its labels are ``of`` and the cause."""
    for cause in causes:
        yield Sample(metric, 0, (*of, cause))
