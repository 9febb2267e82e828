"""A cache over DRAM and SSD: what it finds, where it writes, and what it asks of each only once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.blocks import KVGroup, KVLayout, block_keys
from greencache.errors import (
    BlockStateError,
    InputError,
    TierClosedError,
    TierError,
    UnknownNameError,
)
from greencache.tiers import DramTier, KeyDirectory, SsdTier, TieredCache, TierIndex
from greencache.tiers.admission import Prices
from greencache.tiers.learning import Learner
from tests.conformance.minimal import MinimalTier
from tests.conformance.prompts import check, prompt, the_bytes, wrong_blocks
from tests.tiers.caches import BLOCK_BYTES, cache_in, load, pinned, store, written_blocks

NOTHING_PINNED = {"dram": 0, "ssd": 0}


# What it finds.


async def test_what_was_stored_is_in_both_tiers_and_comes_back(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
        await cache.drain()
        assert await cache.lookup([*keys, b"x" * 16]) == {"dram": 6, "ssd": 6}
        assert await load(cache, keys) == 6
        stats = cache.stats()
        assert stats.tiers["dram"].read_bytes == 6 * BLOCK_BYTES
        assert stats.tiers["ssd"].read_bytes == 0, "DRAM is faster"
        assert (stats.declined_blocks, stats.dropped_blocks, stats.waiting_bytes) == (0, 0, 0)


@pytest.mark.parametrize("tiers", [(8, None), (None, 8)])
async def test_either_tier_does_alone(tmp_path: Path, tiers: tuple[int | None, int | None]) -> None:
    keys = prompt(*range(10))
    async with cache_in(tmp_path, *tiers) as cache:
        await store(cache, keys)
        await cache.flush()
        assert await load(cache, keys) == 8
        assert await cache.prefetch(keys) == (8 if tiers[0] else 0)
        pin = await cache.pin(keys)
        await store(cache, prompt("other"))
        assert await load(cache, keys) == 8
        cache.release(pin)
        await store(cache, prompt("other"))
        await cache.drain()
        assert await load(cache, prompt("other")) == 1
        assert await load(cache, keys) == 7


def test_a_cache_needs_tiers_that_fit_together() -> None:
    with pytest.raises(InputError, match="needs a tier"):
        TieredCache()
    with pytest.raises(InputError, match="same size"):
        TieredCache(DramTier(4096, 0), MinimalTier(8192, 0))
    with pytest.raises(InputError, match="share one KeyDirectory"):
        TieredCache(DramTier(4096, 0), SsdTier("unused", 4096, 0))
    with pytest.raises(InputError, match="names of their own"):
        TieredCache(MinimalTier(4096, 0), MinimalTier(4096, 0))


async def test_what_is_only_on_ssd_is_read_behind_what_dram_has(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
        await cache.drain()
        await cache.tiers["dram"].delete(keys[:4])
        lease = await cache.acquire(keys)
        assert lease.found_by_tier() == {"dram": 3, "ssd": 5}
        assert lease.found_by_tier(held=5) == {"dram": 0, "ssd": 3}
        for first in range(8):
            for count in range(9 - first):
                into = np.empty((count, BLOCK_BYTES), np.uint8)
                assert await cache.read(lease, into, first) == count
                assert wrong_blocks(keys[first : first + count], into) == 0
        with pytest.raises(BlockStateError):
            await cache.read(lease, np.empty((2, BLOCK_BYTES), np.uint8), 7)
        cache.release(lease)
        with pytest.raises(BlockStateError):
            cache.release(lease)
        assert pinned(cache) == NOTHING_PINNED


async def test_a_request_may_load_all_but_its_last_block(tmp_path: Path) -> None:
    keys = prompt(*range(4))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
        lease = await cache.acquire(keys, reusable=3)
        assert len(lease) == 3
        cache.release(lease)
        stats = cache.stats().tiers["dram"]
        assert (stats.hit_blocks, stats.missed_blocks) == (3, 0)


async def test_only_new_blocks_need_to_be_given(tmp_path: Path) -> None:
    """An engine that reused a prefix has the bytes of the rest only."""
    keys = prompt(*range(6))
    new = the_bytes(keys[4:], BLOCK_BYTES)
    async with cache_in(tmp_path, 8, 8) as cache:
        await cache.store(keys, new, first=4)
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 0, "ssd": 0}, "nothing stands behind a gap"
        assert pinned(cache) == NOTHING_PINNED
        await store(cache, keys[:4])
        await cache.drain()
        await cache.store(keys, new, first=4)
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 6, "ssd": 6}
        assert await load(cache, keys) == 6
        await cache.tiers["ssd"].delete(keys[:1])
        await cache.store(keys, new, first=4)
        await cache.drain()
        assert await cache.lookup(keys) == {"dram": 6, "ssd": 6}, "DRAM had the others"
        with pytest.raises(BlockStateError, match="need 2 buffers"):
            await cache.store(keys, new[:1], first=4)


async def test_a_prompt_larger_than_dram_is_on_ssd_as_a_whole(tmp_path: Path) -> None:
    """DRAM cannot be what it is written from."""
    keys = prompt(*range(12))
    async with cache_in(tmp_path, 3, 16) as cache:
        await store(cache, keys)
        assert await cache.lookup(keys) == {"dram": 3, "ssd": 12}
        assert await load(cache, keys) == 12
        assert await cache.prefetch(keys) == 3
        assert pinned(cache) == NOTHING_PINNED


async def test_write_through_is_on_ssd_when_store_returns(tmp_path: Path) -> None:
    keys = prompt(*range(4))
    async with cache_in(tmp_path, 8, 8, write_through=True) as cache:
        await store(cache, keys)
        assert await cache.lookup(keys) == {"dram": 4, "ssd": 4}
        assert written_blocks(cache, "ssd") == 4


async def test_a_block_is_written_once(tmp_path: Path) -> None:
    keys = prompt(*range(4))
    async with cache_in(tmp_path, 8, 8) as cache:
        await asyncio.gather(*(store(cache, keys) for _ in range(5)))
        await store(cache, keys)
        await cache.drain()
        assert written_blocks(cache, "dram") == 4
        assert written_blocks(cache, "ssd") == 4


# Promotion.


@pytest.mark.parametrize("block_bytes", [2000, 300_000])
async def test_many_that_load_the_same_read_it_from_ssd_once(
    tmp_path: Path, block_bytes: int
) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 0, 8, block_bytes=block_bytes) as cache:
        await store(cache, keys)
        await cache.resize(dram=8 * (block_bytes + 4096))
        loads = [load(cache, keys[: 8 - n % 3]) for n in range(20)]
        assert await asyncio.gather(*loads) == [8 - n % 3 for n in range(20)]
        stats = cache.stats()
        assert stats.tiers["ssd"].read_bytes == 8 * block_bytes
        assert stats.promoted_blocks == 8
        assert await cache.lookup(keys) == {"dram": 8, "ssd": 8}
        assert pinned(cache) == NOTHING_PINNED


async def test_a_prefetched_prompt_is_read_from_dram(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 0, 8) as cache:
        await store(cache, keys)
        await cache.resize(dram=8 * 4096)
        assert await cache.prefetch([*keys, b"x" * 16]) == 8
        before = cache.stats().tiers["ssd"].read_bytes
        assert await load(cache, keys) == 8
        after = cache.stats().tiers
        assert after["ssd"].read_bytes == before
        assert after["ssd"].hit_blocks == after["dram"].hit_blocks == 8, "by the load alone"


async def test_a_load_need_not_promote(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 0, 8) as cache:
        await store(cache, keys)
        await cache.resize(dram=8 * 4096)
        assert await load(cache, keys, promote=False) == 8
        assert cache.stats().promoted_blocks == 0
        assert await cache.lookup(keys) == {"dram": 0, "ssd": 8}


async def test_promotion_waits_for_nobody_that_may_never_end(tmp_path: Path) -> None:
    """A prompt that is being stored in DRAM at the same time is read from SSD."""
    keys = prompt(*range(4))
    async with cache_in(tmp_path, 0, 8) as cache:
        await store(cache, keys)
        await cache.resize(dram=8 * 4096)
        writer = await cache.tiers["dram"].reserve(keys)
        assert await asyncio.wait_for(load(cache, keys), 10) == 4
        cache.tiers["dram"].abort(writer)
        assert pinned(cache) == NOTHING_PINNED


# Back-pressure and admission.


async def test_saves_beyond_the_queue_are_dropped_and_counted(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 64, 64, write_queue_bytes=5 * BLOCK_BYTES) as cache:
        for name in range(8):
            await store(cache, prompt(name, 1, 2, 3))
        stats = cache.stats()
        assert stats.waiting_bytes <= 5 * BLOCK_BYTES
        await cache.drain()
        stats = cache.stats()
        assert stats.waiting_bytes == 0
        assert stats.dropped_blocks > 0
        assert stats.dropped_blocks + written_blocks(cache, "ssd") == 32
        assert stats.tiers["dram"].blocks == 32, "DRAM has them all the same"
        await store(cache, prompt("after", 1, 2, 3))
        await cache.drain()
        assert written_blocks(cache, "ssd") == 36 - stats.dropped_blocks


async def test_a_store_that_is_not_to_be_saved_counts_as_dropped(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 64, 64) as cache:
        keys = prompt("none", 1)
        await cache.store(keys, the_bytes(keys, BLOCK_BYTES), save=False)
        assert await cache.lookup(keys) == {"dram": 2, "ssd": 0}
        assert cache.stats().dropped_blocks == 2


async def test_what_extends_a_prompt_that_still_waits_is_written_after_it(tmp_path: Path) -> None:
    keys = prompt(*range(12))
    async with cache_in(tmp_path, 64, 64) as cache:
        for stop in (3, 7, 7, 12):  # the third one has nothing that is new
            await store(cache, keys[:stop])
        stats = cache.stats()
        assert stats.tiers["ssd"].blocks == 3, "nothing was written yet"
        assert stats.waiting_bytes > 0
        await cache.drain()
        stats = cache.stats()
        assert await cache.lookup(keys) == {"dram": 12, "ssd": 12}
        assert (stats.dropped_blocks, stats.waiting_bytes) == (0, 0)
        assert written_blocks(cache, "ssd") == 12
        assert pinned(cache) == NOTHING_PINNED


async def test_what_would_follow_a_write_that_fails_is_dropped_with_it(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 64, 64) as cache:
        await store(cache, keys[:3])
        await store(cache, keys)
        await cache.resize(ssd=0)
        await cache.drain()
        stats = cache.stats()
        assert stats.dropped_blocks + written_blocks(cache, "ssd") == 8
        assert stats.dropped_blocks >= 5
        assert stats.waiting_bytes == 0
        assert pinned(cache) == NOTHING_PINNED


@pytest.mark.parametrize("dram_blocks", [64, None])
async def test_saves_that_get_no_room_are_counted(tmp_path: Path, dram_blocks: int | None) -> None:
    async with cache_in(tmp_path, dram_blocks, 8) as cache:
        await store(cache, prompt(*range(6)))
        await cache.drain()
        pin = await cache.pin(prompt(*range(6)))
        await store(cache, prompt("a", 1, 2, 3, 4))
        await cache.drain()
        stats = cache.stats()
        assert stats.tiers["ssd"].blocks == 8, "two were free"
        assert stats.dropped_blocks == 3
        await store(cache, prompt("b", 1))
        await cache.drain()
        cache.release(pin)
        stats = cache.stats()
        assert stats.dropped_blocks + written_blocks(cache, "ssd") == 6 + 5 + 2


async def test_what_waits_when_the_cache_is_closed_is_written(tmp_path: Path) -> None:
    prompts = [prompt(name, 1, 2, 3) for name in range(8)]
    async with cache_in(tmp_path, 64, 64) as cache:
        for keys in prompts:
            await store(cache, keys)
        assert cache.stats().waiting_bytes > 0
    async with cache_in(tmp_path, 64, 64) as cache:
        for keys in prompts:
            assert await load(cache, keys) == 4


async def test_what_is_not_worth_its_wear_is_declined_and_counted(tmp_path: Path) -> None:
    dear = Prices(compute_j=1.0, compute_j_per_depth=0.0, load_j=0.0, write_j=0.0, wear_j=1e12)
    learner = Learner(dear, endurance_per_s=0.0)
    directory = KeyDirectory()
    dram = DramTier(
        BLOCK_BYTES, 64 * 4096, directory=directory, index=TierIndex(0, learner=learner)
    )
    ssd = SsdTier(
        tmp_path, BLOCK_BYTES, 2**20, directory=directory, index=TierIndex(0, learner=learner)
    )
    async with TieredCache(dram, ssd, learner=learner) as cache:
        for name in range(4):
            keys = prompt(name, 1, 2)
            cache.release(await cache.acquire(keys))
            await store(cache, keys)
        await cache.drain()
        assert cache.stats().declined_blocks == 12
        assert written_blocks(cache, "ssd") == 0
        assert await load(cache, prompt(0, 1, 2)) == 3
        learner.prices = None
        await store(cache, prompt(5, 1, 2))
        await cache.drain()
        assert cache.stats().declined_blocks == 12
        assert written_blocks(cache, "ssd") == 3


# Tenants.

LAYOUT = KVLayout("made", "1", "fp16", (KVGroup(1, 1, 1),), block_tokens=2)
OTHER_LAYOUT = KVLayout("made", "2", "fp16", (KVGroup(1, 1, 1),), block_tokens=2)
tokens = st.lists(st.integers(0, 2), max_size=12)
salts = st.binary(max_size=3)


@given(data=st.data(), mine=tokens, yours=tokens)
@settings(max_examples=40)
def test_tenants_and_models_never_hit_each_other(
    data: st.DataObject, mine: list[int], yours: list[int]
) -> None:
    """However alike their prompts are, and whatever the salts."""
    a = data.draw(st.tuples(st.sampled_from([LAYOUT, OTHER_LAYOUT]), salts))
    b = data.draw(st.tuples(st.sampled_from([LAYOUT, OTHER_LAYOUT]), salts))

    async def ask() -> None:
        keys_a = block_keys(a[0], mine, tenant_salt=a[1])
        keys_b = block_keys(b[0], yours, tenant_salt=b[1])
        dram = DramTier(BLOCK_BYTES, 8 * 4096, prefault=False)
        async with TieredCache(dram, MinimalTier(BLOCK_BYTES, 8 * BLOCK_BYTES)) as cache:
            await store(cache, keys_a)
            await cache.drain()
            shared = 0
            while mine[: 2 * shared + 2] == yours[: 2 * shared + 2] and shared < len(keys_a):
                shared += 1
            expected = shared if a == b else 0
            assert await cache.lookup(keys_b) == {"dram": expected, "minimal": expected}
            assert await load(cache, keys_b) == expected

    asyncio.run(ask())


# Somebody else's tiers.


@pytest.mark.parametrize("which", ["dram", "ssd", "both"])
async def test_tiers_of_others_do_as_well(tmp_path: Path, which: str) -> None:
    """They have no index, and their bytes cannot be addressed."""
    room = 8 * BLOCK_BYTES
    dram = DramTier(BLOCK_BYTES, 8 * 4096) if which == "ssd" else MinimalTier(BLOCK_BYTES, room)
    ssd = MinimalTier(BLOCK_BYTES, room) if which != "dram" else SsdTier(tmp_path, BLOCK_BYTES, 0)
    if isinstance(ssd, SsdTier):
        ssd._capacity_bytes = ssd.bytes_for(8)
    else:
        ssd.name = "theirs"
    keys = prompt(*range(6))
    learner = Learner()
    async with TieredCache(dram, ssd, learner=learner) as cache:
        await store(cache, keys)
        await cache.drain()
        assert await cache.lookup(keys) == {dram.name: 6, ssd.name: 6}
        await dram.delete(keys[:3])
        loads = await asyncio.gather(*(load(cache, keys) for _ in range(5)))
        assert loads == [6] * 5
        stats = cache.stats()
        assert stats.promoted_blocks == 4
        assert stats.tiers[ssd.name].read_bytes == 4 * BLOCK_BYTES
        pin = await cache.pin(keys)
        await cache.resize(**{dram.name: 0, ssd.name: 0})
        into = np.empty((6, BLOCK_BYTES), np.uint8)
        assert await cache.read(pin, into) == 6
        assert wrong_blocks(keys, into) == 0
        cache.release(pin)
        assert await load(cache, keys) == 0
        await store(cache, keys)
        await cache.drain()
        assert await load(cache, keys) == 0
        assert all(tier.stats().used_bytes == 0 for tier in (dram, ssd))


# Opening, closing, sizes.


async def test_ssd_is_warm_when_a_cache_is_opened_again(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
    for call in (cache.lookup(keys), cache.acquire(keys), store(cache, keys)):
        with pytest.raises(TierClosedError):
            await call
    await cache.close()
    async with cache_in(tmp_path, 8, 8) as cache:
        assert await cache.lookup(keys) == {"dram": 0, "ssd": 6}
        assert await load(cache, keys) == 6
        assert await cache.lookup(keys) == {"dram": 6, "ssd": 6}


async def test_a_lease_of_a_closed_cache_can_only_be_released(tmp_path: Path) -> None:
    keys = prompt(*range(6))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
        lease = await cache.acquire(keys)
    with pytest.raises(TierClosedError):
        await cache.read(lease, np.empty((6, BLOCK_BYTES), np.uint8))
    cache.release(lease)


async def test_a_tier_that_cannot_be_opened_closes_the_others(tmp_path: Path) -> None:
    (tmp_path / "someone's.txt").write_text("mine")
    cache = cache_in(tmp_path, 8, 8)
    with pytest.raises(TierError, match=r"someone's\.txt|files"):
        async with cache:
            pass
    assert cache.dram is not None
    with pytest.raises(TierClosedError):
        await cache.dram.match(prompt("a"))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_tiers_are_resized_by_name(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 8, 8) as cache:
        await store(cache, keys)
        await cache.drain()
        with pytest.raises(UnknownNameError):
            await cache.resize(dram=0, disk=0)
        assert await cache.lookup(keys) == {"dram": 8, "ssd": 8}, "none was changed"
        lease = await cache.acquire(keys)
        left = await cache.resize(dram=2 * 4096, ssd=0)
        assert left == {"dram": 6 * 4096, "ssd": 8 * 4096}
        into = np.empty((8, BLOCK_BYTES), np.uint8)
        assert await cache.read(lease, into) == 8
        assert wrong_blocks(keys, into) == 0
        cache.release(lease)
        assert await cache.lookup(keys) == {"dram": 2, "ssd": 0}
        assert await check(cache.tiers["dram"], await cache.tiers["dram"].acquire(keys)) == 2


async def test_what_is_committed_is_flushed_now_and_then(tmp_path: Path) -> None:
    flushed = asyncio.Event()

    class Noting(MinimalTier):
        async def flush(self) -> None:
            flushed.set()

    async with TieredCache(Noting(BLOCK_BYTES, 0), flush_s=0.001):
        await asyncio.wait_for(flushed.wait(), 10)


# Forgetting.


async def test_blocks_forgotten_are_misses_and_never_others(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 6, 12, remembered_blocks=40) as cache:
        assert isinstance(cache.dram, DramTier)
        assert cache.directory is cache.dram.directory
        held = prompt("held", 1, 2)
        await store(cache, held)
        pin = await cache.pin(held)
        for name in range(60):
            await store(cache, prompt(name % 23, 1, 2, name % 2))
            await load(cache, prompt(name % 7, 1, 2, name % 2))
            assert len(cache.directory) <= 40 + 4
        assert cache.directory.ids < 60
        assert await load(cache, held) == 3
        cache.release(pin)
        await cache.drain()
        assert pinned(cache) == NOTHING_PINNED


async def test_under_carbon_what_was_asked_for_last_is_remembered(tmp_path: Path) -> None:
    learner = Learner(ranks=True)
    now_s = 0.0
    directory = KeyDirectory()
    index = TierIndex(0, "carbon", learner=learner)
    dram = DramTier(BLOCK_BYTES, 4 * 4096, directory=directory, index=index)
    cache = TieredCache(dram, learner=learner, remembered_blocks=24, clock=lambda: now_s)
    async with cache:
        for name in range(40):
            now_s = float(name)
            keys = prompt(name, 1)
            cache.release(await cache.acquire(keys))
            await store(cache, keys)
        asked_s = learner.last_asked_s(directory.find(prompt(39, 1)))
        assert asked_s.tolist() == [39.0, 39.0]
        known = learner.model.seen["accesses"][np.flatnonzero(directory.live_ids())]
        assert set(known.tolist()) == {1}, "nobody inherits what another block's id had"
        assert (directory.find(prompt(0, 1)) == -1).all()
        assert (learner.model.seen["last_s"][: directory.ids] >= 0).all()
        assert len(directory) <= 24 + 2


async def test_an_ssd_of_size_0_teaches_admission_nothing(tmp_path: Path) -> None:
    """As in the replay, which would otherwise write other blocks once the SSD grows again."""
    learner = Learner(Prices(1.0, 0.0, 0.1, 0.1, 1.0), endurance_per_s=1e-5)
    async with cache_in(tmp_path, 20, 0, learner=learner, flush_s=None) as cache:
        await store(cache, prompt(1, 2, 3))
        await cache.drain()
        assert not learner.storing.pace.any()
        assert not learner.model.seen["stored"].any()
        assert cache.stats().declined_blocks == 0
        await cache.resize(ssd=1 << 20)
        await store(cache, prompt(4, 5))
        await cache.drain()
        assert learner.model.seen["stored"].any()
