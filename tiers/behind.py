"""Writes to SSD behind the engine: what is worth it, from DRAM, as fast as the drive takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from greencache.tiers.base import Addressable, Blocks, Tier, TierLease, TierReservation
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.learning import Learner
from greencache.tiers.slots import SlotTier
from greencache.tiers.workers import ended

__all__ = ["WriteBehind", "insert"]

_log = logging.getLogger("greencache.tiers")


async def insert(tier: Tier, room: TierReservation, blocks: Blocks, first: int) -> bool:
    """Write what was reserved, of ``blocks`` that begin at place ``first`` of the prompt.

    Returns
    -------
    bool
        Whether it was committed; not where the tier lacks blocks before ``first``, or fails.
    """
    try:
        if len(room):
            begin = room.first - first
            if begin < 0 or not await tier.write(room, blocks[begin : begin + len(room)]):
                return False
        await tier.commit(room)
        return True
    finally:
        if not room.ended:  # also when cancelled, or the buffers are none
            tier.abort(room)


class _Write(NamedTuple):
    """A write that waits for its turn; the DRAM that it copies from is leased."""

    reservation: TierReservation
    source: TierLease


class WriteBehind:
    """Stores prompts on SSD.

    Parameters
    ----------
    ssd, dram:
        Where to, and where from if DRAM has it.
    directory, learner:
        What is known of blocks, and what decides by it; without a learner all is stored.
    limit_bytes:
        What may wait; saves beyond are dropped.
    through:
        Whether to write while the caller waits instead.
    clock:
        The cache's.

    Attributes
    ----------
    limit_bytes:
        As above; may be changed.
    declined_blocks:
        Not written because they were not worth it.
    dropped_blocks:
        Not written because too much waited, or the write failed.
    waiting_bytes:
        Still to be written.
    """

    def __init__(
        self,
        ssd: Tier,
        dram: Tier | None,
        directory: KeyDirectory,
        learner: Learner | None,
        *,
        limit_bytes: int,
        through: bool = False,
        clock: Callable[[], float],
    ) -> None:
        self._ssd, self._dram = ssd, dram
        self._directory, self._learner = directory, learner
        self.limit_bytes, self._clock = limit_bytes, clock
        self._through = through
        self._queue: asyncio.Queue[_Write] = asyncio.Queue()
        self._later: set[asyncio.Task[None]] = set()
        self.declined_blocks = self.dropped_blocks = self.waiting_bytes = 0

    def store_later(self, keys: Sequence[bytes]) -> None:
        """Store what DRAM has of a prompt, without letting anybody wait for it."""
        task = asyncio.get_running_loop().create_task(self._store_from_dram(keys))
        self._later.add(task)
        task.add_done_callback(self._stored)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.warning("a write to %s failed: %r", self._ssd.name, fault)

    async def _store_from_dram(self, keys: Sequence[bytes]) -> None:
        assert self._dram is not None
        source = await self._dram.hold(keys)  # so that it is there as long as this takes
        try:
            keys = keys[: len(source)]
            blocks = await self._bytes_of(self._dram, source, 0, len(source))
            if blocks is not None:
                await self.store(keys, blocks, 0)
        finally:
            self._dram.release(source)

    async def store(self, keys: Sequence[bytes], blocks: Blocks, first: int) -> None:
        """Store as much of a prompt as is worth it; ``blocks`` are those from ``first`` on."""
        if self._slots() == 0:
            return  # admission learns nothing of an SSD that is not there, as in the replay
        found = await self._ssd.match(keys)
        stop = self._admitted(keys, found)
        self.declined_blocks += len(keys) - max(found, stop)
        missing = max(0, stop - found)
        if missing and self.waiting_bytes + missing * self._ssd.block_bytes > self.limit_bytes:
            self.dropped_blocks += missing
            return
        room = await self._ssd.reserve(keys[:stop])
        if self._learner is not None:
            self._learner.wrote(len(room))
        if not (len(room) and await self._queued(room, keys)):
            # DRAM does not have all of it, so it is written while the caller waits.
            written = await insert(self._ssd, room, blocks, first)
            self.dropped_blocks += 0 if written else len(room)

    def _admitted(self, keys: Sequence[bytes], found: int) -> int:
        if self._learner is None:
            return len(keys)
        ids = self._directory.intern(list(keys))
        return self._learner.admit(ids, found, self._slots() or 0, self._clock())

    def _slots(self) -> int | None:
        """Blocks that the SSD may hold; None if it does not say."""
        return self._ssd.index.capacity_blocks if isinstance(self._ssd, SlotTier) else None

    async def _queued(self, room: TierReservation, keys: Sequence[bytes]) -> bool:
        """Let the write wait, if DRAM has all of it."""
        if self._dram is None or self._through:
            return False
        end = room.first + len(room)
        try:
            source = await self._dram.hold(keys[:end])
        except BaseException:
            self._ssd.abort(room)
            raise
        if len(source) < end:
            self._dram.release(source)
            return False
        self.waiting_bytes += len(room) * self._ssd.block_bytes
        self._queue.put_nowait(_Write(room, source))
        return True

    async def drain(self) -> None:
        """Wait until nothing waits."""
        while self._later:
            await ended(list(self._later))
        await self._queue.join()

    async def run(self) -> None:
        """Write what waits, for ever."""
        while True:
            write = await self._queue.get()
            count = len(write.reservation)
            try:
                if not await self._write(write):
                    self.dropped_blocks += count
            except Exception as fault:  # whatever it is, later writes go on
                _log.warning("a write to %s failed: %r", self._ssd.name, fault)
                self.dropped_blocks += count
            finally:
                self.waiting_bytes -= count * self._ssd.block_bytes
                self._queue.task_done()

    async def _write(self, write: _Write) -> bool:
        assert self._dram is not None
        room, source = write
        try:
            blocks = await self._bytes_of(self._dram, source, room.first, len(room))
            if blocks is not None and await self._ssd.write(room, blocks):
                await self._ssd.commit(room)
                return True
            return False
        finally:
            if not room.ended:
                self._ssd.abort(room)
            self._dram.release(source)

    async def _bytes_of(
        self, dram: Tier, lease: TierLease, first: int, count: int
    ) -> Blocks | None:
        """Leased bytes where they stand, or copied; None if they are no good."""
        if isinstance(dram, Addressable):
            return dram.leased(lease, first, count)
        copies = np.empty((count, dram.block_bytes), np.uint8)
        return copies if await dram.read(lease, copies, first) == count else None
