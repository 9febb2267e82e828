"""What goes wrong beneath a cache or around it: misses for the engine, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.errors import InputError, StorageError, TierError
from greencache.tiers import DramTier, SsdTier, TieredCache
from greencache.tiers.base import Blocks, TierLease, TierReservation
from tests.conformance.minimal import MinimalTier
from tests.conformance.prompts import prompt, the_bytes
from tests.tiers.caches import BLOCK_BYTES, cache_in, load, pinned, store
from tests.tiers.disks import failing
from tests.tiers.scarce import few_threads, our_threads
from tests.tiers.test_ssd import Disks

NOTHING_PINNED = {"dram": 0, "ssd": 0}


def failing_cache(path: Path, dram: int | None = 8) -> tuple[TieredCache, Disks]:
    """A cache on a disk that can be made to fail."""
    disks = Disks()
    return cache_in(path, dram, 64, ssd_options={"open_files": disks}), disks


async def soon(steps: Awaitable[Any]) -> Any:
    """Await something that must not hang."""
    return await asyncio.wait_for(steps, 30)


# A disk that fails.


@pytest.mark.parametrize("dram", [8, None])
async def test_what_cannot_be_read_is_a_miss(tmp_path: Path, dram: int | None) -> None:
    cache, disks = failing_cache(tmp_path, dram)
    keys = prompt(*range(6))
    async with cache:
        await store(cache, keys)
        await cache.drain()
        if dram:
            await cache.tiers["dram"].delete(keys[:1])
        disks.disk.fault = failing("read", "extent-")
        assert await soon(load(cache, keys)) == 0
        assert await soon(cache.prefetch(keys)) == 0
        assert cache.stats().tiers["ssd"].failures["read"] > 0
        assert set(pinned(cache).values()) == {0}
        assert (await cache.lookup(keys))["ssd"] == 0, "it is asked for no more"
        disks.disk.fault = lambda *_: None
        await store(cache, keys)
        await cache.drain()
        assert await load(cache, keys) == 6


async def test_a_prompt_that_names_a_block_twice_holds_nobody_up(tmp_path: Path) -> None:
    keys = prompt(*range(3))
    async with cache_in(tmp_path, 8, 16) as cache:
        await store(cache, keys)
        await cache.drain()
        await cache.tiers["dram"].delete(keys[:1])
        with pytest.raises(InputError, match="twice"):
            await soon(cache.prefetch([keys[0], keys[1], keys[0], keys[2]]))
        assert await soon(cache.prefetch(keys)) == 3


@pytest.mark.parametrize("threads", [1, 5, 12])
async def test_a_tier_without_threads_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Threads that were started as they are needed would fail in the midst of a write."""
    before = our_threads()
    few_threads(monkeypatch, threads)
    cache = cache_in(tmp_path, None, 16)
    with pytest.raises(TierError, match="no threads"):
        await cache.__aenter__()
    assert our_threads() <= before
    monkeypatch.undo()
    async with cache_in(tmp_path, None, 16) as again:
        await store(again, prompt(1))


async def test_one_block_that_cannot_be_read_loses_what_builds_on_it(tmp_path: Path) -> None:
    cache, disks = failing_cache(tmp_path, 8)
    keys = prompt(*range(6))
    async with cache:
        await store(cache, keys)
        await cache.drain()
        await cache.tiers["dram"].delete(keys[:3])
        slots = 16 * BLOCK_BYTES // 4096  # to a file
        bad = cache.tiers[
            "ssd"
        ].index.slot_of(  # type: ignore[attr-defined]
            int(cache.directory.find(keys[4:5])[0])
        )
        offset = bad % slots * 4096
        extent = f"extent-{bad // slots:06d}"
        disks.disk.fault = lambda does, name, where: (
            errno.EIO if does == "read" and offset in where and extent in name else None
        )
        several = await soon(asyncio.gather(*(load(cache, keys) for _ in range(4))))
        assert all(2 <= good <= 4 for good in several)
        assert set(pinned(cache).values()) == {0}


