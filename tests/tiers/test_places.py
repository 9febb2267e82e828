"""Memory that other processes map: places in extents, and a cache that others read and write."""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.errors import BlockStateError
from greencache.tiers import DramTier, Shareable, TieredCache
from tests.conformance.prompts import (
    prompt,
    settled,
    store as store_in_tier,
    the_bytes,
    wrong_blocks,
)
from tests.tiers.caches import BLOCK_BYTES, cache_in, load, pinned, store

Places = tuple[NDArray[np.uint32], NDArray[np.uint64]]


def dram_of(cache: TieredCache) -> DramTier:
    assert isinstance(cache.dram, DramTier)
    return cache.dram


def mapped(tier: DramTier, places: Places) -> list[NDArray[np.uint8]]:
    """Blocks as another process sees them: by descriptors of its own."""
    maps = {}
    for number in set(places[0].tolist()):
        descriptor, length = tier.extent(number)
        maps[number] = np.frombuffer(mmap.mmap(descriptor, length), np.uint8)
    return [
        maps[extent][offset : offset + tier.block_bytes]
        for extent, offset in zip(*(each.tolist() for each in places), strict=True)
    ]


async def test_blocks_are_where_their_places_say() -> None:
    async with DramTier(BLOCK_BYTES, 40 * 4096, extent_bytes=16 * 4096) as tier:
        assert isinstance(tier, Shareable)
        keys = prompt(*range(35))
        await store_in_tier(tier, keys)
        lease = await tier.acquire(keys)
        places = tier.leased_places(lease, 0, 35)
        assert len(set(places[0].tolist())) == 3
        assert (np.array(mapped(tier, places)) == the_bytes(keys, BLOCK_BYTES)).all()
        some = tier.leased_places(lease, 20, 5)
        assert (np.array(places)[:, 20:25] == np.array(some)).all()
        tier.release(lease)

        more = prompt("other", *range(9))
        reservation = await tier.reserve(more)
        for view, block in zip(
            mapped(tier, tier.reserved_places(reservation)),
            the_bytes(reservation.keys, BLOCK_BYTES),
            strict=True,
        ):
            view[:] = block
        await tier.commit(reservation)
        into = np.empty((10, BLOCK_BYTES), np.uint8)
        lease = await tier.acquire(more)
        assert await tier.read(lease, into) == 10
        assert (into == the_bytes(more, BLOCK_BYTES)).all()
        tier.release(lease)
        nothing = await tier.acquire(prompt("nothing"))
        assert [len(each) for each in tier.leased_places(nothing, 0, 0)] == [0, 0]


async def test_an_extent_that_went_never_comes_back() -> None:
    """Whoever has it mapped would else read another's memory by its number."""
    async with DramTier(BLOCK_BYTES, 64 * 4096, extent_bytes=16 * 4096) as tier:
        seen: set[int] = set()
        for round_ in range(3):
            keys = prompt(round_, *range(40))
            await store_in_tier(tier, keys)
            lease = await tier.acquire(keys)
            used = set(tier.leased_places(lease, 0, len(lease))[0].tolist())
            assert used <= tier.extents()
            assert not used & seen
            seen |= tier.extents()
            gone = tier.extents_gone()
            await tier.resize(0)
            assert used <= tier.extents(), "what is leased stays"
            tier.release(lease)
            assert await settled(lambda: not tier.extents())
            assert tier.extents_gone() > gone
            with pytest.raises(BlockStateError):
                tier.extent(min(used))
            await tier.resize(64 * 4096)


async def test_who_is_handed_an_extent_cannot_take_its_memory_away() -> None:
    """Memory that is no longer there would end the process that reads it."""
    async with DramTier(BLOCK_BYTES, 16 * 4096, extent_bytes=16 * 4096) as tier:
        await store_in_tier(tier, prompt(1))
        (number,) = tier.extents()
        descriptor, length = tier.extent(number)
        for size in (0, length - 4096, length + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        assert os.fstat(descriptor).st_size == length


async def write(cache: TieredCache, keys: list[bytes]) -> int:
    """Store a prompt as a client of the daemon does; how many blocks."""
    reservation = await cache.reserve(keys)
    views = mapped(dram_of(cache), dram_of(cache).reserved_places(reservation.part))
    new = keys[reservation.first : reservation.end]
    for view, block in zip(views, the_bytes(new, BLOCK_BYTES), strict=True):
        view[:] = block
    await cache.commit(reservation)
    return len(reservation)


async def test_what_others_wrote_is_found_in_both_tiers(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 16) as cache:
        assert await write(cache, keys[:4]) == 4
        assert await write(cache, keys) == 2
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 6, "ssd": 6}
        assert await load(cache, keys) == 6
        assert cache.stats().tiers["ssd"].written_bytes == 6 * BLOCK_BYTES
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_waiting_ends_in_the_moment_in_which_a_write_is_over(tmp_path: Path) -> None:
    """Which is before its end has been noted."""
    keys = prompt(*range(3))
    async with cache_in(tmp_path, 8, 16) as cache:
        others = asyncio.all_tasks()
        await write(cache, keys)
        (later,) = asyncio.all_tasks() - others
        while not later.done():
            await asyncio.sleep(0)
        await cache.drain()  # was without end, and gave no other task its turn
        assert await cache.lookup(keys) == {"dram": 3, "ssd": 3}


