"""The carbon model: grams of CO2-equivalent for energy used and for hardware used up.

Reported as SCI (ISO/IEC 21031:2024): ``SCI = (O + M) / R`` with operational ``O``, embodied ``M``
and a functional unit ``R`` of 1,000 output tokens.

*Operational*: ``O = sum over time of energy_kwh * PUE * carbon intensity``.

*Embodied, by time*: ``M = kg * share * duration / lifetime``, as SCI's ``TE * TS * RS``. The share
is of what is allocated (scope *attributable*) or all that is installed (scope *provisioned*).

*Embodied, by wear*: an SSD is spent by age or by writes, whichever comes first, see `DriveLedger`.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from greencache.catalog import Catalog, Part, Quantity, Source
from greencache.errors import InputError
from greencache.quantities import GB, YEAR_S

__all__ = [
    "G_PER_KG",
    "J_PER_KWH",
    "DriveLedger",
    "Scope",
    "chip_kg",
    "embodied_by_time_g",
    "gpu_kg",
    "operational_g",
    "sci_g",
]

J_PER_KWH = 3.6e6
G_PER_KG = 1e3
_MOST_DRIVES = 100_000
"""More than any host or rack holds, and few enough to account one by one."""


class Scope(StrEnum):
    """What embodied carbon is charged for."""

    ATTRIBUTABLE = "attributable"
    """Capacity while it is allocated: what is given back serves others."""
    PROVISIONED = "provisioned"
    """All that is installed, allocated or not."""


def operational_g(
    energy_j: NDArray[np.float64], gco2_per_kwh: NDArray[np.float64], pue: float
) -> NDArray[np.float64]:
    """Grams emitted in each interval to supply the energy used in it.

    Parameters
    ----------
    energy_j:
        Energy at the machine in each interval.
    gco2_per_kwh:
        Carbon intensity of the grid in each.
    pue:
        Power usage effectiveness: energy of the whole site over that of its machines, 1 or more.

    Raises
    ------
    InputError
        If the PUE is below 1.
    """
    if pue < 1:
        raise InputError(f"PUE is a site's energy over its machines' energy, 1 or more, not {pue}")
    return energy_j * gco2_per_kwh * (pue / J_PER_KWH)


def embodied_by_time_g(kg: float, share: float, duration_s: float, lifetime_years: float) -> float:
    """Grams of a part's making that a share of it uses up in a time (SCI's ``TE * TS * RS``)."""
    return kg * G_PER_KG * share * duration_s / (lifetime_years * YEAR_S)


def sci_g(operational: float, embodied: float, output_tokens: int) -> float:
    """SCI in grams per 1,000 output tokens; infinite if there are none."""
    if output_tokens == 0:
        return float("inf")
    return (operational + embodied) / (output_tokens / 1000)


def chip_kg(
    area_mm2: float,
    *,
    energy_kwh_per_cm2: float,
    gas_kg_per_cm2: float,
    material_kg_per_cm2: float,
    grid_kg_per_kwh: float,
    fab_yield: float,
    packaging_kg: float,
) -> float:
    """Kilograms to make a packaged chip, by ACT's form (Gupta et al., ISCA 2022, eq. 3 to 5).

    ``(grid * energy + gas + material) * area / yield + packaging``
    """
    kg_per_cm2 = grid_kg_per_kwh * energy_kwh_per_cm2 + gas_kg_per_cm2 + material_kg_per_cm2
    return kg_per_cm2 * (area_mm2 / 100) / fab_yield + packaging_kg


def gpu_kg(catalog: Catalog, gpu: Part) -> Quantity:
    """Kilograms to make a GPU: the published figure, or ACT's form for its die and memory.

    ACT's form knows chips only, not boards and heat sinks: for the H100 it gives about 0.6 of the
    published figure.
    """
    published = gpu.get("embodied_kg")
    if published is not None:
        return published
    node = catalog.part("fab", f"node_{gpu.labels['node_nm']}")
    common = catalog.part("fab", "common")
    hbm = str(gpu.labels["memory_kind"]).startswith("hbm")
    per_gb = catalog.part("fab", "memory")["hbm_kg_per_gb" if hbm else "gddr6_kg_per_gb"]

    def total(end: str) -> float:
        worst_yield = {"value": "value", "low": "high", "high": "low"}[end]
        die = chip_kg(
            getattr(gpu["die_area_mm2"], end),
            energy_kwh_per_cm2=getattr(node["energy_kwh_per_cm2"], end),
            gas_kg_per_cm2=getattr(node["gas_kg_per_cm2"], end),
            material_kg_per_cm2=getattr(node["material_kg_per_cm2"], end),
            grid_kg_per_kwh=getattr(common["grid_kg_per_kwh"], end),
            fab_yield=getattr(common["yield"], worst_yield),
            packaging_kg=getattr(common["packaging_kg"], end),
        )
        return die + float(getattr(per_gb, end)) * gpu["memory_bytes"].value / GB

    return Quantity(
        total("value"),
        total("low"),
        total("high"),
        Source(
            "ACT's form (Gupta et al., ISCA 2022) for the die, and memory per GB",
            "https://github.com/facebookresearch/ACT",
            2025,
            "derived",
        ),
    )


class DriveLedger:
    """What a set of equal SSDs has been used up, drive by drive.

    A drive is spent by age or by writes, whichever comes first. Over the whole accounting period,
    and for each drive::

        M = kg * max(sum(share * dt) / lifetime, sum(bytes_written) * WAF / rated_bytes)

    The maximum is taken once, over the period. Capacity is allocated drive after drive, so that
    what is not allocated leaves whole drives unused; writes spread over what is allocated.

    Parameters
    ----------
    installed_bytes:
        Capacity installed, in drives of ``drive_bytes``; the last one may be smaller.
    drive_bytes:
        Capacity of one drive.
    kg_per_drive:
        Kilograms to make one.
    lifetime_years:
        Age at which one is replaced.
    rated_write_bytes:
        Bytes that the host may write to one (its TBW).
    write_amplification:
        Bytes that flash takes for each byte the host writes, beyond what the rating allows for.
    """

    def __init__(
        self,
        installed_bytes: float,
        *,
        drive_bytes: float,
        kg_per_drive: float,
        lifetime_years: float,
        rated_write_bytes: float,
        write_amplification: float = 1.0,
    ) -> None:
        if installed_bytes < 0 or min(drive_bytes, lifetime_years, rated_write_bytes) <= 0:
            raise InputError("an SSD ledger needs sizes and lifetimes above 0")
        self.installed_bytes = float(installed_bytes)
        drives = math.ceil(installed_bytes / drive_bytes)
        if drives > _MOST_DRIVES:
            raise InputError(f"{drives:,} drives are more than one host holds ({_MOST_DRIVES:,})")
        self._first_byte = np.arange(drives) * float(drive_bytes)
        self._size_bytes = np.minimum(drive_bytes, installed_bytes - self._first_byte)
        self._kg = kg_per_drive * self._size_bytes / drive_bytes
        self._rated_bytes: NDArray[np.float64] = (
            rated_write_bytes * self._size_bytes / drive_bytes / write_amplification
        )
        self._lifetime_s = lifetime_years * YEAR_S
        self._share_s: NDArray[np.float64] = np.zeros(drives)
        self._written_bytes: NDArray[np.float64] = np.zeros(drives)
        self._period_s = 0.0

    def record(self, allocated_bytes: float, duration_s: float, written_bytes: float) -> None:
        """Note an interval: how much was allocated, how long, and how much was written.

        Raises
        ------
        InputError
            If more is allocated than is installed, or something is written to no allocation.
        """
        if allocated_bytes > self.installed_bytes:
            raise InputError(
                f"{allocated_bytes:g} bytes allocated of {self.installed_bytes:g} installed"
            )
        if written_bytes and not allocated_bytes:
            raise InputError(f"{written_bytes:g} bytes written to no allocated SSD")
        allocated = np.clip(allocated_bytes - self._first_byte, 0, self._size_bytes)
        self._share_s += allocated / self._size_bytes * duration_s
        self._period_s += duration_s
        if written_bytes:
            self._written_bytes += written_bytes * allocated / allocated.sum()

    def embodied_g(self, scope: Scope, *, wear: bool = True) -> float:
        """Grams used up so far; ``wear=False`` counts age alone."""
        by_age = self._by_age(scope)
        spent = np.maximum(by_age, self._by_writes()) if wear else by_age
        return float(np.dot(spent, self._kg)) * G_PER_KG

    def wear_bound_drives(self, scope: Scope) -> int:
        """How many drives writes use up faster than age does."""
        return int((self._by_writes() > self._by_age(scope)).sum())

    def _by_age(self, scope: Scope) -> NDArray[np.float64]:
        if scope is Scope.ATTRIBUTABLE:
            return self._share_s / self._lifetime_s
        return np.full_like(self._share_s, self._period_s / self._lifetime_s)

    def _by_writes(self) -> NDArray[np.float64]:
        return self._written_bytes / self._rated_bytes
