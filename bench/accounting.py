"""Energy and carbon of a simulated run, component by component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greencache.bench.simulation import BIN_S
from greencache.bench.sizes import SizesOverTime
from greencache.controller.performance import ServingHardware
from greencache.factors import Factors
from greencache.ledger import CarbonLedger, CarbonReport, Spans

__all__ = ["Installed", "account"]


@dataclass(frozen=True, slots=True)
class Installed:
    """What the machine has, of which a plan allocates a part."""

    dram_bytes: int
    ssd_bytes: int


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
    middle_s = (np.flatnonzero(measured) + 0.5) * BIN_S
    ledger = CarbonLedger(
        factors, hardware.gpus, installed.dram_bytes, installed.ssd_bytes, replicas
    )
    by_minute_g = ledger.record(
        Spans(
            seconds,
            gco2_per_kwh(np.minimum(middle_s, end_s)),
            bins["gpu_j"],
            bins["busy_s"],
            bins["read_bytes"],
            bins["written_bytes"],
            dram_bytes,
            ssd_bytes,
        )
    )
    return replace(ledger.report(), by_minute_g=by_minute_g)
