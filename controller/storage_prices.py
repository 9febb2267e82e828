"""What storing KV costs in joules: for eviction by value, and for what is worth a write to SSD."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypedDict

from greencache.carbon import G_PER_KG, J_PER_KWH
from greencache.controller.performance import ServingHardware
from greencache.factors import Factors
from greencache.quantities import TB, YEAR_S
from greencache.tiers.admission import Admission, Prices
from greencache.tiers.policies import Policy

__all__ = [
    "BlockCosts",
    "StoragePrices",
    "block_costs",
    "block_flops",
    "block_prices",
    "j_per_flop",
    "load_flops",
    "prices_for",
]

_PRICE_STEP = 2.0
_LEAST_GCO2_PER_KWH = 1.0
"""Cleaner than any grid: on one without carbon no wear would be worth anything."""


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
    served_j_per_byte:
        What a byte found on SSD is worth at least, as DRAM would have to serve it otherwise; 0
        where nothing has to.
    """

    host_w_per_gpu: float = 0.0
    ssd_load_j_per_byte: float = 0.0
    ssd_write_j_per_byte: float = 0.0
    wear_j_per_byte: float = 0.0
    endurance_per_s: float = math.inf
    served_j_per_byte: float = 0.0


def prices_for(
    policy: Policy, admission: Admission, factors: Factors, gco2_per_kwh: float
) -> StoragePrices:
    """What storing KV costs in joules on a grid of such an intensity, as far as anything asks.

    Grams of wear are as many joules as that much electricity. The figure is rounded to a power of
    `_PRICE_STEP`, so that runs on grids that differ little decide alike and share simulations.
    """
    if admission is Admission.ALL and policy is not Policy.CARBON:
        return StoragePrices()
    busy_w = factors.host_active_w_per_gpu.value - factors.host_idle_w_per_gpu.value
    energy = StoragePrices(
        host_w_per_gpu=max(0.0, busy_w),
        ssd_load_j_per_byte=factors.ssd_read_j_per_byte.value,
        ssd_write_j_per_byte=factors.ssd_write_j_per_byte.value,
    )
    if admission is Admission.ALL:
        return energy
    drive_bytes = factors.ssd_drive_bytes.value
    rated_bytes = factors.ssd_rated_write_bytes.value / factors.ssd_write_amplification.value
    wear_g_per_byte = factors.ssd_kg_per_tb.value * G_PER_KG * drive_bytes / TB / rated_bytes
    g_per_j = g_per_joule(factors, gco2_per_kwh)
    return replace(
        energy,
        wear_j_per_byte=_PRICE_STEP ** round(math.log(wear_g_per_byte / g_per_j, _PRICE_STEP)),
        endurance_per_s=rated_bytes / (drive_bytes * factors.ssd_lifetime_years.value * YEAR_S),
    )


def g_per_joule(factors: Factors, gco2_per_kwh: float) -> float:
    """Grams of a joule at the machine, on a grid that is never quite clean."""
    return max(gco2_per_kwh, _LEAST_GCO2_PER_KWH) * factors.pue.value / J_PER_KWH


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
        served_j=prices.served_j_per_byte * block_bytes,
    )


def load_flops(hardware: ServingHardware, prices: StoragePrices) -> float:
    """Operations that take as much energy as loading a block from SSD."""
    return block_prices(hardware, prices).load_j / j_per_flop(hardware, prices)


def block_costs(hardware: ServingHardware, to_load: float = 0.0) -> BlockCosts:
    """What an index is told of costs, in operations; loading takes ``to_load`` of them."""
    first, per_depth = block_flops(hardware)
    return BlockCosts(cost_base=first, cost_per_depth=per_depth, load_cost=to_load)
