"""Writes to SSD behind the engine: what is worth it, from DRAM, as fast as the drive takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from greencache.tiers.backlog import Backlog
from greencache.tiers.base import Addressable, Blocks, Tier, TierLease, TierReservation
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.learning import Learner
from greencache.tiers.slots import SlotTier
from greencache.tiers.workers import ended

__all__ = ["WriteBehind", "bytes_of", "insert"]

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


async def bytes_of(tier: Tier, lease: TierLease, first: int, count: int) -> Blocks | None:
    """Leased bytes where they stand, or copied; None if they are no good."""
    if isinstance(tier, Addressable):
        return tier.leased(lease, first, count)
    copies = np.empty((count, tier.block_bytes), np.uint8)
    return copies if await tier.read(lease, copies, first) == count else None


class _Write(NamedTuple):
    """A write that waits for its turn; the DRAM that it copies from is leased.

    One that follows another gets its room after that is written.
    """

    reservation: TierReservation | None
    source: TierLease
    blocks: int
    """How many are to be written: the last ones of the lease."""


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
    declined_blocks:
        Not written because they were not worth it.
    dropped_blocks:
        Not written because too much waited, there was no room, or the write failed.
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
        self._limit_bytes, self._clock = limit_bytes, clock
        self._through = through
        self._backlog: Backlog[_Write] = Backlog()
        self._later: dict[asyncio.Task[None], int] = {}
        """Bytes of commits that wait for their turn."""
        self._turn = asyncio.Lock()
        self._queued_bytes = 0
        self.declined_blocks = self.dropped_blocks = 0

    @property
    def waiting_bytes(self) -> int:
        """Still to be written, or to be asked whether that is worth it."""
        return self._queued_bytes + sum(self._later.values())

    def store_later(self, keys: Sequence[bytes], computed: int) -> None:
        """Store what DRAM has of a prompt, of which so many blocks are new; nobody waits for it."""
        size_bytes = computed * self._ssd.block_bytes
        waiting_bytes = self.waiting_bytes
        # One that nothing waits before may be larger: admission has not said how much is written.
        if waiting_bytes and waiting_bytes + size_bytes > self._limit_bytes:
            self.dropped_blocks += computed
            return
        task = asyncio.get_running_loop().create_task(self._store_from_dram(keys))
        self._later[task] = size_bytes
        task.add_done_callback(lambda done: self._stored(done, computed))

    def _stored(self, task: asyncio.Task[None], computed: int) -> None:
        self._later.pop(task, None)
        if task.cancelled():
            self.dropped_blocks += computed
        elif (fault := task.exception()) is not None:
            _log.warning("a write to %s failed: %r", self._ssd.name, fault)
            self.dropped_blocks += computed

    async def _store_from_dram(self, keys: Sequence[bytes]) -> None:
        assert self._dram is not None
        source = await self._dram.hold(keys)  # so that it is there as long as this takes
        try:
            async with self._turn:  # what follows a prompt has to come after it
                blocks = None
                if self._through:  # else what waits reads it when its turn comes
                    blocks = await bytes_of(self._dram, source, 0, len(source))
                    if blocks is None:
                        return
                await self.store(source.keys, blocks, 0)
                if (this := asyncio.current_task()) is not None:
                    self._later.pop(this, None)  # it is queued by now, or written
        finally:
            self._dram.release(source)

    async def store(
        self, keys: Sequence[bytes], blocks: Blocks | None, first: int, *, drop: bool = False
    ) -> None:
        """Store as much of a prompt as is worth it; ``blocks`` are those from ``first`` on.

        None for what DRAM alone has. What is worth it is dropped if ``drop``.
        """
        if self._slots() == 0:
            return  # admission learns nothing of an SSD that is not there, as in the replay
        found = await self._ssd.match(keys)
        stop = self._admitted(keys, found)
        self.declined_blocks += len(keys) - max(found, stop)
        missing = max(0, stop - found)
        queued_bytes = self._queued_bytes + missing * self._ssd.block_bytes
        if missing and (drop or queued_bytes > self._limit_bytes):
            self.dropped_blocks += missing
            return
        room = await self._reserved(keys[:stop])
        if len(room):
            self.dropped_blocks += self._without_room(keys[room.first + len(room) : stop])
            if await self._queued(room, keys[: room.first + len(room)], len(room)):
                return
            # DRAM does not have all of it, so it is written while the caller waits.
            if blocks is None:
                self._ssd.abort(room)
            if blocks is None or not await insert(self._ssd, room, blocks, first):
                self.dropped_blocks += len(room)
            return
        self._ssd.abort(room)
        without = self._without_room(keys[found:stop])
        # Where the block before is still to be written there is no room yet.
        follows = without > 0 and self._queued_bytes > 0
        if not (follows and await self._queued(None, keys[:stop], without)):
            self.dropped_blocks += without

    async def _reserved(self, keys: Sequence[bytes]) -> TierReservation:
        room = await self._ssd.reserve(keys)
        if self._learner is not None:
            self._learner.wrote(len(room))
        return room

    def _without_room(self, keys: Sequence[bytes]) -> int:
        """How many blocks are not on SSD, nor being written there by whoever came before."""
        if not isinstance(self._ssd, SlotTier) or not keys:
            return len(keys)
        ids = self._directory.find(list(keys))
        return sum(self._ssd.index.slot_of(block) < 0 for block in ids.tolist())

    def _admitted(self, keys: Sequence[bytes], found: int) -> int:
        if self._learner is None:
            return len(keys)
        ids = self._directory.intern(list(keys))
        return self._learner.admit(ids, found, self._slots() or 0, self._clock())

    def _slots(self) -> int | None:
        """Blocks that the SSD may hold; None if it does not say."""
        return self._ssd.index.capacity_blocks if isinstance(self._ssd, SlotTier) else None

    async def _queued(self, room: TierReservation | None, keys: Sequence[bytes], last: int) -> bool:
        """Let a write of the ``last`` blocks of ``keys`` wait, if DRAM has all of them."""
        if self._dram is None or self._through:
            return False
        try:
            source = await self._dram.hold(keys)
        except BaseException:
            if room is not None:
                self._ssd.abort(room)
            raise
        if len(source) < len(keys) or not self._backlog.put(_Write(room, source, last)):
            self._dram.release(source)
            return False
        self._queued_bytes += last * self._ssd.block_bytes
        return True

    async def drain(self) -> None:
        """Wait until all that waits by now is written."""
        await ended(list(self._later))
        await self._backlog.drained()

    def start(self) -> asyncio.Task[None]:
        """The task that writes what waits, until it is cancelled: then what is left is dropped."""
        return self._backlog.start(self._run(), self._drop)

    async def _run(self) -> None:
        while True:
            write = await self._backlog.get()
            unwritten = write.blocks
            try:
                unwritten = await self._write(write)
            except Exception as fault:  # whatever it is, later writes go on
                _log.warning("a write to %s failed: %r", self._ssd.name, fault)
            finally:
                self._ended(write, unwritten)
                self._backlog.done()

    def _ended(self, write: _Write, unwritten: int) -> None:
        self._queued_bytes -= write.blocks * self._ssd.block_bytes
        self.dropped_blocks += unwritten

    def _drop(self, write: _Write) -> None:
        """Let go of what waits for a worker that has ended."""
        self._let_go(write.reservation, write.source)
        self._ended(write, write.blocks)

    def _let_go(self, room: TierReservation | None, source: TierLease) -> None:
        """End what of a write has not ended."""
        assert self._dram is not None
        if room is not None and not room.ended:
            self._ssd.abort(room)
        self._dram.release(source)

    async def _write(self, write: _Write) -> int:
        """Write what waited; how many blocks of it are not written for all that."""
        assert self._dram is not None
        room, source, without = write.reservation, write.source, 0
        try:
            if room is None:
                room = await self._reserved(source.keys)
                end = max(room.first + len(room), len(source) - write.blocks)
                without = self._without_room(source.keys[end:])
            if len(room) == 0:
                return without
            blocks = await bytes_of(self._dram, source, room.first, len(room))
            if blocks is not None and await self._ssd.write(room, blocks):
                await self._ssd.commit(room)
                return without
            return without + len(room)
        finally:
            self._let_go(room, source)
