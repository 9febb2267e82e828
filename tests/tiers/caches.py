"""Small caches over DRAM and a folder, and what tests do with them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from greencache.tiers import DramTier, KeyDirectory, SsdTier, TieredCache
from greencache.tiers.slots import SlotTier
from greencache.tiers.state import PINNED
from tests.conformance.prompts import the_bytes, wrong_blocks

__all__ = ["BLOCK_BYTES", "cache_in", "disk_bytes", "load", "pinned", "store", "written_blocks"]

BLOCK_BYTES = 2000


def cache_in(
    path: Path,
    dram_blocks: int | None,
    ssd_blocks: int | None,
    *,
    block_bytes: int = BLOCK_BYTES,
    policy: str = "lru",
    ssd_options: dict[str, Any] | None = None,
    **options: Any,
) -> TieredCache:
    """A cache with room for so many blocks, its SSD in a folder; None for no such tier."""
    directory = KeyDirectory()
    dram, ssd = None, None
    if dram_blocks is not None:
        dram = DramTier(
            block_bytes, 0, directory=directory, policy=policy, extent_bytes=16 * block_bytes
        )
        dram._capacity_bytes = dram.bytes_for(dram_blocks)
    if ssd_blocks is not None:
        ssd = SsdTier(
            path,
            block_bytes,
            0,
            directory=directory,
            policy=policy,
            extent_bytes=16 * block_bytes,
            **(ssd_options or {}),
        )
        ssd._capacity_bytes = ssd.bytes_for(ssd_blocks)
    return TieredCache(dram, ssd, **options)


async def store(cache: TieredCache, keys: Sequence[bytes]) -> None:
    """Store a prompt."""
    await cache.store(keys, the_bytes(keys, cache.block_bytes))


async def load(cache: TieredCache, keys: Sequence[bytes], *, promote: bool = True) -> int:
    """Load a prompt; how many blocks. Their bytes must be those stored."""
    into = np.full((len(keys), cache.block_bytes), 0xA5, np.uint8)
    good = await cache.load(keys, into, promote=promote)
    assert wrong_blocks(keys[:good], into[:good]) == 0
    return good


def pinned(cache: TieredCache) -> dict[str, int]:
    """Blocks that leases and reservations keep in each tier of slots."""
    return {
        name: int(tier.index.state.meta[PINNED])
        for name, tier in cache.tiers.items()
        if isinstance(tier, SlotTier)
    }


def written_blocks(cache: TieredCache, tier: str) -> int:
    """Blocks that were written to a tier."""
    return cache.stats().tiers[tier].written_bytes // cache.block_bytes


def disk_bytes(path: Path) -> int:
    """What du says of a folder that is in use: files may go meanwhile."""
    total = path.lstat().st_blocks * 512
    for name in path.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += name.lstat().st_blocks * 512
    return total
