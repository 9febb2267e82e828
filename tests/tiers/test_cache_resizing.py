"""Both tiers are shrunk and grown while requests read and write, as the controller does."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np

from greencache.tiers import DramTier, SsdTier, TieredCache
from tests.conformance.prompts import prompt, settled, wrong_blocks
from tests.tiers.caches import cache_in, disk_bytes, load, pinned, store

BLOCK_BYTES = 60_000
DRAM_BLOCKS, SSD_BLOCKS = 64, 128
PROMPTS = [prompt(n % 5, n, *range(n % 6)) for n in range(60)]


def tiers_of(cache: TieredCache) -> tuple[DramTier, SsdTier]:
    assert isinstance(cache.dram, DramTier)
    assert isinstance(cache.ssd, SsdTier)
    return cache.dram, cache.ssd


async def test_memory_and_disk_fall_while_requests_go_on_and_leases_stay(tmp_path: Path) -> None:
    done = asyncio.Event()
    cache = cache_in(tmp_path, DRAM_BLOCKS, SSD_BLOCKS, block_bytes=BLOCK_BYTES, flush_s=0.01)
    dram, ssd = tiers_of(cache)
    served, disk_samples = 0, 0
    limit_bytes = ssd.bytes_for(SSD_BLOCKS)

    async def requests(seed: int) -> None:
        nonlocal served
        rng = random.Random(seed)
        while not done.is_set():
            keys = rng.choice(PROMPTS)
            if await load(cache, keys) < len(keys):
                await store(cache, keys)
            served += 1
            await asyncio.sleep(0)  # what is all in memory has waited for nothing

    async def watch() -> None:
        """The disk's limit holds at every moment; a smaller one does from when it was reached."""
        nonlocal disk_samples
        while not done.is_set():
            before_bytes = limit_bytes
            taken_bytes = await asyncio.to_thread(disk_bytes, tmp_path)
            assert taken_bytes <= max(before_bytes, limit_bytes)
            disk_samples += 1
            await asyncio.sleep(0.001)

    async def resize(share: float) -> tuple[int, int]:
        """Sizes from now on, and what the system says is taken once that has been done."""
        nonlocal limit_bytes
        before = served
        sizes = dram.bytes_for(int(share * DRAM_BLOCKS)), ssd.bytes_for(int(share * SSD_BLOCKS))
        await cache.resize(dram=sizes[0], ssd=sizes[1])

        def reached() -> bool:
            return dram.allocated_bytes <= sizes[0] and disk_bytes(tmp_path) <= sizes[1]

        assert await settled(reached)
        limit_bytes = sizes[1]
        assert await settled(lambda: served > before + 30)
        assert dram.allocated_bytes <= sizes[0]
        return dram.allocated_bytes, disk_bytes(tmp_path)

    async with cache:
        for keys in PROMPTS:
            await store(cache, keys)
        work = [asyncio.ensure_future(each) for each in (*map(requests, range(4)), watch())]
        assert await settled(lambda: served > 50)
        leased = PROMPTS[-1]
        await store(cache, leased)
        lease = await cache.acquire(leased)
        assert len(lease) == len(leased)
        large = await resize(1.0)
        for _ in range(2):
            small = await resize(0.25)
            assert small[0] < 0.3 * large[0]
            assert small[1] < 0.4 * large[1]
            limit_bytes = ssd.bytes_for(SSD_BLOCKS)
            again = await resize(1.0)
            assert again[0] > 0.9 * large[0]
        into = np.empty((len(leased), BLOCK_BYTES), np.uint8)
        assert await cache.read(lease, into) == len(leased)
        assert wrong_blocks(leased, into) == 0
        done.set()
        await asyncio.gather(*work)
        cache.release(lease)
        await cache.drain()
        assert pinned(cache) == {"dram": 0, "ssd": 0}
        for tier in cache.stats().tiers.values():
            assert tier.failures == {}
            assert tier.read_bytes > 0
    assert disk_samples > 20


async def test_tiers_of_nothing_only_miss(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 8, 16, block_bytes=BLOCK_BYTES) as cache:
        dram, ssd = tiers_of(cache)
        for keys in PROMPTS[:8]:
            await store(cache, keys)
        await cache.resize(dram=0, ssd=0)
        await cache.drain()
        assert await settled(lambda: dram.allocated_bytes == 0)
        assert await settled(lambda: disk_bytes(tmp_path) < 2**17)
        for keys in PROMPTS[:8]:
            await store(cache, keys)
            assert await load(cache, keys) == 0
        await cache.resize(dram=dram.bytes_for(8), ssd=ssd.bytes_for(16))
        await store(cache, PROMPTS[0])
        assert await load(cache, PROMPTS[0]) == len(PROMPTS[0])
