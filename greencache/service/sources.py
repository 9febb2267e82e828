"""Where the controller knows of engines and of energy from, beside what clients tell.

All is optional. What nobody measures is modelled from what clients tell, and reports say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from greencache.controller.telemetry import Window

__all__ = ["EnergySource", "EngineSource", "Taken", "Traffic"]


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


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the tiers did in some time, and what they have at its end, in bytes of the engine's KV.

    Attributes
    ----------
    read_bytes, written_bytes, declined_bytes:
        SSD traffic, and what was not written.
    capacity_bytes, used_bytes:
        Size and content by tier.
    """

    read_bytes: float = 0.0
    written_bytes: float = 0.0
    declined_bytes: float = 0.0
    capacity_bytes: Mapping[str, float] = field(default_factory=dict)
    used_bytes: Mapping[str, float] = field(default_factory=dict)


class EngineSource(Protocol):
    """Engines that say something of themselves."""

    async def window(self, told: Window) -> tuple[Window, frozenset[str]]:
        """What they say of an interval, after all that clients told of it.

        Parameters
        ----------
        told:
            The interval, as far as clients, tiers and meters know it.

        Returns
        -------
        tuple
            The same with what engines know better, and which of ``requests``, ``latency``,
            ``work`` and ``memory`` that is.
        """