@pytest.mark.parametrize(
    ("doing", "name", "number"),
    [
        ("write", "extent-", errno.EIO),
        ("write", "", errno.EIO),
        ("allocate", "extent-", errno.ENOSPC),
        ("write", "extent-", errno.ENOSPC),
        ("open", "extent-", errno.EMFILE),
    ],
)
@pytest.mark.parametrize("dram", [8, 2, None])
async def test_what_cannot_be_written_is_dropped(
    tmp_path: Path, doing: str, name: str, number: int, dram: int | None
) -> None:
    """From DRAM, or from the caller's buffers; and the next one goes on as if nothing was."""
    cache, disks = failing_cache(tmp_path, dram)
    keys = prompt(*range(6))
    async with cache:
        disks.disk.fault = failing(doing, name, number)
        for n in range(3):
            await soon(store(cache, prompt("lost", n, 1, 2)))
            await soon(cache.drain())
        stats = cache.stats()
        failures = stats.tiers["ssd"].failures
        assert failures.total() == 3
        assert stats.dropped_blocks == 12
        assert stats.waiting_bytes == 0
        assert set(pinned(cache).values()) == {0}
        assert (await cache.lookup(prompt("lost", 0, 1, 2)))["ssd"] == 0
        disks.disk.fault = lambda *_: None
        await store(cache, keys)
        await cache.drain()
        assert (await cache.lookup(keys))["ssd"] == 6
        assert await load(cache, keys) == 6


async def test_a_record_that_cannot_be_written_is_a_store_dropped(tmp_path: Path) -> None:
    cache, disks = failing_cache(tmp_path)
    async with cache:
        disks.disk.fault = failing("write", "manifest")
        await soon(store(cache, prompt("lost", 1)))
        await soon(cache.drain())
        assert cache.stats().tiers["ssd"].failures.total() > 0
        assert await cache.lookup(prompt("lost", 1)) == {"dram": 2, "ssd": 0}
        assert pinned(cache) == NOTHING_PINNED
        disks.disk.fault = lambda *_: None


async def test_a_disk_that_cannot_be_flushed_is_tried_again(tmp_path: Path) -> None:
    disks = Disks()
    cache = cache_in(tmp_path, 8, 8, flush_s=0.001, ssd_options={"open_files": disks})
    async with cache:
        disks.disk.fault = failing("sync")
        await store(cache, prompt("a"))
        await asyncio.sleep(0.02)
        with pytest.raises(StorageError):
            await cache.flush()
        disks.disk.fault = lambda *_: None
        await asyncio.sleep(0.02)
        assert await load(cache, prompt("a")) == 1


async def test_a_tier_that_breaks_down_while_writing_stops_nothing(tmp_path: Path) -> None:
    """Somebody else's tier raises what it should not: later saves are written all the same."""

    class Broken(MinimalTier):
        name = "broken"
        breaks = True

        async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
            if self.breaks:
                raise ZeroDivisionError("nobody knows why")
            return await super().write(reservation, blocks)

    broken = Broken(BLOCK_BYTES, 16 * BLOCK_BYTES)
    async with TieredCache(DramTier(BLOCK_BYTES, 16 * 4096), broken) as cache:
        await store(cache, prompt("a", "b"))
        await soon(cache.drain())
        assert cache.stats().dropped_blocks == 2
        broken.breaks = False
        await store(cache, prompt("c", "d"))
        await soon(cache.drain())
        assert await cache.lookup(prompt("c", "d")) == {"dram": 2, "minimal": 2}


async def test_a_tier_that_fails_a_request_leaves_no_lease_in_another(tmp_path: Path) -> None:
    class Failing(MinimalTier):
        async def acquire(self, keys: Any) -> TierLease:
            raise TierError("not now")

    keys = prompt("a", "b")
    async with TieredCache(DramTier(BLOCK_BYTES, 16 * 4096), Failing(BLOCK_BYTES, 0)) as cache:
        await store(cache, keys)
        for asked in (cache.acquire, cache.pin):
            with pytest.raises(TierError):
                await asked(keys)
        assert pinned(cache) == {"dram": 0}


async def test_buffers_of_another_size_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    keys = prompt("a", "b")
    async with cache_in(tmp_path, 8, 8) as cache:
        with pytest.raises(InputError):
            await cache.store(keys, np.zeros((2, BLOCK_BYTES - 1), np.uint8))
        assert pinned(cache) == NOTHING_PINNED
        await store(cache, keys)
        with pytest.raises(InputError):
            await cache.load(keys, np.zeros((2, BLOCK_BYTES - 1), np.uint8))
        await cache.drain()
        assert pinned(cache) == NOTHING_PINNED


