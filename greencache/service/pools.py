"""``Pools``: a cache for each size of block, which share the host's memory and disk.

Blocks of one model are of one size, so one pool is one model's, or several of equal shape. Pools in
use have equal parts of the capacities; when another size comes, all are resized while in use.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from greencache.blocks import KEY_BYTES
from greencache.errors import (
    GreenCacheError,
    InputError,
    RefusedError,
    TierError,
    UnknownNameError,
)
from greencache.quantities import format_bytes
from greencache.settings import RedisSettings
from greencache.tiers import DramTier, KeyDirectory, SsdTier, TieredCache
from greencache.tiers.configured import redis_tier
from greencache.tiers.files import filesystem_bytes
from greencache.tiers.memory import available_memory_bytes
from greencache.tiers.redis import RedisTier
from greencache.tiers.slots import SlotTier
from greencache.tiers.state import PINNED

__all__ = ["Pool", "PoolOptions", "Pools"]

_log = logging.getLogger("greencache.service")

LARGEST_BLOCK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What pools are made of.

    Attributes
    ----------
    dram_bytes, ssd_bytes:
        Capacities of all together.
    staging_bytes:
        DRAM that there is whatever it is resized to: blocks on SSD are read through it.
    ssd_dir:
        Folder of the pools' own folders; None for no SSD.
    policy:
        Eviction policy.
    prefault:
        Whether DRAM is taken from the system in the background.
    most:
        Pools at a time.
    redis:
        The server that hosts share, if one is set.
    """

    dram_bytes: int
    ssd_bytes: int = 0
    staging_bytes: int = 256 << 20
    ssd_dir: Path | None = None
    policy: str = "lru"
    prefault: bool = True
    most: int = 8
    redis: RedisSettings = field(default_factory=RedisSettings)

    def shared_tier(self, block_bytes: int) -> RedisTier | None:
        """What hosts share of blocks of a size; keys tell models and tenants apart.

        Raises
        ------
        InputError
            If its settings do not go together.
        """
        namespace = hashlib.sha256(f"blocks of {block_bytes} bytes".encode()).digest()[:KEY_BYTES]
        return redis_tier(self.redis, block_bytes, namespace)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Blocks of one size.

    Attributes
    ----------
    block_bytes:
        Their size.
    cache:
        What keeps them.
    dram:
        Its DRAM, which clients map.
    """

    block_bytes: int
    cache: TieredCache
    dram: DramTier

    def report(self) -> dict[str, Any]:
        """What it has, as plain values."""
        pinned = {
            name: int(tier.index.state.meta[PINNED])
            for name, tier in self.cache.tiers.items()
            if isinstance(tier, SlotTier)
        }
        stats = self.cache.stats().as_json()
        return {"block_bytes": self.block_bytes, **stats, "pinned_blocks": pinned}


def make_cache(block_bytes: int, dram_bytes: int, ssd_bytes: int, options: PoolOptions) -> Pool:
    """A pool that stores all it is given."""
    directory = KeyDirectory()
    dram = DramTier(
        block_bytes,
        dram_bytes,
        directory=directory,
        policy=options.policy,
        prefault=options.prefault,
    )
    ssd = None
    if options.ssd_dir is not None:
        path = options.ssd_dir / str(block_bytes)
        ssd = SsdTier(path, block_bytes, ssd_bytes, directory=directory, policy=options.policy)
    cache = TieredCache(dram, ssd, shared=options.shared_tier(block_bytes))
    return Pool(block_bytes, cache, dram)


class Pools:
    """All pools of a daemon, opened and closed by ``async with``.

    Parameters
    ----------
    options:
        What they are made of.
    make:
        Makes one, of (block_bytes, dram_bytes, ssd_bytes, options).
    """

    def __init__(
        self,
        options: PoolOptions,
        make: Callable[[int, int, int, PoolOptions], Pool] = make_cache,
    ) -> None:
        self._options, self.make = options, make
        self._pools: dict[int, Pool] = {}
        self._changing = asyncio.Lock()
        self._open = AsyncExitStack()
        self._refused: set[type[GreenCacheError]] = set()
        """Why pools could not be had since one could, as far as it was said."""

    def __iter__(self) -> Iterator[Pool]:
        return iter(list(self._pools.values()))

    def __len__(self) -> int:
        return len(self._pools)

    async def __aenter__(self) -> Pools:
        _check_memory(self._shares(1)[0])
        if self._options.ssd_dir is not None:
            await asyncio.to_thread(_check_disk, self._options.ssd_dir, self._options.ssd_bytes)
        self._options.shared_tier(1)  # so that a wrong setting is said before anybody comes
        if self._options.ssd_dir is not None:
            for size in await asyncio.to_thread(_sizes_in, self._options.ssd_dir):
                await self.get(size)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._pools.clear()
        await self._open.aclose()

    @property
    def tiers(self) -> list[str]:
        """Names of the tiers that each pool has."""
        return ["dram"] if self._options.ssd_dir is None else ["dram", "ssd"]

    @property
    def capacity_bytes(self) -> dict[str, int]:
        """What all pools together may hold."""
        sizes = {"dram": self._options.dram_bytes, "ssd": self._options.ssd_bytes}
        return {name: sizes[name] for name in self.tiers}

    async def get(self, block_bytes: int) -> Pool:
        """The pool of a size, made if there is none yet.

        Raises
        ------
        RefusedError
            If there is no room for blocks of this size, or for another pool.
        TierError
            If its memory or files cannot be used.
        """
        if (found := self._pools.get(block_bytes)) is not None:
            return found
        async with self._changing:
            if block_bytes not in self._pools:
                try:
                    await self._add(block_bytes)
                except GreenCacheError as fault:
                    self._say_refused(block_bytes, fault)
                    raise
                self._refused.clear()
            return self._pools[block_bytes]

    def _say_refused(self, block_bytes: int, fault: GreenCacheError) -> None:
        """Say it once: whoever is refused tries again and again."""
        if type(fault) not in self._refused:
            self._refused.add(type(fault))
            _log.warning("no pool for blocks of %d bytes: %s", block_bytes, fault)

    async def _add(self, block_bytes: int) -> None:
        count = len(self._pools) + 1
        if count > self._options.most:
            sizes = ", ".join(map(str, sorted(self._pools)))
            raise RefusedError(
                f"blocks of {self._options.most} sizes are stored here already ({sizes} bytes);"
                " this is another size"
            )
        dram, ssd = self._shares(count)
        if not 0 < block_bytes <= min(LARGEST_BLOCK_BYTES, dram):
            raise RefusedError(
                f"a block of {block_bytes:,} bytes does not fit into a pool of {format_bytes(dram)}"
            )
        await self._resize_all(dram, ssd)
        try:
            pool = self.make(block_bytes, dram, ssd, self._options)
            await self._open.enter_async_context(pool.cache)
        except BaseException:
            await self._resize_all(*self._shares(count - 1))
            raise
        self._pools[block_bytes] = pool
        _log.info("blocks of %d bytes: a pool of their own, of %d", block_bytes, count)

    def _shares(self, count: int) -> tuple[int, int]:
        """DRAM and SSD of each of so many pools."""
        options, count = self._options, max(1, count)
        return max(options.dram_bytes, options.staging_bytes) // count, options.ssd_bytes // count

    async def _resize_all(self, dram: int, ssd: int) -> dict[str, int]:
        over = dict.fromkeys(self.tiers, 0)
        sizes = {name: size for name, size in (("dram", dram), ("ssd", ssd)) if name in over}
        for pool in self:
            for name, left in (await pool.cache.resize(**sizes)).items():
                over[name] += left
        return over

    async def resize(self, **capacity_bytes: int) -> dict[str, int]:
        """Change what all pools together may hold, in equal parts.

        Returns
        -------
        dict
            For each tier that was named, bytes still to be given back once leases end.

        Raises
        ------
        InputError
            If there is no such tier, or a capacity is negative or more than the disk has.
        TierError
            If a capacity cannot be had; all are as before.
        """
        for name, size in capacity_bytes.items():
            if name not in self.tiers:
                raise UnknownNameError("tier", name, self.tiers)
            if size < 0:
                raise InputError(f"a capacity is 0 bytes or more, not {size}")
        async with self._changing:
            before = self._options
            if before.ssd_dir is not None and "ssd" in capacity_bytes:
                await asyncio.to_thread(_check_disk, before.ssd_dir, capacity_bytes["ssd"])
            if not self._pools:  # which would say it themselves
                _check_memory(capacity_bytes.get("dram", 0))
            self._options = replace(
                before,
                dram_bytes=capacity_bytes.get("dram", before.dram_bytes),
                ssd_bytes=capacity_bytes.get("ssd", before.ssd_bytes),
            )
            try:
                over = await self._resize_all(*self._shares(len(self)))
            except BaseException:
                self._options = before  # and pools that were resized are as before
                await self._resize_all(*self._shares(len(self)))
                raise
        return {name: over[name] for name in capacity_bytes}

    def small(self) -> Pool:
        """A pool like these, but apart, in DRAM alone, and with room for eight blocks of 4 KiB."""
        options = replace(self._options, ssd_dir=None, redis=RedisSettings(), prefault=False)
        return self.make(4096, 8 * 4096, 0, options)

    async def flush(self) -> None:
        """Write what waits, and make it outlast a loss of power."""
        for pool in self:
            await pool.cache.flush()


def _check_memory(dram_bytes: int) -> None:
    available = available_memory_bytes()
    if dram_bytes > available:
        raise TierError(
            f"there is less memory than the {format_bytes(dram_bytes)} of DRAM for KV:"
            f" {format_bytes(available)} is available; choose less"
        )


def _check_disk(folder: Path, ssd_bytes: int) -> None:
    try:
        whole_bytes = filesystem_bytes(folder)
    except OSError as fault:
        raise _unusable(folder, fault) from None
    if ssd_bytes > whole_bytes > 0:  # some that are mounted by FUSE do not say
        raise InputError(
            f"the disk of {folder} is smaller than the {format_bytes(ssd_bytes)} of SSD for KV:"
            f" it has {format_bytes(whole_bytes)} in all; choose less, or another disk"
        )


def _unusable(folder: Path, fault: OSError) -> TierError:
    reason = "it is no folder" if isinstance(fault, FileExistsError) else fault.strerror
    return TierError(
        f"cannot use {folder} for SSD: {reason}; name a folder that can be made and written to"
    )


def _sizes_in(folder: Path) -> list[int]:
    """Sizes of blocks that an earlier run stored."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = [path.name for path in folder.iterdir()]
    except OSError as fault:
        raise _unusable(folder, fault) from None
    return sorted(int(name) for name in names if name.isdecimal() and int(name))
