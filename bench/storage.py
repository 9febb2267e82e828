"""What holds KV beside HBM in a simulation, and what storing there costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Sizes
from greencache.errors import InputError
from greencache.tiers.admission import Admission, Prices
from greencache.tiers.policies import Policy

__all__ = [
    "BlockCosts",
    "StoragePrices",
    "StorageSetup",
    "block_costs",
    "block_flops",
    "block_prices",
    "j_per_flop",
    "load_flops",
]


@dataclass(frozen=True, slots=True)
class StoragePrices:
    """What storing KV costs in joules; grams of wear at the grid's intensity.

    Attributes
    ----------
    host_w_per_gpu:
        What a host draws more for each GPU while its engine is busy: recomputing takes that too.
    ssd_load_j_per_byte, ssd_write_j_per_byte:
        Energy that drives take to read and to write.
    wear_j_per_byte:
        What a byte written takes of a drive's life, where writes and not age end it; 0 to charge
        no wear.
    endurance_per_s:
        Bytes a second, for each byte of capacity, that spend drives evenly over their life.
    """

    host_w_per_gpu: float = 0.0
    ssd_load_j_per_byte: float = 0.0
    ssd_write_j_per_byte: float = 0.0
    wear_j_per_byte: float = 0.0
    endurance_per_s: float = np.inf


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
    prices: StoragePrices = StoragePrices()

    def __post_init__(self) -> None:
        if min(self.ssd_read_bytes_per_s, self.ssd_write_bytes_per_s) <= 0:
            raise InputError("an SSD reads and writes more than 0 bytes per second")

    @property
    def sizes(self) -> Sizes:
        """Capacity of both tiers."""
        return Sizes(self.dram_bytes, self.ssd_bytes)


class BlockCosts(TypedDict):
    """Costs as `greencache.tiers.TierIndex` takes them."""

    cost_base: float
    cost_per_depth: float
    load_cost: float


def block_flops(hardware: ServingHardware) -> tuple[float, float]:
    """Operations to compute a block, and what each block before it adds through attention."""
    rates, tokens = hardware.rates, hardware.layout.block_tokens
    first = tokens * (rates.flops_per_token + rates.flops_per_attended * tokens / 2)
    return first, rates.flops_per_attended * tokens * tokens


def j_per_flop(hardware: ServingHardware, prices: StoragePrices) -> float:
    """Energy of an operation above an idle engine's: GPUs bound by arithmetic, and their host."""
    busy_w = hardware.rates.compute_w + hardware.gpus * prices.host_w_per_gpu
    return busy_w / hardware.rates.flops_per_s


def block_prices(hardware: ServingHardware, prices: StoragePrices) -> Prices:
    """What a block costs in joules."""
    first, per_depth = block_flops(hardware)
    each_j, block_bytes = j_per_flop(hardware, prices), hardware.layout.block_bytes
    # While GPUs exchange what they computed they draw no more than idle, but their host does.
    exchange_s = hardware.layout.block_tokens * hardware.rates.link_s_per_token
    return Prices(
        compute_j=each_j * first + hardware.gpus * prices.host_w_per_gpu * exchange_s,
        compute_j_per_depth=each_j * per_depth,
        load_j=prices.ssd_load_j_per_byte * block_bytes,
        write_j=prices.ssd_write_j_per_byte * block_bytes,
        wear_j=prices.wear_j_per_byte * block_bytes,
    )


def load_flops(hardware: ServingHardware, prices: StoragePrices) -> float:
    """Operations that take as much energy as loading a block from SSD."""
    return block_prices(hardware, prices).load_j / j_per_flop(hardware, prices)


def block_costs(hardware: ServingHardware, to_load: float = 0.0) -> BlockCosts:
    """What an index is told of costs, in operations; loading takes ``to_load`` of them."""
    first, per_depth = block_flops(hardware)
    return BlockCosts(cost_base=first, cost_per_depth=per_depth, load_cost=to_load)
