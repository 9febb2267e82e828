"""Where the controller knows of engines and of energy from, beside what clients tell.

All is optional. What nobody measures is modelled from what clients tell, and reports say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from greencache.controller.telemetry import Window

__all__ = ["EnergySource", "EngineSource", "Taken"]


class Taken(Protocol):
    """Energy of some time."""

    @property
    def joules(self) -> Mapping[str, float]:
        """By component (``gpu``, ``host``), of those that were measured."""

    @property
    def sources(self) -> Mapping[str, str]:
        """What measured each of them."""


class EnergySource(Protocol):
    """Meters of energy: `greencache.adapters.energy.monitor.EnergyMonitor`."""

    async def take(self) -> Taken:
        """Energy since the last call."""


class EngineSource(Protocol):
    """Engines that say something of themselves."""

    async def window(self, told: Window) -> Window:
        """The interval as engines know it, made of what clients, tiers and meters told of it."""

    async def waiting_s(self) -> float | None:
        """Work that waits now, in seconds of one engine; None if none of them can say."""
