"""A cache for each size of block, and how they share memory and disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.errors import InputError, RefusedError, TierError
from greencache.service.pools import PoolOptions, Pools
from greencache.tiers import TieredCache
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks

MIB = 1 << 20


def options(path: Path | None, **changes: Any) -> PoolOptions:
    usual = PoolOptions(8 * MIB, 32 * MIB, staging_bytes=MIB, ssd_dir=path, prefault=False)
    return replace(usual, **changes)


def capacities(pools: Pools, tier: str) -> list[int]:
    return [pool.cache.stats().tiers[tier].capacity_bytes for pool in pools]


async def store(cache: TieredCache, *names: object) -> None:
    keys = prompt(*names)
    await cache.store(keys, the_bytes(keys, cache.block_bytes))


async def load(cache: TieredCache, *names: object) -> int:
    keys = prompt(*names)
    into = np.empty((len(keys), cache.block_bytes), np.uint8)
    good = await cache.load(keys, into)
    assert wrong_blocks(keys[:good], into[:good]) == 0
    return good


async def test_each_size_has_its_part_and_its_own_blocks(tmp_path: Path) -> None:
    async with Pools(options(tmp_path / "ssd")) as pools:
        small = await pools.get(4096)
        assert await pools.get(4096) is small
        assert capacities(pools, "dram") == [8 * MIB]
        await store(small.cache, *range(10))
        large = await pools.get(3 * 4096)
        assert capacities(pools, "dram") == [4 * MIB] * 2
        assert capacities(pools, "ssd") == [16 * MIB] * 2
        assert await load(large.cache, *range(10)) == 0, "keys of one size mean nothing in another"
        await store(large.cache, *range(10))
        assert await load(small.cache, *range(10)) == await load(large.cache, *range(10)) == 10
        assert await pools.resize(dram=2 * MIB) == {"dram": 0}
        assert capacities(pools, "dram") == [MIB] * 2
        assert capacities(pools, "ssd") == [16 * MIB] * 2
        assert pools.capacity_bytes == {"dram": 2 * MIB, "ssd": 32 * MIB}


async def test_what_is_on_disk_is_found_again_by_its_size(tmp_path: Path) -> None:
    async with Pools(options(tmp_path / "ssd")) as pools:
        for size in (4096, 8192):
            await store((await pools.get(size)).cache, size, 1, 2)
    (tmp_path / "ssd" / "not a size").mkdir()
    async with Pools(options(tmp_path / "ssd")) as pools:
        assert sorted(pool.block_bytes for pool in pools) == [4096, 8192]
        for pool in pools:
            assert await load(pool.cache, pool.block_bytes, 1, 2) == 3


async def test_there_is_always_memory_to_read_the_disk_through(tmp_path: Path) -> None:
    async with Pools(options(tmp_path / "ssd", dram_bytes=0)) as pools:
        pool = await pools.get(4096)
        assert capacities(pools, "dram") == [MIB]
        await store(pool.cache, *range(5))
        await pool.cache.drain()
        await pool.dram.delete(prompt(0))
        assert await load(pool.cache, *range(5)) == 5
        assert await pools.resize(dram=0) == {"dram": 0}
        assert capacities(pools, "dram") == [MIB]


async def test_sizes_that_do_not_fit_are_refused_and_change_nothing() -> None:
    async with Pools(options(None, most=2)) as pools:
        for size in (0, -1, 9 * MIB, 1 << 62):
            with pytest.raises(RefusedError, match="does not fit"):
                await pools.get(size)
        await pools.get(4096)
        assert pools.tiers == ["dram"]
        with pytest.raises(RefusedError, match="does not fit"):
            await pools.get(5 * MIB)
        assert capacities(pools, "dram") == [8 * MIB]
        await pools.get(8192)
        with pytest.raises(RefusedError, match="2 sizes are stored here already"):
            await pools.get(12288)
        assert capacities(pools, "dram") == [4 * MIB] * 2


async def test_a_resize_that_cannot_be_had_changes_nothing() -> None:
    async with Pools(options(None)) as pools:
        for size in (4096, 8192):
            await pools.get(size)
        with pytest.raises(InputError, match="unknown tier 'ssd'"):
            await pools.resize(ssd=1)
        with pytest.raises(InputError, match="0 bytes or more"):
            await pools.resize(dram=-1)
        with pytest.raises(TierError, match="choose less"):
            await pools.resize(dram=1 << 60)
        assert capacities(pools, "dram") == [4 * MIB] * 2
        assert pools.capacity_bytes == {"dram": 8 * MIB}


async def test_a_pool_that_cannot_be_opened_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "ssd"
    async with Pools(options(folder)) as pools:
        await pools.get(4096)
        (folder / "8192").mkdir()
        (folder / "8192" / "somebody's").touch()
        with pytest.raises(TierError):
            await pools.get(8192)
        assert capacities(pools, "dram") == [8 * MIB]
        await store((await pools.get(4096)).cache, 1)


async def test_a_disk_that_is_too_small_is_said_before_anybody_comes(tmp_path: Path) -> None:
    folder = tmp_path / "ssd"
    with pytest.raises(InputError, match="in all; choose less, or another disk"):
        await Pools(options(folder, ssd_bytes=500 << 50)).__aenter__()
    assert not folder.exists()


async def test_before_the_first_pool_a_resize_is_checked_too(tmp_path: Path) -> None:
    async with Pools(options(tmp_path / "ssd")) as pools:
        before = pools.capacity_bytes
        with pytest.raises(TierError, match="is available; choose less"):
            await pools.resize(dram=1 << 60)
        with pytest.raises(InputError, match="in all; choose less, or another disk"):
            await pools.resize(ssd=1 << 60)
        assert pools.capacity_bytes == before
        await pools.get(4096)
        with pytest.raises(InputError, match="in all; choose less, or another disk"):
            await pools.resize(ssd=1 << 60)
        assert pools.capacity_bytes == before


async def test_the_log_says_once_why_there_is_no_pool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "ssd"
    async with Pools(options(folder)) as pools:
        (folder / "4096").mkdir()
        (folder / "4096" / "somebody's").touch()

        async def refused() -> list[str]:
            caplog.clear()
            for _ in range(3):
                with pytest.raises(TierError):
                    await pools.get(4096)
            return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]

        (line,) = await refused()
        assert line.startswith(f"no pool for blocks of 4096 bytes: cannot use {folder}")
        assert await refused() == []
        await pools.get(8192)
        assert len(await refused()) == 1, "it is said again once a pool could be had"


@pytest.mark.parametrize(
    ("folder", "reason"), [("/proc/x", "No such file"), ("/etc/hostname", "it is no folder")]
)
async def test_a_folder_that_cannot_be_made_is_named(folder: str, reason: str) -> None:
    with pytest.raises(TierError, match=f"cannot use {folder} for SSD: {reason}"):
        await Pools(options(Path(folder), ssd_bytes=0)).__aenter__()
