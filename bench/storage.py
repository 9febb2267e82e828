"""What holds KV beside HBM in a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from greencache.controller.sizes import Sizes
from greencache.controller.storage_prices import StoragePrices
from greencache.errors import InputError
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy

__all__ = ["StorageSetup"]


@dataclass(frozen=True)
class StorageSetup:
    """What holds KV beside HBM, and how fast it is.

    Attributes
    ----------
    reuse_hbm:
        Whether the engine keeps its own prefix cache in HBM.
    dram_bytes, ssd_bytes:
        Capacity of each tier; 0 for none.
    policy:
        Eviction policy of every tier.
    ssd_read_bytes_per_s, ssd_write_bytes_per_s:
        Of all drives that the capacity takes.
    admission:
        What is stored on SSD of the prompts that are computed.
    prices:
        What ``carbon`` and admission by value go by.
    """

    reuse_hbm: bool = True
    dram_bytes: int = 0
    ssd_bytes: int = 0
    policy: Policy = Policy.LRU
    ssd_read_bytes_per_s: float = np.inf
    ssd_write_bytes_per_s: float = np.inf
    admission: Admission = Admission.ALL
    prices: StoragePrices = field(default_factory=StoragePrices)

    def __post_init__(self) -> None:
        if min(self.ssd_read_bytes_per_s, self.ssd_write_bytes_per_s) <= 0:
            raise InputError("an SSD reads and writes more than 0 bytes per second")

    @property
    def sizes(self) -> Sizes:
        """Capacity of both tiers."""
        return Sizes(self.dram_bytes, self.ssd_bytes)