async def test_a_cache_whose_last_flush_fails_is_closed_all_the_same(tmp_path: Path) -> None:
    cache, disks = failing_cache(tmp_path)
    keys = prompt("a", "b")
    await cache.__aenter__()
    await store(cache, keys)
    await cache.drain()
    disks.disk.fault = failing("sync")
    with pytest.raises(StorageError):
        await cache.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with cache_in(tmp_path, 8, 64) as again:
        assert await load(again, keys) == 2


class Stuck(MinimalTier):
    """A tier that never ends a write."""

    def __init__(self, name: str) -> None:
        super().__init__(BLOCK_BYTES, 64 * BLOCK_BYTES)
        self.name = name

    async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
        await asyncio.get_running_loop().create_future()
        return False


@pytest.mark.parametrize("yields", [0, 3])
async def test_a_cache_whose_worker_was_cancelled_is_closed_and_counts_what_is_lost(
    yields: int,
) -> None:
    """As ``asyncio.run`` cancels all tasks at its end; some may not even have begun."""
    ssd, shared = Stuck("ssd"), Stuck("shared")
    dram = DramTier(BLOCK_BYTES, 64 * 4096)
    mine = asyncio.current_task()
    async with TieredCache(dram, ssd, shared=shared, flush_s=None) as cache:
        for number in range(3):
            await store(cache, prompt(number, 1))
        waiting = asyncio.ensure_future(cache.drain())
        for _ in range(yields):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {mine, waiting}:
            task.cancel()
        await soon(waiting)
        stats = cache.stats()
        assert (stats.dropped_blocks, stats.unshared_blocks) == (6, 6)
        assert (stats.waiting_bytes, stats.sharing_bytes) == (0, 0)
        assert pinned(cache) == {"dram": 0}
        assert not ssd.held
        assert not shared.held
        room = await cache.reserve(prompt("late"))
        dram.reserved(room.part)
        await cache.commit(room)
        await soon(cache.drain())
        stats = cache.stats()
        assert (stats.dropped_blocks, stats.unshared_blocks) == (7, 7)
        assert (stats.waiting_bytes, stats.sharing_bytes) == (0, 0)
        assert pinned(cache) == {"dram": 0}
        await soon(cache.close())


@pytest.mark.parametrize("through", [True, False])
async def test_commits_that_an_ssd_cannot_keep_up_with_are_dropped(through: bool) -> None:
    """And what waits is told of, also if each waits for its turn to be written at once."""
    dram = DramTier(BLOCK_BYTES, 64 * 4096)
    limit_bytes = 4 * BLOCK_BYTES
    mine = asyncio.current_task()
    async with TieredCache(
        dram, Stuck("ssd"), write_queue_bytes=limit_bytes, write_through=through
    ) as cache:
        for number in range(10):
            room = await cache.reserve(prompt(number))
            dram.reserved(room.part)
            await cache.commit(room)
            for _ in range(6):  # each of the loop's turns
                await asyncio.sleep(0)
                assert cache.stats().waiting_bytes == min(number + 1, 4) * BLOCK_BYTES
            stats = cache.stats()
            assert stats.dropped_blocks == max(0, number + 1 - 4)
        assert pinned(cache) == {"dram": 4}
        for task in asyncio.all_tasks() - {mine}:
            task.cancel()
        await soon(cache.drain())
        stats = cache.stats()
        assert (stats.dropped_blocks, stats.waiting_bytes) == (10, 0)
        assert pinned(cache) == {"dram": 0}


async def test_what_had_no_room_is_dropped_once_though_its_writer_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, first, second = SsdTier._write_slots, asyncio.Event(), asyncio.Event()

    async def writing(tier: SsdTier, room: TierReservation, blocks: Blocks) -> None:
        await (second if first.is_set() else first).wait()
        await write(tier, room, blocks)

    monkeypatch.setattr(SsdTier, "_write_slots", writing)
    async with cache_in(tmp_path, 64, 6, flush_s=None) as cache:
        keys = prompt(*range(9))
        await store(cache, keys[:4])
        await store(cache, keys)  # follows that, and there is room for two of its blocks
        await asyncio.sleep(0)
        first.set()
        while cache.stats().waiting_bytes != (len(keys) - 4) * BLOCK_BYTES:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        cache._tasks[0].cancel()
        await soon(cache.drain())
        second.set()
        assert cache.stats().dropped_blocks == len(keys) - 4
        assert (await cache.lookup(keys))["ssd"] == 4


