"""The factors that a carbon figure rests on, gathered from the catalog and the user's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from greencache.carbon import DriveLedger, gpu_kg
from greencache.catalog import Catalog, Part, Quantity, given
from greencache.errors import InputError, UnknownNameError
from greencache.quantities import TB

__all__ = ["FACTOR_NAMES", "Factors"]


_LARGEST = 1e20
"""Far above any figure in these units, and far below where sums overflow."""


@dataclass(frozen=True)
class Factors:
    """Every carbon and power factor that a result rests on, each with its range and source."""

    pue: Quantity
    gpu_kg: Quantity
    gpu_lifetime_years: Quantity
    gpu_idle_w: Quantity
    gpu_tdp_w: Quantity
    gpu_prefill_power: Quantity
    gpu_decode_power: Quantity
    host_kg_per_gpu: Quantity
    host_lifetime_years: Quantity
    host_idle_w_per_gpu: Quantity
    host_active_w_per_gpu: Quantity
    dram_kg_per_gb: Quantity
    dram_lifetime_years: Quantity
    dram_w_per_gb: Quantity
    ssd_kg_per_tb: Quantity
    ssd_lifetime_years: Quantity
    ssd_idle_w_per_tb: Quantity
    ssd_read_j_per_byte: Quantity
    ssd_write_j_per_byte: Quantity
    ssd_drive_bytes: Quantity
    ssd_rated_write_bytes: Quantity
    ssd_write_amplification: Quantity
    ssd_read_bytes_per_s: Quantity
    ssd_write_bytes_per_s: Quantity

    @classmethod
    def of(
        cls, catalog: Catalog, gpu: Part, overrides: Mapping[str, float] | None = None
    ) -> Factors:
        """Gather the factors for a GPU and its host from the catalog, the user's laid over them.

        Raises
        ------
        UnknownNameError
            If an override names no factor.
        InputError
            If an override is out of its range.
        """
        server, dram = catalog.part("server", "GPU8"), catalog.part("dram", "DDR5")
        ssd, efficiency = catalog.part("ssd", "NVME"), catalog.table("efficiency")
        per_gpu = 1 / server["gpus"].value
        note = f"over {server['gpus'].value:.0f} GPUs"
        known = {
            "pue": server["pue"],
            "gpu_kg": gpu_kg(catalog, gpu),
            "gpu_lifetime_years": server["gpu_lifetime_years"],
            "gpu_idle_w": gpu["idle_w"],
            "gpu_tdp_w": gpu["tdp_w"],
            "gpu_prefill_power": efficiency["prefill_power"],
            "gpu_decode_power": efficiency["decode_power"],
            "host_kg_per_gpu": server["embodied_kg"].times(per_gpu, note),
            "host_lifetime_years": server["lifetime_years"],
            "host_idle_w_per_gpu": server["idle_w"].times(per_gpu, note),
            "host_active_w_per_gpu": server["active_w"].times(per_gpu, note),
            **{f"dram_{name}": dram[name] for name in ("kg_per_gb", "lifetime_years", "w_per_gb")},
            **{
                f.name: ssd[f.name.removeprefix("ssd_")]
                for f in fields(cls)
                if f.name.startswith("ssd_")
            },
        }
        for name, value in (overrides or {}).items():
            if name not in known:
                raise UnknownNameError("carbon factor", name, known)
            if not 0 < value < _LARGEST:
                raise InputError(
                    f"carbon factor {name} must be more than 0 and less than {_LARGEST:g}, not "
                    f"{value:g}"
                )
            if name.endswith("_power") and value > 1:
                raise InputError(f"carbon factor {name} is a share, at most 1, not {value:g}")
            if name.endswith("_years") and value < 1 / 365:
                raise InputError(f"carbon factor {name} is at least a day, not {value:g} years")
            known[name] = given(value, name)
        if known["pue"].value < 1:
            raise InputError(f"PUE is 1 or more, not {known['pue'].value:g}")
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """All factors, as results print them."""
        return {f.name: getattr(self, f.name).as_json() for f in fields(self)}

    def drives(self, ssd_bytes: float) -> int:
        """Drives that hold a capacity."""
        return math.ceil(ssd_bytes / self.ssd_drive_bytes.value)

    def ledger(self, installed_bytes: float) -> DriveLedger:
        """A ledger for so much SSD."""
        return DriveLedger(
            installed_bytes,
            drive_bytes=self.ssd_drive_bytes.value,
            kg_per_drive=self.ssd_kg_per_tb.value * self.ssd_drive_bytes.value / TB,
            lifetime_years=self.ssd_lifetime_years.value,
            rated_write_bytes=self.ssd_rated_write_bytes.value,
            write_amplification=self.ssd_write_amplification.value,
        )


FACTOR_NAMES = tuple(f.name for f in fields(Factors))
"""Names of all factors; each can be set by the user."""
