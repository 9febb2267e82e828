"""What serving has cost so far, component by component: joules, grams emitted and hardware used up.

`CarbonLedger` is told of spans of time one after the other: what was allocated in each, what the
GPUs took, what was read and written. The replay tells it of a whole run at once, the daemon of a
minute after the other. What is not measured comes from the factors: hosts, DRAM and drives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.carbon import J_PER_KWH, Scope, embodied_by_time_g, operational_g
from greencache.catalog import Quantity
from greencache.errors import InputError
from greencache.factors import Factors
from greencache.quantities import GB, TB

__all__ = ["COMPONENTS", "CarbonLedger", "CarbonReport", "Spans"]

Floats = NDArray[np.float64]

COMPONENTS = ("gpu", "host", "dram", "ssd")
"""What carbon is kept apart for: accelerators, the host without them, and the two tiers."""


@dataclass(frozen=True)
class CarbonReport:
    """Energy and grams over some time.

    Attributes
    ----------
    energy_kwh:
        Energy at the machine, by component, PUE not included.
    operational_g:
        Grams for that energy, by component, PUE included.
    embodied_g:
        Grams of hardware used up, by scope and component.
    by_minute_g:
        Operational grams of each span, all components together.
    wear_bound_drives:
        Drives that writes used up faster than age did, in the attributable scope.
    """

    energy_kwh: dict[str, float]
    operational_g: dict[str, float]
    embodied_g: dict[Scope, dict[str, float]]
    wear_bound_drives: int
    by_minute_g: Floats = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def total_energy_kwh(self) -> float:
        """Energy of all components."""
        return sum(self.energy_kwh.values())

    @property
    def total_operational_g(self) -> float:
        """Operational grams of all components."""
        return sum(self.operational_g.values())

    def total_embodied_g(self, scope: Scope) -> float:
        """Embodied grams of all components."""
        return sum(self.embodied_g[scope].values())

    def total_g(self, scope: Scope) -> float:
        """All of it in one scope."""
        return self.total_operational_g + self.total_embodied_g(scope)


class Spans(NamedTuple):
    """What happened in each of some spans of time; arrays of one length.

    Attributes
    ----------
    seconds:
        How long each was.
    gco2_per_kwh:
        Carbon intensity of the grid.
    gpu_j, busy_s:
        Energy of all GPUs; time in which each engine stepped, summed over engines.
    read_bytes, written_bytes:
        SSD traffic of all engines.
    dram_bytes, ssd_bytes:
        Allocated to each engine.
    host_j:
        Energy of all hosts without GPUs and tiers, where it was measured; NaN elsewhere.
    """

    seconds: Floats
    gco2_per_kwh: Floats
    gpu_j: Floats
    busy_s: Floats
    read_bytes: Floats
    written_bytes: Floats
    dram_bytes: Floats
    ssd_bytes: Floats
    host_j: Floats | None = None


class CarbonLedger:
    """Adds up what engines and their tiers cost.

    Parameters
    ----------
    factors:
        What energy and hardware cost.
    gpus:
        Of one engine.
    installed_dram_bytes, installed_ssd_bytes:
        What the machine of each engine has, for the provisioned scope.
    replicas:
        Engines.
    """

    def __init__(
        self,
        factors: Factors,
        gpus: int,
        installed_dram_bytes: float,
        installed_ssd_bytes: float,
        replicas: int = 1,
    ) -> None:
        if gpus < 1 or replicas < 1:
            raise InputError("a ledger is of one engine with one GPU, or more")
        self._factors, self._gpus, self._replicas = factors, gpus, replicas
        self._installed_dram_bytes = installed_dram_bytes
        self._drives = factors.ledger(installed_ssd_bytes)
        self._energy_j = dict.fromkeys(COMPONENTS, 0.0)
        self._operational_g = dict.fromkeys(COMPONENTS, 0.0)
        self._dram_byte_s = 0.0
        self.seconds = 0.0
        """Time accounted for."""

    def record(self, spans: Spans) -> Floats:
        """Note spans, in the order of time.

        Returns
        -------
        Operational grams of each, all components together.

        Raises
        ------
        InputError
            If more SSD is allocated than is installed, or something is written to none.
        """
        factors, replicas, seconds = self._factors, self._replicas, spans.seconds
        gpus = replicas * self._gpus
        busy_w = factors.host_active_w_per_gpu.value - factors.host_idle_w_per_gpu.value
        # Each host idles all the time, and is busy while its own engine is.
        host_j = gpus * factors.host_idle_w_per_gpu.value * seconds
        host_j = host_j + self._gpus * busy_w * spans.busy_s
        if spans.host_j is not None:
            host_j = np.where(np.isnan(spans.host_j), host_j, spans.host_j)
        ssd_j = factors.ssd_idle_w_per_tb.value * replicas * spans.ssd_bytes / TB * seconds
        ssd_j += factors.ssd_read_j_per_byte.value * spans.read_bytes
        ssd_j += factors.ssd_write_j_per_byte.value * spans.written_bytes
        energy_j = {
            "gpu": spans.gpu_j,
            "host": host_j,
            "dram": factors.dram_w_per_gb.value * replicas * spans.dram_bytes / GB * seconds,
            "ssd": ssd_j,
        }
        # The drives of one replica, which has its share of what was written.
        changed = np.flatnonzero(np.diff(spans.ssd_bytes)) + 1
        for span in np.split(np.arange(len(seconds)), changed):
            if len(span):
                written_bytes = float(spans.written_bytes[span].sum()) / replicas
                allocated_bytes = float(spans.ssd_bytes[span[0]])
                self._drives.record(allocated_bytes, float(seconds[span].sum()), written_bytes)
        self.seconds += float(seconds.sum())
        self._dram_byte_s += float(np.dot(spans.dram_bytes, seconds))
        each_g = {
            name: operational_g(joules, spans.gco2_per_kwh, factors.pue.value)
            for name, joules in energy_j.items()
        }
        for name in COMPONENTS:
            self._energy_j[name] += float(energy_j[name].sum())
            self._operational_g[name] += float(each_g[name].sum())
        return np.asarray(np.sum(list(each_g.values()), axis=0))

    def report(self) -> CarbonReport:
        """All of it so far."""
        factors, replicas = self._factors, self._replicas
        gpus = replicas * self._gpus

        def machine_g(kg: Quantity, share: float, lifetime_years: Quantity) -> float:
            return embodied_by_time_g(kg.value, share, self.seconds, lifetime_years.value)

        always = {
            "gpu": machine_g(factors.gpu_kg, gpus, factors.gpu_lifetime_years),
            "host": machine_g(factors.host_kg_per_gpu, gpus, factors.host_lifetime_years),
        }
        charged_dram_bytes = {
            Scope.ATTRIBUTABLE: self._dram_byte_s / self.seconds if self.seconds else 0.0,
            Scope.PROVISIONED: self._installed_dram_bytes,
        }
        embodied = {
            scope: {
                **always,
                "dram": machine_g(
                    factors.dram_kg_per_gb,
                    replicas * charged_dram_bytes[scope] / GB,
                    factors.dram_lifetime_years,
                ),
                "ssd": replicas * self._drives.embodied_g(scope),
            }
            for scope in Scope
        }
        return CarbonReport(
            energy_kwh={name: joules / J_PER_KWH for name, joules in self._energy_j.items()},
            operational_g=dict(self._operational_g),
            embodied_g=embodied,
            wear_bound_drives=replicas * self._drives.wear_bound_drives(Scope.ATTRIBUTABLE),
        )
