"""What the daemon's tiers and the engines on them have cost so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from greencache.carbon import Scope
from greencache.controller.assembly import ControlledEngine
from greencache.ledger import CarbonLedger, CarbonReport, Spans
from greencache.service.stores import Held

__all__ = ["MODELLED", "Accounts"]

MODELLED = "model"
"""What measures a component that no meter measures: the power model."""

_NO_BYTES: Mapping[str, float] = {}


@dataclass
class Accounts:
    """Grams, minute by minute.

    GPUs and hosts without a meter are taken to idle until the interval ends and says what they did;
    then the rest of their energy is added.

    Parameters
    ----------
    engine:
        What things cost.
    held:
        What the tiers have had so far.
    """

    engine: ControlledEngine
    held: Held
    sources: dict[str, str] = field(default_factory=dict)
    """What the energy of each component is from."""
    _unmetered_s: dict[str, float] = field(default_factory=lambda: {"gpu": 0.0, "host": 0.0})
    """Time of this interval without a meter."""

    def __post_init__(self) -> None:
        engine = self.engine
        self._ledger = CarbonLedger(
            engine.factors,
            engine.hardware.gpus,
            engine.installed.dram_bytes,
            engine.installed.ssd_bytes,
            engine.replicas,
        )
        self.sources = dict.fromkeys(("gpu", "host", "dram", "ssd"), MODELLED)

    def minute(
        self,
        seconds: float,
        gco2_per_kwh: float,
        held: Held,
        joules: Mapping[str, float],
        sources: Mapping[str, str] = {},
    ) -> None:
        """Note a short time that has passed.

        Parameters
        ----------
        seconds, gco2_per_kwh:
            Its length, and the grid's intensity in it.
        held:
            What tiers have at its end, before any resize.
        joules, sources:
            Energy of ``gpu`` and ``host`` as far as it was measured, and by what.
        """
        engine = self.engine
        for name in ("gpu", "host"):
            self.sources[name] = sources.get(name, "a meter") if name in joules else MODELLED
            self._unmetered_s[name] += 0.0 if name in joules else seconds
        idle_j = engine.replicas * engine.hardware.rates.idle_w * seconds
        installed = {"dram": engine.installed.dram_bytes, "ssd": engine.installed.ssd_bytes}
        # While leases and pins last, tiers may have more than they were resized to.
        charged = {
            name: min(
                max(held.capacity_bytes.get(name, 0.0), held.used_bytes.get(name, 0.0))
                + held.unpinning_bytes.get(name, 0.0),
                most,
            )
            for name, most in installed.items()
        }
        written = held.written_bytes - self.held.written_bytes
        self._record(
            seconds,
            gco2_per_kwh,
            joules.get("gpu", idle_j),
            host_j=joules.get("host", np.nan),
            read_bytes=max(held.read_bytes - self.held.read_bytes, 0.0),
            written_bytes=max(written, 0.0) if charged["ssd"] else 0.0,
            dram_bytes=charged["dram"],
            ssd_bytes=charged["ssd"],
        )
        self.held = held

    def interval(self, duration_s: float, gco2_per_kwh: float, gpu_j: float, busy_s: float) -> None:
        """Add what engines did in an interval, as far as no meter saw it.

        Parameters
        ----------
        duration_s, gco2_per_kwh:
            Its length, and the grid's mean intensity.
        gpu_j, busy_s:
            Energy of all GPUs, idle power included, and time in which engines stepped.
        """
        share = {name: min(each / duration_s, 1.0) for name, each in self._unmetered_s.items()}
        self._unmetered_s = dict.fromkeys(self._unmetered_s, 0.0)
        idle_j = self.engine.replicas * self.engine.hardware.rates.idle_w * duration_s
        self._record(
            0.0,
            gco2_per_kwh,
            share["gpu"] * max(gpu_j - idle_j, 0.0),
            busy_s=share["host"] * busy_s,
        )

    def _record(
        self,
        seconds: float,
        gco2_per_kwh: float,
        gpu_j: float,
        *,
        busy_s: float = 0.0,
        read_bytes: float = 0.0,
        written_bytes: float = 0.0,
        dram_bytes: float = 0.0,
        ssd_bytes: float = 0.0,
        host_j: float = np.nan,
    ) -> None:
        one = (seconds, gco2_per_kwh, gpu_j, busy_s, read_bytes, written_bytes)
        self._ledger.record(
            Spans._make(np.array([value]) for value in (*one, dram_bytes, ssd_bytes, host_j))
        )

    @property
    def seconds(self) -> float:
        """Time accounted for."""
        return self._ledger.seconds

    def report(self) -> CarbonReport:
        """All of it so far."""
        return self._ledger.report()

    def grams(self) -> float:
        """All of it, in the scope of the settings."""
        return self.report().total_g(self.engine.scope)

    @property
    def scope(self) -> Scope:
        """What embodied carbon is charged for."""
        return self.engine.scope