async def test_a_prompt_that_is_stored_part_by_part_is_on_ssd_as_a_whole(tmp_path: Path) -> None:
    """As engines do that compute long prompts in pieces, faster than a drive writes."""
    keys = prompt(*range(30))
    async with cache_in(tmp_path, 40, 64) as cache:
        for end in range(3, 31, 3):
            assert await write(cache, keys[:end]) == 3
        await asyncio.gather(
            *(write(cache, [*keys[:20], *prompt(f"end {each}")]) for each in range(4))
        )
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 30, "ssd": 30}
        assert cache.stats().tiers["ssd"].written_bytes == 34 * BLOCK_BYTES
        stats = cache.stats()
        assert (stats.dropped_blocks, stats.waiting_bytes) == (0, 0)
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_what_was_given_up_is_never_found(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 16) as cache:
        reservation = await cache.reserve(keys)
        assert (reservation.first, reservation.end, len(reservation)) == (0, 6, 6)
        assert len(await cache.reserve(keys)) == 0, "somebody is writing it"
        cache.abort(reservation)
        with pytest.raises(BlockStateError):
            await cache.commit(reservation)
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 0, "ssd": 0}
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_what_nobody_said_was_written_cannot_be_committed(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 8, 16) as cache:
        reservation = await cache.reserve(prompt(1))
        with pytest.raises(BlockStateError):
            await cache.commit(reservation)
        cache.abort(reservation)


async def test_only_memory_has_room_for_others_to_write(tmp_path: Path) -> None:
    async with cache_in(tmp_path, None, 16) as cache:
        with pytest.raises(BlockStateError, match="DRAM"):
            await cache.reserve(prompt(1))


async def test_a_commit_that_is_evicted_at_once_writes_no_wrong_byte(tmp_path: Path) -> None:
    """SSD is written behind, while DRAM's slots are taken by others."""
    async with cache_in(tmp_path, 4, 64) as cache:
        await asyncio.gather(*(write(cache, prompt(number, 1)) for number in range(16)))
        await cache.drain()
        for number in range(16):
            await load(cache, prompt(number, 1))  # which compares
        assert cache.stats().tiers["ssd"].failures == {}
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def on_ssd_alone(cache: TieredCache, keys: list[bytes], kept: int) -> None:
    """Store a prompt of which DRAM keeps but so many blocks."""
    await store(cache, keys)
    await cache.drain()
    await dram_of(cache).delete(keys[: kept + 1])
    assert await cache.lookup(keys) == {"dram": kept, "ssd": len(keys)}


async def test_a_lease_is_fetched_once_by_all_who_ask(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 16) as cache:
        await on_ssd_alone(cache, keys, 2)
        lease = await cache.acquire(keys)
        before = dram_of(cache).leased_places(lease.parts["dram"], 0, 2)
        await asyncio.gather(*(cache.fetch(lease) for _ in range(3)))
        places = dram_of(cache).leased_places(lease.parts["dram"], 0, 6)
        assert (np.array(places)[:, :2] == np.array(before)).all()
        assert (np.array(mapped(dram_of(cache), places)) == the_bytes(keys, BLOCK_BYTES)).all()
        assert cache.stats().promoted_blocks == 4
        cache.release(lease)
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_a_fetch_never_lets_go_what_can_be_read_already(tmp_path: Path) -> None:
    """Also if it was deleted since: who has the lease may be reading it where it stands."""
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 16) as cache:
        await on_ssd_alone(cache, keys, 3)
        lease = await cache.acquire(keys)
        views = mapped(dram_of(cache), dram_of(cache).leased_places(lease.parts["dram"], 0, 3))
        await dram_of(cache).delete(keys[:2])
        await cache.fetch(lease)
        for number in range(5):
            await store(cache, prompt("other", number, 1))
        assert (np.array(views) == the_bytes(keys[:3], BLOCK_BYTES)).all()
        assert len(lease.parts["dram"]) == 3
        cache.release(lease)
        await cache.drain()
        assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_a_lease_is_read_while_it_is_fetched(tmp_path: Path) -> None:
    """Also what DRAM had of it before, which the lease has there as a longer part then."""
    block_bytes = 400_000  # copied in threads
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 8, 16, block_bytes=block_bytes) as cache:
        await store(cache, keys)
        await cache.drain()
        for first in (7, 4, 1):
            assert cache.dram is not None
            await cache.dram.delete(keys[: first + 1])
            lease = await cache.acquire(keys)
            fetching = asyncio.ensure_future(cache.fetch(lease))
            into = np.zeros((first, block_bytes), np.uint8)
            reads = [asyncio.ensure_future(cache.read(lease, into))]
            while not fetching.done():
                reads.append(asyncio.ensure_future(cache.read(lease, into)))
                await asyncio.sleep(0)
            assert set(await asyncio.gather(*reads)) == {first}
            assert wrong_blocks(keys[:first], into) == 0
            assert len(lease.parts["dram"]) == 8
            cache.release(lease)
            assert pinned(cache) == {"dram": 0, "ssd": 0}


async def test_a_lease_that_ends_while_it_is_fetched_leaves_nothing(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 16) as cache:
        await on_ssd_alone(cache, keys, 1)
        lease = await cache.acquire(keys)
        fetching = asyncio.ensure_future(cache.fetch(lease))
        await asyncio.sleep(0)
        cache.release(lease)
        await asyncio.gather(fetching, return_exceptions=True)
        assert pinned(cache) == {"dram": 0, "ssd": 0}
