"""``SlotTier``: what all tiers share whose blocks stand in slots of equal size.

A `TierIndex` decides which block is in which slot and which goes next; that is the same index that
the replay runs. A subclass moves bytes to and from slots, and gives slots' memory or disk back.

*Backing.* A slot that was written to has memory or disk behind it, also when its block is gone: the
next block takes it. Only when a tier shrinks are free slots given back, until no more are backed
than the capacity allows or blocks need. So a shrink moves no block, leased ones survive where they
are, and memory and disk fall at once by all that is not leased. Slots are given back under the
lock under which new ones are claimed: a slot is never emptied after somebody began to write it.
One that a client may have pinned is asked for, and stays backed until it is not; nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from greencache.errors import BlockStateError, InputError, TierClosedError, TierError
from greencache.tiers.backing import Backing
from greencache.tiers.base import (
    Blocks,
    Tier,
    TierLease,
    TierReservation,
    TierStats,
    check_blocks,
    check_prompt,
)
from greencache.tiers.damage import Damage
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.index import TierIndex
from greencache.tiers.pins import Pins
from greencache.tiers.policies import Policy
from greencache.tiers.workers import ended, run_all, started_pool, uninterrupted

__all__ = ["SlotTier", "Slots"]

Slots = NDArray[np.int32]
T = TypeVar("T")

_log = logging.getLogger("greencache.tiers")


class SlotTier(Tier):
    """A tier of slots.

    Parameters
    ----------
    name:
        What metrics and messages call it.
    block_bytes, capacity_bytes:
        Bytes of a block, and what it may hold.
    stride_bytes:
        Bytes of a slot: ``block_bytes`` or more.
    directory:
        Ids of keys, shared by all tiers of a cache.
    policy:
        Which block goes first.
    index:
        The index, if it is not to be made from ``policy``: one that follows a cache's learner.
    threads:
        Of its own pool, in which bytes are moved.
    clock:
        Seconds that do not go back.
    """

    def __init__(
        self,
        name: str,
        block_bytes: int,
        capacity_bytes: int,
        *,
        stride_bytes: int | None = None,
        directory: KeyDirectory | None = None,
        policy: Policy | str = Policy.LRU,
        index: TierIndex | None = None,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if block_bytes < 1 or capacity_bytes < 0:
            raise InputError("a tier has blocks of 1 byte or more and a capacity of 0 or more")
        self.name, self.block_bytes = name, block_bytes
        self.stride_bytes = stride_bytes or block_bytes
        self.directory = KeyDirectory() if directory is None else directory
        self.index = TierIndex(0, policy) if index is None else index
        self.clock = clock
        self._capacity_bytes = capacity_bytes
        self._threads = threads
        self._opened = False
        self._pool: ThreadPoolExecutor | None = None
        self._space, self._resizing = asyncio.Lock(), asyncio.Lock()
        self._backing = Backing()
        self._writing: set[TierReservation] = set()
        self._damage = Damage(self.index)
        self._giving_back: asyncio.Task[None] | None = None
        self._pins = Pins()
        self._awaited = 0  # slots that the last shrink left backed, as they may be pinned
        self._counts = TierStats()

    @abstractmethod
    async def _start(self) -> None:
        """Open what slots stand in; an earlier run's blocks may be restored to the index."""

    @abstractmethod
    async def _stop(self) -> None:
        """Close it."""

    @abstractmethod
    async def _read_slots(self, slots: Slots, into: Blocks) -> NDArray[np.bool_]:
        """Read slots into buffers; which of them are good. Counts why others are not."""

    @abstractmethod
    async def _write_slots(self, reservation: TierReservation, blocks: Blocks) -> None:
        """Write buffers to the slots reserved; a commit only lets them be found.

        Raises
        ------
        StorageError
            If they cannot be written.
        """

    @abstractmethod
    async def _back(self, slots: Slots) -> None:
        """Put memory or disk behind slots that have none; called before they are written.

        Raises
        ------
        StorageError
            If there is none to be had.
        """

    @abstractmethod
    async def _give_back(self, slots: Slots) -> None:
        """Give back what is behind these free slots."""

    async def _check_capacity(self, capacity_bytes: int) -> None:
        """Refuse a capacity that cannot be had; raises `TierError`."""

    def _slots_in(self, capacity_bytes: int) -> int:
        """Slots that a capacity has room for."""
        return capacity_bytes // self.stride_bytes

    def _own_bytes(self) -> int:
        """Bytes that the tier occupies beside slots."""
        return 0

    def bytes_for(self, blocks: int) -> int:
        """The least capacity that has room for so many blocks."""
        return blocks * self.stride_bytes

    async def open(self) -> None:
        """As `Tier.open`."""
        if self._opened:
            raise TierClosedError(f"tier {self.name} was opened before: make another one")
        await self._check_capacity(self._capacity_bytes)
        self._opened = True
        self._pool = started_pool(self._threads, f"greencache-{self.name}")
        self.index.resize(self._slots_in(self._capacity_bytes), self.clock())
        try:
            await self._start()
        except BaseException:
            self._pool.shutdown()
            self._pool = None
            raise

    async def close(self) -> None:
        """As `Tier.close`."""
        if self._pool is None:
            return
        try:
            if self._giving_back is not None:
                await ended([self._giving_back])
            await self.flush()
        finally:
            await uninterrupted(self._close())

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:  # else it was closed meanwhile
            await asyncio.to_thread(pool.shutdown)  # waits for what is being moved
            await self._stop()

    async def match(self, keys: Sequence[bytes]) -> int:
        """As `Tier.match`."""
        self._check_open()
        return self.index.match(self._damage.sound(self.directory.find(list(keys))))

    async def acquire(self, keys: Sequence[bytes]) -> TierLease:
        """As `Tier.acquire`."""
        self._check_open()
        ids = self._damage.sound(self.directory.find(list(keys)))
        lease = self.index.acquire(ids, self.clock())
        self._counts.hit_blocks += len(lease)
        self._counts.missed_blocks += len(keys) - len(lease)
        return TierLease(keys[: len(lease)], lease)

    async def hold(self, keys: Sequence[bytes]) -> TierLease:
        """As `Tier.hold`."""
        self._check_open()
        lease = self.index.lease(self._damage.sound(self.directory.find(list(keys))))
        return TierLease(keys[: len(lease)], lease)

    async def read(self, lease: TierLease, into: Blocks, first: int = 0) -> int:
        """As `Tier.read`."""
        self._check_open()
        if lease.released:
            raise BlockStateError("this lease was released before")
        ids = lease.handle.ids[first : first + len(into)]
        if len(ids) < len(into):
            raise BlockStateError(f"{len(lease)} blocks are leased, not {first + len(into)}")
        check_blocks(into, self.block_bytes)
        if len(ids) == 0:
            return 0
        with self._counts.took["read"].timing(self.clock):
            good = await self._read_slots(self.index.state.slot_of[ids], into)
        if lease.released:
            raise BlockStateError("this lease was released while it was being read")
        if good.all():
            self._counts.read_bytes += len(ids) * self.block_bytes
            return len(ids)
        sound = int(good.argmin())
        self._counts.read_bytes += sound * self.block_bytes
        self._drop(ids[~good])
        return sound

    def release(self, lease: TierLease) -> None:
        """As `Tier.release`."""
        if lease.released:
            raise BlockStateError("this lease was released before")
        lease.released = True
        self.index.release(lease.handle, self.clock())
        self._settle()

    async def reserve(self, keys: Sequence[bytes]) -> TierReservation:
        """As `Tier.reserve`; raises `InputError` for a prompt that names a block twice."""
        self._check_open()
        check_prompt(keys)
        ids = self.directory.intern(list(keys))
        if len(self._damage.sound(ids)) < len(ids):
            return TierReservation((), 0, None)  # a block that is to go is still in its slot
        reserved = self.index.reserve(ids, self.clock())
        first = reserved.first
        reservation = TierReservation(keys[first : first + len(reserved)], first, reserved)
        try:
            if len(reserved) and not self._claimed(reserved.slots):
                await uninterrupted(self._claim(reserved.slots))
        except BaseException as fault:
            self.abort(reservation)
            if not isinstance(fault, TierError):
                raise
            self._failed("claim", fault)
            return TierReservation((), first, None)
        return reservation

    async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
        """As `Tier.write`."""
        self._check_open()
        reservation.check_writable(blocks, self.block_bytes)
        if len(reservation) == 0:
            return True
        reservation.written = False
        self._writing.add(reservation)
        try:
            with self._counts.took["write"].timing(self.clock):
                await self._write_slots(reservation, blocks)
            reservation.written = True
            self._counts.written_bytes += len(reservation) * self.block_bytes
        except TierError as fault:
            self._failed("write", fault)
        finally:
            self._writing.discard(reservation)
        if not reservation.written:
            self.abort(reservation)
        return reservation.written

    async def commit(self, reservation: TierReservation) -> None:
        """As `Tier.commit`."""
        reservation.check_running()
        if len(reservation) and not reservation.written:
            raise BlockStateError("only blocks that were written can be committed")
        reservation.ended = True
        if reservation.handle is not None:
            self.index.commit(reservation.handle, self.clock())
        self._settle()

    def abort(self, reservation: TierReservation) -> None:
        """As `Tier.abort`."""
        reservation.check_running()
        if reservation in self._writing:
            raise BlockStateError("this reservation is being written: wait for the end of that")
        reservation.ended = True
        if reservation.handle is not None:
            self.index.abort(reservation.handle, self.clock())
        self._settle()

    async def delete(self, keys: Sequence[bytes]) -> int:
        """As `Tier.delete`."""
        ids = self.directory.find(list(keys[-1:]))
        if len(ids) == 0 or self.index.slot_of(int(ids[0])) < 0:
            return 0
        return self._drop(ids)

    async def resize(self, capacity_bytes: int) -> int:
        """As `Tier.resize`."""
        self._check_open()
        if capacity_bytes < 0:
            raise InputError(f"a tier's capacity is 0 bytes or more, not {capacity_bytes}")
        return await uninterrupted(self._resize_in_turn(capacity_bytes))

    async def _resize_in_turn(self, capacity_bytes: int) -> int:
        async with self._resizing:  # whoever asks last has the last word
            if capacity_bytes > self._capacity_bytes:
                await self._check_capacity(capacity_bytes)
            return await self._resize(capacity_bytes)

    async def _resize(self, capacity_bytes: int) -> int:
        """Change the capacity, to the end or not at all; bytes still to be given back."""
        over = self.index.resize(self._slots_in(capacity_bytes), self.clock())
        self._capacity_bytes = capacity_bytes
        await self._shrink()
        return (over + self._awaited) * self.stride_bytes

    async def flush(self) -> None:
        """As `Tier.flush`."""

    def stats(self) -> TierStats:
        """As `Tier.stats`."""
        return self._counts.copy(
            capacity_bytes=self._capacity_bytes,
            used_bytes=len(self.index) * self.stride_bytes,
            backed_bytes=len(self._backing) * self.stride_bytes + self._own_bytes(),
            pinned_bytes=len(self._pins) * self.stride_bytes,
            unpinning_bytes=max(0, min(self._awaited, self._surplus())) * self.stride_bytes,
            blocks=len(self.index),
            evicted_blocks=self.index.evicted_blocks,
        )

    async def _in_threads(
        self, calls: Sequence[Callable[[], T]], pool: ThreadPoolExecutor | None = None
    ) -> list[T]:
        """Run calls in threads, the tier's own or of ``pool``, and wait for all; see `run_all`."""
        self._check_open()
        assert self._pool is not None
        return await run_all(pool or self._pool, calls)

    def _claimed(self, slots: Slots) -> bool:
        """Whether slots are ready to be written: all backed, and none is being given back."""
        return (
            not self._space.locked()
            and self._surplus() <= self._awaited
            and len(self._backing.missing(slots)) == 0
        )

    async def _claim(self, slots: Slots) -> None:
        """Make slots ready to be written."""
        async with self._space:
            new = self._backing.missing(slots)
            await self._trim(len(new))
            await self._back_slots(new)

    async def _back_slots(self, slots: Slots) -> None:
        """Put memory or disk behind slots that have none; called under the lock."""
        if len(slots):
            await self._back(slots)
            self._backing.add(slots)

    async def _trim(self, coming: int) -> int:
        """Give free slots back until ``coming`` more may be backed; how many; called in the lock.

        The last ones go, so that whole extents become free, of those that nobody has pinned.
        """
        over, self._awaited = self._surplus() + coming, 0
        if over <= 0:  # as nearly always: no need to look at all slots
            return 0
        free = self._backing.free(self.index.occupied_slots())
        pinned = free & self._pins.mask(len(free))
        going = np.flatnonzero(free & ~pinned)[::-1][:over].astype(np.int32)
        if len(going) < over:
            self._awaited = min(over - len(going), int(np.count_nonzero(pinned)))
            self._pins.ask_for(self._awaited, free)
        if len(going):
            await self._give_back(going)
            self._backing.remove(going)
        return len(going)

    def _surplus(self) -> int:
        """Slots that are backed beyond what the capacity allows or blocks need."""
        return len(self._backing) - max(self.index.capacity_blocks, len(self.index))

    def _settle(self) -> None:
        """After a lease or a reservation ended: let go what waited for that."""
        self._damage.drop()
        idle = self._giving_back is None or self._giving_back.done()
        if idle and self._surplus() > self._awaited and self._pool is not None:
            self._giving_back = asyncio.get_running_loop().create_task(self._shrink())

    async def _shrink(self) -> None:
        """Give back what is no longer needed; what cannot be is counted."""
        async with self._space:
            try:
                while await self._trim(0):
                    pass  # more may have been let go meanwhile
                self.index.order_free(self._backing.mask())
            except TierError as fault:
                self._failed("give back", fault)

    def _drop(self, ids: NDArray[np.int32]) -> int:
        """Let blocks be found no longer, and drop them as soon as they can be; how many went."""
        before = len(self.index)
        self._damage.add(ids)
        self._settle()
        return before - len(self.index)

    def _failed(self, cause: str, fault: Exception) -> None:
        """Count a failure, and say so the first time."""
        if not self._counts.failures[cause]:
            _log.warning("%s: %s failed: %s; counted from now on", self.name, cause, fault)
        self._counts.failures[cause] += 1

    def _check_open(self) -> None:
        if self._pool is None:
            raise TierClosedError(f"tier {self.name} is not open: use it in `async with`")
