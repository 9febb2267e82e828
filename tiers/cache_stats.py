"""``CacheStats``: what the tiers of a cache have, and what the cache did besides."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from greencache.tiers.base import TierStats

__all__ = ["CacheStats"]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What the tiers have, and what the cache did besides.

    Attributes
    ----------
    tiers:
        By name.
    declined_blocks:
        Not written to SSD because they were not worth it.
    dropped_blocks:
        Not written because too much was waiting, or the write failed.
    promoted_blocks:
        Read from SSD into DRAM by `TieredCache.prefetch` and `TieredCache.load`.
    waiting_bytes:
        Still to be written to SSD.
    """

    tiers: dict[str, TierStats]
    declined_blocks: int = 0
    dropped_blocks: int = 0
    promoted_blocks: int = 0
    waiting_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        tiers = {name: tier.as_json() for name, tier in self.tiers.items()}
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "tiers": tiers}