# Requests that are given up.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_bytes", [2000, 300_000])
async def test_requests_given_up_at_any_moment_leave_nothing_behind(
    tmp_path: Path, seed: int, block_bytes: int
) -> None:
    rng = random.Random(seed)
    prompts = [prompt(n % 3, *range(rng.randint(1, 5)), n) for n in range(24)]
    cache = cache_in(tmp_path, 8, 12, block_bytes=block_bytes)
    asks: list[Callable[[list[bytes]], Awaitable[Any]]] = [
        lambda keys: store(cache, keys),
        lambda keys: load(cache, keys),
        lambda keys: load(cache, keys, promote=False),
        lambda keys: cache.prefetch(keys),
        lambda keys: cache.flush(),
    ]
    async with cache:
        for _ in range(6):
            work = [asyncio.ensure_future(rng.choice(asks)(rng.choice(prompts))) for _ in range(12)]
            for task in work:
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.choice([0, 0, 0.0003, 0.002]))
                if rng.random() < 0.7:
                    task.cancel()
            ends = await soon(asyncio.gather(*work, return_exceptions=True))
            assert not [end for end in ends if isinstance(end, Exception)]
        await soon(cache.drain())
        assert pinned(cache) == NOTHING_PINNED
        stats = cache.stats()
        assert stats.waiting_bytes == 0
        assert not stats.tiers["ssd"].failures
        keys = prompts[0]
        await store(cache, keys)
        assert await load(cache, keys) == len(keys)


async def test_buffers_are_the_callers_again_when_a_load_is_given_up(tmp_path: Path) -> None:
    """DRAM has a part and SSD the rest; whoever was cancelled may fill them with something else."""
    block_bytes = 400_000
    keys = prompt(*range(16))
    async with cache_in(tmp_path, 16, 16, block_bytes=block_bytes) as cache:
        await store(cache, keys)
        await cache.drain()
        into = np.zeros((16, block_bytes), np.uint8)
        for yields in range(12):
            await cache.tiers["dram"].delete(keys[:1])
            await store_in_dram(cache, keys[:1])
            task = asyncio.ensure_future(cache.load(keys, into, promote=False))
            for _ in range(yields):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            into[:] = 0
            await asyncio.sleep(0.005)
            assert not into.any()
        assert pinned(cache) == NOTHING_PINNED


async def store_in_dram(cache: TieredCache, keys: list[bytes]) -> None:
    assert cache.dram is not None
    room = await cache.dram.reserve(keys)
    assert await cache.dram.write(room, the_bytes(keys, cache.block_bytes))
    await cache.dram.commit(room)


async def test_whoever_waits_for_a_promotion_that_is_given_up_goes_on(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    async with cache_in(tmp_path, 0, 8, block_bytes=100_000) as cache:
        await store(cache, keys)
        await cache.resize(dram=2**20)
        for yields in range(8):
            first = asyncio.ensure_future(load(cache, keys))
            others = [asyncio.ensure_future(load(cache, keys)) for _ in range(4)]
            for _ in range(yields):
                await asyncio.sleep(0)
            first.cancel()
            assert await soon(asyncio.gather(*others)) == [8] * 4
            await asyncio.wait([first])
            assert pinned(cache) == NOTHING_PINNED
            await cache.tiers["dram"].delete(keys[:1])


async def test_a_close_that_is_given_up_closes_all_the_same(tmp_path: Path) -> None:
    keys = prompt(*range(8))
    cache = cache_in(tmp_path, 8, 8, block_bytes=300_000)
    await cache.__aenter__()
    await store(cache, keys)
    closing = asyncio.ensure_future(cache.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(asyncio.shield(closing))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with cache_in(tmp_path, 8, 8, block_bytes=300_000) as again:
        assert await load(again, keys) in (0, 8)
