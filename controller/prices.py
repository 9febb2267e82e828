"""What an interval of serving costs in grams, by what is allocated and what is done.

Operational: energy times PUE times carbon intensity. Embodied: by time for GPUs, host and DRAM; for
SSD by time or by wear, whichever is more, *in each interval*. `greencache.carbon.DriveLedger`, by
which results are accounted, takes that maximum once over the whole period. Per drive, a sum of
maxima is never less than the maximum of the sums, and both are the same where one of the two is
larger in every interval. So what is planned with is an upper bound, exact for a tier whose writing
always, or never, wears it faster than age does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.carbon import J_PER_KWH, Scope, embodied_by_time_g
from greencache.errors import InputError
from greencache.factors import Factors
from greencache.quantities import GB, TB, YEAR_S

__all__ = ["Prices"]

Floats = NDArray[np.float64]

_G_PER_KG = 1e3


@dataclass(frozen=True)
class Prices:
    """The carbon side of a decision.

    Attributes
    ----------
    factors:
        What energy and hardware cost.
    gpus:
        Of one engine.
    installed_dram_bytes, installed_ssd_bytes:
        Capacity that the machine of one engine has.
    scope:
        Whether what is installed is charged, or what is allocated.
    wear:
        Whether writing uses SSDs up.
    replicas:
        Engines, each with such a machine.
    """

    factors: Factors
    gpus: int
    installed_dram_bytes: float
    installed_ssd_bytes: float
    scope: Scope = Scope.ATTRIBUTABLE
    wear: bool = True
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.replicas < 1:
            raise InputError("prices are of one engine with one GPU, or more")
        if min(self.installed_dram_bytes, self.installed_ssd_bytes) < 0:
            raise InputError("installed capacities are 0 bytes or more")

    def operational_g(self, joules: Floats, gco2_per_kwh: Floats) -> Floats:
        """Grams for energy at the machine, PUE included."""
        return joules * gco2_per_kwh * (self.factors.pue.value / J_PER_KWH)

    def always_w(self, idle_w: float) -> float:
        """Power of all GPUs and hosts that idle; ``idle_w`` is that of one engine's GPUs."""
        host_w = self.gpus * self.factors.host_idle_w_per_gpu.value
        return self.replicas * (idle_w + host_w)

    @property
    def busy_w(self) -> float:
        """What a host draws more while its engine is busy."""
        factors = self.factors
        return self.gpus * (factors.host_active_w_per_gpu.value - factors.host_idle_w_per_gpu.value)

    def storage_w(self, dram_bytes: Floats, ssd_bytes: Floats) -> Floats:
        """Power of allocated DRAM and of idle SSD, sizes being those of one engine."""
        dram_w = self.factors.dram_w_per_gb.value * dram_bytes / GB
        return self.replicas * (dram_w + self.factors.ssd_idle_w_per_tb.value * ssd_bytes / TB)

    def read_j(self, read_bytes: Floats) -> Floats:
        """Energy of reading from SSD."""
        return self.factors.ssd_read_j_per_byte.value * read_bytes

    def write_j(self, written_bytes: Floats) -> Floats:
        """Energy of writing to it."""
        return self.factors.ssd_write_j_per_byte.value * written_bytes

    def machine_g(self, duration_s: float) -> float:
        """Embodied grams of GPUs and hosts."""
        factors = self.factors
        gpus_g = embodied_by_time_g(
            factors.gpu_kg.value, self.gpus, duration_s, factors.gpu_lifetime_years.value
        )
        hosts_g = embodied_by_time_g(
            factors.host_kg_per_gpu.value, self.gpus, duration_s, factors.host_lifetime_years.value
        )
        return self.replicas * (gpus_g + hosts_g)

    def dram_g(self, dram_bytes: Floats, duration_s: float) -> Floats:
        """Embodied grams of DRAM of the given sizes."""
        factors = self.factors
        charged = dram_bytes
        if self.scope is Scope.PROVISIONED:
            charged = np.full_like(dram_bytes, self.installed_dram_bytes)
        whole_g = embodied_by_time_g(
            factors.dram_kg_per_gb.value, 1.0, duration_s, factors.dram_lifetime_years.value
        )
        return self.replicas * charged / GB * whole_g

    def ssd_g(self, ssd_bytes: Floats, written_bytes: Floats, duration_s: float) -> Floats:
        """Embodied grams of SSD of the given sizes, written to so much in an interval.

        As `greencache.carbon.DriveLedger` counts one interval: capacity is allocated drive after
        drive, and writes spread over what is allocated.

        Parameters
        ----------
        ssd_bytes:
            Sizes allocated on each engine.
        written_bytes:
            Bytes written by all engines together; any shape that ``ssd_bytes`` broadcasts with.
        duration_s:
            Length of the interval.
        """
        factors = self.factors
        drive = factors.ssd_drive_bytes.value
        lifetime_s = factors.ssd_lifetime_years.value * YEAR_S
        kg_per_byte = factors.ssd_kg_per_tb.value / TB
        rated = factors.ssd_rated_write_bytes.value / factors.ssd_write_amplification.value
        with np.errstate(invalid="ignore", divide="ignore"):
            # Rated lives spent per second, by each byte of what is allocated.
            per_byte = np.where(ssd_bytes > 0, written_bytes / self.replicas / ssd_bytes, 0.0)
        by_writes = per_byte * drive / rated if self.wear else np.zeros_like(per_byte)
        by_age = duration_s / lifetime_s
        if self.scope is Scope.ATTRIBUTABLE:
            spent = ssd_bytes * np.maximum(by_age, by_writes)
        else:
            # Whole drives, the one that is partly allocated, and those that are not.
            whole = np.floor(ssd_bytes / drive) * drive
            at_end = np.minimum(whole + drive, self.installed_ssd_bytes) - whole
            part = ssd_bytes - whole
            with np.errstate(invalid="ignore", divide="ignore"):
                part_by_writes = np.where(at_end > 0, by_writes * part / at_end, 0.0)
            spent = (
                whole * np.maximum(by_age, by_writes)
                + at_end * np.maximum(by_age, part_by_writes)
                + (self.installed_ssd_bytes - whole - at_end) * by_age
            )
        return self.replicas * spent * kg_per_byte * _G_PER_KG

    def drives(self, ssd_bytes: float) -> int:
        """Drives of one engine that a size takes; one if it is 0."""
        return max(1, math.ceil(ssd_bytes / self.factors.ssd_drive_bytes.value))
