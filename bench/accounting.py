"""Energy and carbon of a simulated run, component by component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.bench.simulation import BIN_S
from greencache.bench.sizes import SizesOverTime
from greencache.carbon import (
    J_PER_KWH,
    Scope,
    embodied_by_time_g,
    operational_g,
)
from greencache.catalog import Quantity
from greencache.controller.performance import ServingHardware
from greencache.factors import Factors
from greencache.quantities import GB, TB

__all__ = ["COMPONENTS", "CarbonReport", "Installed", "account"]

COMPONENTS = ("gpu", "host", "dram", "ssd")
"""What carbon is kept apart for: accelerators, the host without them, and the two tiers."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What the machine has, of which a plan allocates a part."""

    dram_bytes: int
    ssd_bytes: int


@dataclass(frozen=True)
class CarbonReport:
    """Energy and grams of one run over its measured window.

    Attributes
    ----------
    energy_kwh:
        Energy at the machine, by component, PUE not included.
    operational_g:
        Grams for that energy, by component, PUE included.
    embodied_g:
        Grams of hardware used up, by scope and component.
    by_minute_g:
        Operational grams of each interval of the window, all components together.
    wear_bound_drives:
        Drives that writes used up faster than age did, in the attributable scope.
    """

    energy_kwh: dict[str, float]
    operational_g: dict[str, float]
    embodied_g: dict[Scope, dict[str, float]]
    by_minute_g: NDArray[np.float64]
    wear_bound_drives: int

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


def account(
    bins: NDArray[np.void],
    end_s: float,
    hardware: ServingHardware,
    factors: Factors,
    gco2_per_kwh: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    sizes: SizesOverTime,
    installed: Installed,
    replicas: int = 1,
    start_s: float = 0.0,
) -> CarbonReport:
    """Account a run from ``start_s`` (a whole bin) to its end.

    Parameters
    ----------
    bins, end_s, hardware:
        What was simulated, as in `SimulatedRun`: all replicas together, of such hardware each.
    factors, gco2_per_kwh:
        What energy and hardware cost; the grid's intensity at times of the run.
    sizes:
        Capacity that the run allocated on each replica.
    installed:
        Capacity that is there on each, for the provisioned scope.
    replicas:
        How many engines there were.
    start_s:
        End of the warm-up.
    """
    edges_s = np.arange(len(bins) + 1) * BIN_S
    seconds = np.diff(np.clip(edges_s, start_s, end_s))
    measured = seconds > 0
    dram_bytes, ssd_bytes = (each[measured] for each in sizes.by_bin(len(bins), BIN_S))
    bins, seconds = bins[measured], seconds[measured]
    window_s = float(seconds.sum())
    middle_s = (np.flatnonzero(measured) + 0.5) * BIN_S
    intensity = gco2_per_kwh(np.minimum(middle_s, end_s))
    gpus = replicas * hardware.gpus
    busy_w = factors.host_active_w_per_gpu.value - factors.host_idle_w_per_gpu.value
    ssd_j = factors.ssd_idle_w_per_tb.value * replicas * ssd_bytes / TB * seconds
    ssd_j += factors.ssd_read_j_per_byte.value * bins["read_bytes"]
    ssd_j += factors.ssd_write_j_per_byte.value * bins["written_bytes"]
    energy_j = {
        "gpu": bins["gpu_j"],
        # Each host idles all the time, and is busy while its own engine is.
        "host": gpus * factors.host_idle_w_per_gpu.value * seconds
        + hardware.gpus * busy_w * bins["busy_s"],
        "dram": factors.dram_w_per_gb.value * replicas * dram_bytes / GB * seconds,
        "ssd": ssd_j,
    }
    # The drives of one replica, which has its share of what was written.
    ledger = factors.ledger(installed.ssd_bytes)
    changed = np.flatnonzero(np.diff(ssd_bytes)) + 1
    for span in np.split(np.arange(len(bins)), changed):
        written_bytes = float(bins["written_bytes"][span].sum()) / replicas
        ledger.record(float(ssd_bytes[span[0]]), float(seconds[span].sum()), written_bytes)

    def machine_g(kg: Quantity, share: float, lifetime_years: Quantity) -> float:
        return embodied_by_time_g(kg.value, share, window_s, lifetime_years.value)

    always = {
        "gpu": machine_g(factors.gpu_kg, gpus, factors.gpu_lifetime_years),
        "host": machine_g(factors.host_kg_per_gpu, gpus, factors.host_lifetime_years),
    }
    mean_dram_bytes = float(np.dot(dram_bytes, seconds)) / window_s
    charged_dram_bytes = {
        Scope.ATTRIBUTABLE: mean_dram_bytes,
        Scope.PROVISIONED: installed.dram_bytes,
    }
    embodied = {
        scope: {
            **always,
            "dram": machine_g(
                factors.dram_kg_per_gb,
                replicas * charged_dram_bytes[scope] / GB,
                factors.dram_lifetime_years,
            ),
            "ssd": replicas * ledger.embodied_g(scope),
        }
        for scope in Scope
    }
    operational = {
        name: operational_g(joules, intensity, factors.pue.value)
        for name, joules in energy_j.items()
    }
    return CarbonReport(
        energy_kwh={name: float(joules.sum()) / J_PER_KWH for name, joules in energy_j.items()},
        operational_g={name: float(grams.sum()) for name, grams in operational.items()},
        embodied_g=embodied,
        by_minute_g=np.sum(list(operational.values()), axis=0),
        wear_bound_drives=replicas * ledger.wear_bound_drives(Scope.ATTRIBUTABLE),
    )
