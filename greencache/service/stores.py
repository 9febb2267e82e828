"""What the controller sizes: tiers that hold real bytes, in the terms of the engine's KV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from greencache.controller.sizes import Sizes
from greencache.service.pools import Pools
from greencache.tiers.admission import Prices
from greencache.tiers.cache import TieredCache
from greencache.tiers.slots import SlotTier

__all__ = ["CacheStore", "Held", "PoolStore", "Store"]


@dataclass(frozen=True, slots=True)
class Held:
    """What tiers have, and what they did since they were opened; bytes of the engine's KV.

    Attributes
    ----------
    capacity_bytes, used_bytes, unpinning_bytes:
        By tier; the last is beyond the capacity, until clients have unpinned it.
    read_bytes, written_bytes, declined_bytes, dropped_bytes:
        SSD traffic; what was not worth a write, and what was given up because writes lagged.
    """

    capacity_bytes: Mapping[str, float] = field(default_factory=dict)
    used_bytes: Mapping[str, float] = field(default_factory=dict)
    unpinning_bytes: Mapping[str, float] = field(default_factory=dict)
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    declined_bytes: float = 0.0
    dropped_bytes: float = 0.0


class Store(Protocol):
    """Tiers that can be resized while in use."""

    @property
    def block_bytes(self) -> int | None:
        """Bytes of a block of the engine's KV; None while nobody stores any."""

    def held(self) -> Held:
        """What they have now."""

    async def resize(self, sizes: Sizes) -> None:
        """Change their capacities; raises `TierError` where one cannot be had."""

    def charge(self, prices: Prices) -> None:
        """What storing a block costs from now on."""


class CacheStore:
    """One cache, whose blocks may be smaller than those of the engine they stand for.

    Parameters
    ----------
    cache:
        Its tiers are of slots.
    block_bytes:
        Bytes of the engine's block; the cache's own if nothing is said.
    """

    def __init__(self, cache: TieredCache, block_bytes: int | None = None) -> None:
        self._cache = cache
        self._block_bytes = block_bytes or cache.block_bytes
        self._tiers = {
            name: tier for name, tier in cache.tiers.items() if isinstance(tier, SlotTier)
        }

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of the engine's KV."""
        return self._block_bytes

    def held(self) -> Held:
        """As `Store`."""
        stats, block = self._cache.stats(), self._block_bytes
        scale = block / self._cache.block_bytes
        ssd = stats.tiers.get("ssd")
        return Held(
            capacity_bytes={
                name: float(tier.index.capacity_blocks) * block
                for name, tier in self._tiers.items()
            },
            used_bytes={name: stats.tiers[name].blocks * float(block) for name in self._tiers},
            unpinning_bytes={
                name: stats.tiers[name].unpinning_bytes // tier.stride_bytes * float(block)
                for name, tier in self._tiers.items()
            },
            read_bytes=ssd.read_bytes * scale if ssd else 0.0,
            written_bytes=ssd.written_bytes * scale if ssd else 0.0,
            declined_bytes=stats.declined_blocks * float(block),
            dropped_bytes=stats.dropped_blocks * float(block),
        )

    async def resize(self, sizes: Sizes) -> None:
        """As `Store`."""
        wanted = {"dram": sizes.dram_bytes, "ssd": sizes.ssd_bytes}
        await self._cache.resize(
            **{
                name: tier.bytes_for(wanted[name] // self._block_bytes)
                for name, tier in self._tiers.items()
            }
        )

    def charge(self, prices: Prices) -> None:
        """As `Store`."""
        learner = self._cache.learner
        if learner is not None and learner.prices is not None:
            learner.prices = prices


class PoolStore:
    """All pools of a daemon, sized together; what storing costs is told those of the engine.

    Of blocks of several sizes, each has an equal part: the controller reckons with one engine.

    Parameters
    ----------
    pools:
        The pools.
    block_bytes:
        Bytes of the engine's block.
    """

    def __init__(self, pools: Pools, block_bytes: int) -> None:
        self._pools = pools
        self.block_bytes = block_bytes

    def _stores(self) -> list[CacheStore]:
        return [CacheStore(pool.cache) for pool in self._pools]

    def held(self) -> Held:
        """As `Store`."""
        each = [store.held() for store in self._stores()]

        def total(name: str) -> dict[str, float]:
            sums: Counter[str] = Counter()
            for held in each:
                sums.update(getattr(held, name))
            return dict(sums)

        return Held(
            total("capacity_bytes"),
            total("used_bytes"),
            total("unpinning_bytes"),
            sum(held.read_bytes for held in each),
            sum(held.written_bytes for held in each),
            sum(held.declined_bytes for held in each),
            sum(held.dropped_bytes for held in each),
        )

    async def resize(self, sizes: Sizes) -> None:
        """As `Store`."""
        wanted = {"dram": sizes.dram_bytes, "ssd": sizes.ssd_bytes}
        await self._pools.resize(**{name: wanted[name] for name in self._pools.tiers})

    def charge(self, prices: Prices) -> None:
        """As `Store`."""
        for store in self._stores():
            if store.block_bytes == self.block_bytes:
                store.charge(prices)
