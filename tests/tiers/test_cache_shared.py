"""A cache over DRAM, SSD and a server that hosts share; each host here is a cache of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greencache.errors import InputError
from greencache.tiers import DramTier, KeyDirectory, RedisTier, SsdTier, TieredCache
from greencache.tiers.redis import Deadlines
from tests.conformance.minimal import MinimalTier
from tests.conformance.prompts import prompt, the_bytes
from tests.tiers.caches import load, store
from tests.tiers.valkeys import Server, a_server

BLOCK_BYTES = 2000
LOOKUP_S = 1.0


@pytest.fixture
def valkey() -> Iterator[Server]:
    with a_server() as server:
        yield server


def host(
    valkey: Server,
    path: Path | None = None,
    *,
    dram_blocks: int | None = 16,
    ssd_blocks: int = 16,
    shared_blocks: int = 64,
    **options: Any,
) -> TieredCache:
    """A cache with room for so many blocks; with an SSD if it has a folder."""
    directory = KeyDirectory()
    dram, ssd = None, None
    if dram_blocks is not None:
        dram = DramTier(
            BLOCK_BYTES, dram_blocks * 4096, directory=directory, extent_bytes=16 * 4096
        )
    if path is not None:
        ssd = SsdTier(path, BLOCK_BYTES, 0, directory=directory, extent_bytes=16 * BLOCK_BYTES)
        ssd._capacity_bytes = ssd.bytes_for(ssd_blocks)
    shared = RedisTier(
        valkey.url,
        BLOCK_BYTES,
        0,
        deadlines=Deadlines(LOOKUP_S, LOOKUP_S, LOOKUP_S, LOOKUP_S),
    )
    shared._capacity_bytes = shared.bytes_for(shared_blocks)
    shared._share.capacity_blocks = shared_blocks
    return TieredCache(dram, ssd, shared=shared, **options)


async def test_what_one_host_stored_another_finds_and_keeps(valkey: Server, tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with host(valkey, tmp_path / "a") as one, host(valkey, tmp_path / "b") as other:
        await store(one, keys)
        await one.drain()
        assert await one.lookup(keys) == {"dram": 8, "ssd": 8, "redis": 8}
        assert await other.lookup(keys) == {"dram": 0, "ssd": 0, "redis": 8}
        assert await load(other, keys) == 8
        assert other.stats().promoted_blocks == 8
        assert (await other.lookup(keys))["dram"] == 8
        valkey.client.flushdb()
        assert await load(other, keys) == 8, "from DRAM now"


async def test_each_block_comes_from_the_first_tier_that_has_it(
    valkey: Server, tmp_path: Path
) -> None:
    keys = prompt(*range(9))
    async with host(valkey, tmp_path / "a") as one, host(valkey, tmp_path / "b") as other:
        await store(one, keys)
        await store(other, keys[:6])
        await one.drain()
        await other.drain()
        await other.tiers["dram"].delete(keys[2:3])
        lease = await other.acquire(keys)
        assert lease.found_by_tier() == {"dram": 2, "ssd": 4, "redis": 3}
        other.release(lease)
        assert await load(other, keys, promote=False) == 9
        read = {name: tier.read_bytes for name, tier in other.stats().tiers.items()}
        assert read == {
            "dram": 2 * BLOCK_BYTES,
            "ssd": 4 * BLOCK_BYTES,
            "redis": 3 * BLOCK_BYTES,
        }
        assert await other.prefetch(keys) == 9, "from both of the others"
        assert other.stats().promoted_blocks == 7


async def test_the_server_is_asked_only_for_what_the_host_lacks(valkey: Server) -> None:
    keys = prompt(*range(4))
    async with host(valkey) as cache:
        await store(cache, keys)
        await cache.drain()
        asked = valkey.client.info("commandstats")
        assert await load(cache, keys) == 4
        now = valkey.client.info("commandstats")
        assert now["cmdstat_strlen"]["calls"] == asked["cmdstat_strlen"]["calls"]
        assert await load(cache, [*keys, b"x" * 16]) == 4
        now = valkey.client.info("commandstats")
        assert now["cmdstat_strlen"]["calls"] == asked["cmdstat_strlen"]["calls"] + 5


async def test_many_that_ask_for_the_same_read_it_once(valkey: Server) -> None:
    keys = prompt(*range(8))
    async with host(valkey) as one, host(valkey) as other:
        await store(one, keys)
        await one.drain()
        assert await asyncio.gather(*[load(other, keys) for _ in range(6)]) == [8] * 6
        assert other.stats().tiers["redis"].read_bytes == 8 * BLOCK_BYTES


async def test_without_dram_the_caller_waits_for_the_server(valkey: Server) -> None:
    keys = prompt(*range(6))
    async with host(valkey, dram_blocks=None, shared_blocks=4) as cache:
        await store(cache, keys)
        assert await cache.lookup(keys) == {"redis": 4}
        assert cache.stats().unshared_blocks == 2
        assert await load(cache, keys) == 4
        assert await cache.prefetch(keys) == 0


@pytest.mark.slow
async def test_a_hung_server_holds_up_neither_stores_nor_the_ssd(
    valkey: Server, tmp_path: Path
) -> None:
    room = {"dram_blocks": 64, "ssd_blocks": 64}  # for all, however slow this disk is
    async with host(valkey, tmp_path, share_queue_bytes=20 * BLOCK_BYTES, **room) as cache:
        await store(cache, prompt("warm"))
        await cache.drain()
        valkey.hang()
        try:
            began_s = time.monotonic()
            prompts = [prompt(name, *range(3)) for name in range(6)]
            for keys in prompts[:3]:
                await store(cache, keys)
            assert time.monotonic() - began_s < LOOKUP_S, "nobody waited for the server"
            assert cache.stats().sharing_bytes == 12 * BLOCK_BYTES
            for keys in prompts[3:]:
                await store(cache, keys)
            assert cache.stats().sharing_bytes <= 20 * BLOCK_BYTES
            assert cache.stats().unshared_blocks >= 4
            await cache.drain()
            assert cache.stats().sharing_bytes == 0
            assert cache.stats().unshared_blocks == 24
        finally:
            valkey.go_on()
        stats = cache.stats()
        assert stats.dropped_blocks == 0
        assert stats.tiers["ssd"].blocks >= 15
        assert stats.tiers["redis"].failures["lookup: timeout"] > 0


async def test_a_dead_server_is_a_miss_and_the_rest_goes_on(valkey: Server, tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with host(valkey, tmp_path / "a") as one, host(valkey, tmp_path / "b") as other:
        await store(one, keys)
        await one.drain()
        await store(other, keys[:3])
        valkey.kill()
        assert await load(one, keys) == 8
        assert await load(other, keys) == 3
        lease = await other.pin(keys)
        assert len(lease) == 3
        other.release(lease)
        await store(other, keys)
        await other.drain()
        assert await load(other, keys) == 8
        assert other.stats().unshared_blocks > 0


async def test_what_the_server_lost_since_it_was_leased_is_read_no_further(valkey: Server) -> None:
    keys = prompt(*range(8))
    async with host(valkey) as one, host(valkey) as other:
        await store(one, keys)
        await one.drain()
        lease = await other.acquire(keys)
        assert len(lease) == 8
        shared = one.tiers["redis"]
        assert isinstance(shared, RedisTier)
        valkey.client.delete(shared._records.names(keys[5])[0])
        assert await other.read(lease, the_bytes(keys, BLOCK_BYTES)) == 5
        other.release(lease)
        assert await load(other, keys) == 5


async def test_a_hung_server_costs_a_load_its_deadline_once(valkey: Server) -> None:
    keys = prompt(*range(8))
    async with host(valkey) as one, host(valkey) as other:
        await store(one, keys)
        await one.drain()
        lease = await other.acquire(keys)
        valkey.hang()
        try:
            began_s = time.monotonic()
            await other._promote(lease)
            assert await other.read(lease, the_bytes(keys, BLOCK_BYTES)[: len(lease)]) == 0
            assert time.monotonic() - began_s < 1.9 * LOOKUP_S
        finally:
            valkey.go_on()
        other.release(lease)


async def test_it_is_resized_by_its_name(valkey: Server) -> None:
    async with host(valkey) as cache:
        await store(cache, prompt(*range(8)))
        await cache.drain()
        assert await cache.resize(redis=0) == {"redis": 0}
        assert valkey.client.dbsize() == 0


def test_names_are_all_different() -> None:
    with pytest.raises(InputError, match="names of their own"):
        TieredCache(MinimalTier(4096, 0), shared=MinimalTier(4096, 0))
    with pytest.raises(InputError, match="same size"):
        TieredCache(DramTier(4096, 0), shared=RedisTier("redis://nowhere", 8192, 0))


async def test_what_a_caller_wrote_in_place_is_shared_too(valkey: Server) -> None:
    keys = prompt(*range(6))
    async with host(valkey) as cache, host(valkey) as other:
        assert isinstance(cache.dram, DramTier)
        reservation = await cache.reserve(keys)
        for block, bytes_ in zip(
            cache.dram.reserved(reservation.part), the_bytes(keys, BLOCK_BYTES), strict=True
        ):
            block[:] = bytes_
        await cache.commit(reservation)
        await cache.drain()
        assert cache.stats().unshared_blocks == 0
        assert await load(other, keys) == 6
