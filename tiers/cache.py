"""``TieredCache``: DRAM, SSD and a tier that hosts share as one cache of KV blocks.

What it does with a request is what the replay's engines do (`greencache.bench.occupancy`), with
the same index, policies and admission: `acquire` when the request starts, `read` what was found,
`store` when its prompt is computed, `release`. Blocks are inserted into DRAM at once and written to
SSD behind, as far as admission finds them worth it. What a hit found on SSD alone gets into DRAM
with the rest of its prompt by `store`, or before that by `prefetch` and `load`, which read a block
once however many ask for it.

A shared tier comes last: it is asked only for what the others lack, written to behind both of them,
and what it has alone gets into DRAM just as from SSD. It may be slow or gone: that costs a request
the tier's deadline at the most, and is a miss.

The engine comes first: a store that cannot keep up drops saves, and what fails is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from greencache.errors import BlockStateError, InputError, UnknownNameError
from greencache.tiers.base import Blocks, Tier
from greencache.tiers.behind import WriteBehind, insert
from greencache.tiers.cache_lease import CacheLease, CacheReservation, lease_each
from greencache.tiers.cache_stats import CacheStats
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.forgetting import Remembered
from greencache.tiers.index import TierIndex
from greencache.tiers.learning import Learner
from greencache.tiers.promotion import Promoter
from greencache.tiers.sharing import SharedWrites
from greencache.tiers.slots import SlotTier
from greencache.tiers.state import TierState
from greencache.tiers.workers import together
from greencache.waiting import stopped

__all__ = ["CacheLease", "CacheReservation", "TieredCache"]

WRITE_QUEUE_BYTES = 1 << 30
"""What may wait to be written to SSD, if nothing else is said: it stays leased in DRAM until then.
A drive of today takes it in a fraction of a second."""

FLUSH_S = 5.0
"""What is committed outlasts a loss of power after this long, if nothing else is said."""

_log = logging.getLogger("greencache.tiers")


class TieredCache:
    """A cache over DRAM, SSD and a shared tier, of which any may be missing but not all.

    Parameters
    ----------
    dram, ssd:
        The tiers, opened and closed with the cache. Tiers of slots share a directory.
    shared:
        A tier that other hosts use too: `greencache.tiers.redis.RedisTier`.
    learner:
        What decides about storing on SSD, and under ``carbon`` about eviction, if anything does:
        without one all that is computed is stored. The tiers' indexes follow the same one.
    hbm:
        The engine's own prefix cache, if it is mirrored: only what it does not have is worth
        storing.
    write_queue_bytes:
        What may wait to be written to SSD; saves beyond are dropped.
    share_queue_bytes:
        The same for the shared tier.
    write_through:
        Whether `store` waits until the SSD has what it is given. Otherwise it is written behind,
        from DRAM where DRAM has it.
    flush_s:
        How often everything committed is made to outlast a loss of power; None for when it is asked
        for, and on closing.
    remembered_blocks:
        Blocks that are known at the most, held or not; by default a fifth more than the tiers have,
        and 65,536 at the least.
    clock:
        Seconds that do not go back: that of the tiers.

    Examples
    --------
    >>> import asyncio, numpy as np
    >>> from greencache.tiers import DramTier, TieredCache
    >>> async def main():
    ...     dram = DramTier(block_bytes=4096, capacity_bytes=1 << 20)
    ...     async with TieredCache(dram) as cache:
    ...         keys = [bytes([i]) * 16 for i in range(3)]
    ...         await cache.store(keys, np.full((3, 4096), 7, np.uint8))
    ...         into = np.empty((3, 4096), np.uint8)
    ...         return await cache.load(keys, into), int(into[2, 0])
    >>> asyncio.run(main())
    (3, 7)
    """

    def __init__(
        self,
        dram: Tier | None = None,
        ssd: Tier | None = None,
        *,
        shared: Tier | None = None,
        learner: Learner | None = None,
        hbm: TierIndex | None = None,
        write_queue_bytes: int = WRITE_QUEUE_BYTES,
        share_queue_bytes: int = WRITE_QUEUE_BYTES,
        write_through: bool = False,
        flush_s: float | None = FLUSH_S,
        remembered_blocks: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dram, self.ssd, self.shared = dram, ssd, shared
        given = [tier for tier in (dram, ssd, shared) if tier is not None]
        self.tiers = {tier.name: tier for tier in given}
        if not given:
            raise InputError("a cache needs a tier")
        if len(self.tiers) < len(given):
            names = ", ".join(tier.name for tier in given)
            raise InputError(f"tiers of a cache have names of their own, not {names}")
        self.block_bytes = next(iter(self.tiers.values())).block_bytes
        if any(tier.block_bytes != self.block_bytes for tier in self.tiers.values()):
            raise InputError("all tiers of a cache have blocks of the same size")
        self._slotted = [tier for tier in self.tiers.values() if isinstance(tier, SlotTier)]
        self.directory = self._slotted[0].directory if self._slotted else KeyDirectory()
        if any(tier.directory is not self.directory for tier in self._slotted):
            raise InputError("all tiers of a cache share one KeyDirectory")
        self.learner, self._hbm = learner, hbm
        self._clock, self._flush_s = clock, flush_s
        indexes = [tier.index for tier in self._slotted] + ([hbm] if hbm is not None else [])
        self._remembered = Remembered(self.directory, indexes, learner, remembered_blocks)
        self._behind: WriteBehind | None = None
        self._sharing = SharedWrites(shared, dram, share_queue_bytes) if shared else None
        self._promoters = {
            tier.name: Promoter(tier, dram) for tier in (ssd, shared) if tier and dram is not None
        }
        if ssd is not None:
            self._behind = WriteBehind(
                ssd,
                dram,
                self.directory,
                learner,
                limit_bytes=write_queue_bytes,
                through=write_through,
                clock=clock,
            )
        self._tasks: list[asyncio.Task[None]] = []
        self._open: AsyncExitStack | None = None
        self._nothing = TierIndex(0).state

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for tier in self.tiers.values():
                await stack.enter_async_context(tier)
            self._open = stack.pop_all()
        self._tasks = [each.start() for each in (self._behind, self._sharing) if each is not None]
        if self._flush_s is not None:
            flushing = self._flush_often(self._flush_s)
            self._tasks.append(asyncio.get_running_loop().create_task(flushing))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what waits, flush, and close the tiers. Calling it twice does nothing."""
        if self._open is None:
            return
        async with self._open:  # which closes the tiers, whatever happens before
            self._open = None
            try:
                await self.drain()
            finally:
                await stopped(*self._tasks)

    async def lookup(self, keys: Sequence[bytes]) -> dict[str, int]:
        """Length of the prefix that each tier has now; not counted as asked for."""
        return {name: await tier.match(keys) for name, tier in self.tiers.items()}

    async def acquire(
        self,
        keys: Sequence[bytes],
        *,
        held: int = 0,
        reusable: int | None = None,
        learn: bool = True,
    ) -> CacheLease:
        """Find what a request can load, and keep it until `release`.

        Parameters
        ----------
        keys:
            All full blocks of its prompt.
        held:
            Leading blocks that the engine has already.
        reusable:
            Leading blocks that may be loaded; all, if nothing is said. One token at least is to be
            computed.
        learn:
            Whether the request counts as one; not where it had begun before and was preempted.
        """
        self._remembered.make_room(len(keys))
        reach = keys[:reusable]
        lease = await lease_each(
            self.tiers, keys, lambda tier, found: tier.acquire(self._wanted(tier, reach, found))
        )
        if self.learner is not None and learn:
            above = max(held, len(lease.parts[self.dram.name]) if self.dram else 0)
            self.learner.learn(
                self.directory.intern(list(keys)),
                above,
                self._clock(),
                hbm=self._nothing if self._hbm is None else self._hbm.state,
                dram=self._state_of(self.dram),
                ssd=self._state_of(self.ssd),
            )
        return lease

    async def read(self, lease: CacheLease, into: Blocks, first: int = 0) -> int:
        """Read leased blocks from the ``first`` on, each from the fastest tier that has it.

        Returns
        -------
        int
            How many, from the first one, are good.
        """
        wanted, begin, at = first + len(into), first, []
        if wanted > len(lease):
            raise BlockStateError(f"a lease of {len(lease)} blocks has no {wanted}")
        for name, part in lease.parts.items():
            end = min(wanted, len(part))
            if end > begin:
                at.append((self.tiers[name], part, begin, end))
                begin = end
        reads = [
            tier.read(part, into[begin - first : end - first], begin)
            for tier, part, begin, end in at
        ]
        done = 0
        for good, (_, _, begin, end) in zip(await together(reads), at, strict=True):
            done += good
            if good < end - begin:
                break
        return done

    def release(self, lease: CacheLease) -> None:
        """End a lease.

        Raises
        ------
        BlockStateError
            If it was released before.
        """
        lease.release(self.tiers)

    async def pin(self, keys: Sequence[bytes]) -> CacheLease:
        """Keep what there is of a prefix until `release`, without asking for it."""
        return await lease_each(
            self.tiers, keys, lambda tier, found: tier.hold(self._wanted(tier, keys, found))
        )

    async def fetch(self, lease: CacheLease) -> None:
        """Get leased blocks that are on SSD alone into DRAM, as far as there is room.

        The lease has them there then. What it had in DRAM before stays where it is, also for who
        reads it meanwhile.
        """
        await self._promote(lease)

    async def load(self, keys: Sequence[bytes], into: Blocks, *, promote: bool = True) -> int:
        """Read the longest prefix there is into buffers; how many blocks are good.

        Parameters
        ----------
        keys:
            The blocks wanted, from the start of the prompt, one for each buffer.
        into:
            The buffers.
        promote:
            Whether what DRAM lacks gets there on the way.
        """
        lease = await self.acquire(keys)
        try:
            if promote:
                await self._promote(lease)
            return await self.read(lease, into[: len(lease)])
        finally:
            self.release(lease)

    async def prefetch(self, keys: Sequence[bytes]) -> int:
        """Get what there is of a prefix into DRAM; how many leading blocks are in DRAM then."""
        lease = await self.pin(keys)
        try:
            await self._promote(lease)
            return len(lease.parts[self.dram.name]) if self.dram is not None else 0
        finally:
            self.release(lease)

    async def store(
        self, keys: Sequence[bytes], blocks: Blocks, first: int = 0, *, save: bool = True
    ) -> None:
        """Store a prompt that was computed.

        Parameters
        ----------
        keys:
            All its full blocks.
        blocks:
            Bytes of those from ``first`` on. What the tiers have already is not written again.
        first:
            Place of the first block given. What a tier lacks before it, it stores nothing behind.
        save:
            Whether the SSD gets what is worth it; otherwise that is dropped, as if too much waited.
        """
        if first + len(blocks) != len(keys):
            raise BlockStateError(
                f"{len(keys)} blocks from {first} on need {len(keys) - first} buffers, not "
                f"{len(blocks)}"
            )
        self._remembered.make_room(len(keys))
        if self.dram is not None:
            await insert(self.dram, await self.dram.reserve(keys), blocks, first)
        if self._behind is not None:
            await self._behind.store(keys, blocks, first, drop=not save)
        if self._sharing is not None:
            await self._sharing.store(keys, blocks, first)

    async def reserve(self, keys: Sequence[bytes]) -> CacheReservation:
        """Take room in DRAM for what follows the part of a prompt that is there.

        It is the caller who writes there (`greencache.tiers.base.Addressable.reserved`,
        `greencache.tiers.base.Shareable.reserved_places`), then `commit` or `abort`.
        """
        if self.dram is None:
            raise BlockStateError("only a cache with DRAM has room that its caller writes to")
        self._remembered.make_room(len(keys))
        return CacheReservation(keys, await self.dram.reserve(keys))

    async def commit(self, reservation: CacheReservation) -> None:
        """Let blocks be found that the caller wrote; they are stored on SSD behind, as by `store`.

        Raises
        ------
        BlockStateError
            If they were not written, or were committed or aborted before.
        """
        assert self.dram is not None
        await self.dram.commit(reservation.part)
        keys = reservation.keys[: reservation.end]
        if self._behind is not None and len(reservation):
            self._behind.store_later(keys, len(reservation))
        if self._sharing is not None and len(reservation):
            await self._sharing.store_later(keys, len(reservation))

    def abort(self, reservation: CacheReservation) -> None:
        """Give reserved blocks up; raises as `greencache.tiers.base.Tier.abort`."""
        assert self.dram is not None
        self.dram.abort(reservation.part)

    async def drain(self) -> None:
        """Wait until everything is written that is to be by now, to SSD and the shared tier."""
        for writes in (self._behind, self._sharing):
            if writes is not None:
                await writes.drain()

    async def resize(self, **capacity_bytes: int) -> dict[str, int]:
        """Change tiers' capacities while in use: ``resize(dram=..., ssd=...)``.

        Returns
        -------
        dict
            For each of them, bytes still to be given back once leases end.

        Raises
        ------
        UnknownNameError
            If there is no such tier.
        TierError
            If a capacity cannot be had; that tier is as before.
        """
        for name in capacity_bytes:
            if name not in self.tiers:
                raise UnknownNameError("tier", name, self.tiers)
        return {name: await self.tiers[name].resize(size) for name, size in capacity_bytes.items()}

    async def flush(self) -> None:
        """Write what waits, and make it outlast a loss of power where a tier can."""
        await self.drain()
        for tier in self.tiers.values():
            await tier.flush()

    def stats(self) -> CacheStats:
        """What the tiers have, and what was done."""
        behind, sharing = self._behind, self._sharing
        return CacheStats(
            tiers={name: tier.stats() for name, tier in self.tiers.items()},
            declined_blocks=behind.declined_blocks if behind else 0,
            dropped_blocks=behind.dropped_blocks if behind else 0,
            promoted_blocks=sum(each.promoted_blocks for each in self._promoters.values()),
            waiting_bytes=behind.waiting_bytes if behind else 0,
            unshared_blocks=sharing.dropped_blocks if sharing else 0,
            sharing_bytes=sharing.waiting_bytes if sharing else 0,
        )

    async def _flush_often(self, flush_s: float) -> None:
        while True:
            await asyncio.sleep(flush_s)
            for name, tier in self.tiers.items():
                try:
                    await tier.flush()
                except Exception as fault:  # whatever it is, the next flush is tried
                    _log.warning("%s could not be flushed: %s", name, fault)

    async def _promote(self, lease: CacheLease) -> None:
        """Get what a lease found in lower tiers alone into DRAM; the lease has it there then."""
        for name, promoter in self._promoters.items():
            assert self.dram is not None
            source, had = lease.parts[name], lease.parts[self.dram.name]
            if len(source) <= len(had):
                continue
            found = await promoter.promote(source)
            had = lease.parts[self.dram.name]  # somebody else may have fetched it meanwhile
            if lease.released or len(found) <= len(had):
                # What is read by places stays leased, also if it was deleted since.
                self.dram.release(found)
                continue
            lease.grow(self.dram.name, found)

    def _wanted(self, tier: Tier, keys: Sequence[bytes], found: int) -> Sequence[bytes]:
        """What to ask a tier for: the shared one for nothing if those before have all."""
        return () if tier is self.shared and found == len(keys) else keys

    def _state_of(self, tier: Tier | None) -> TierState:
        return tier.index.state if isinstance(tier, SlotTier) else self._nothing
