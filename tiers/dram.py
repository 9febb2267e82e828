"""``DramTier``: blocks in the host's memory.

Slots stand in extents, each a memory file (memfd) that is mapped: it has no name in any file
system, so nothing of it outlasts the process, however that ends, and another process can be handed
it. An extent is as long as its slots from the start, but takes memory only for those backed.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import os
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from greencache.buffers import copy_bytes
from greencache.errors import BlockStateError, StorageError, TierError
from greencache.quantities import GIB, format_bytes
from greencache.tiers.base import Blocks, TierLease, TierReservation
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.index import TierIndex
from greencache.tiers.memory import available_memory_bytes
from greencache.tiers.memory_file import MemoryFile
from greencache.tiers.pins import PinHolder, Runs
from greencache.tiers.policies import Policy
from greencache.tiers.slots import Slots, SlotTier

__all__ = ["DramTier"]

Bytes = NDArray[np.uint8]
Places: TypeAlias = "tuple[NDArray[np.uint32], NDArray[np.uint64]]"

_PAGE_BYTES = 4096
"""Slots begin on pages, so that a slot's memory can be given back by itself."""

_MOST_EXTENTS = 256
"""That all of the host's memory would take: each needs one of a process's file descriptors, of
which it has 1,024 by default, and so do its clients while they are told of them."""

_INLINE_BYTES = 256 * 2**10
"""Copying less takes about as long as handing it to a thread and back: 10 to 20 us."""

_PART_BYTES = 8 * 2**20
"""What a thread is given at the least, if a copy is split over several."""

_PREFAULT_BYTES = 32 * 2**20
"""Backed at once in the background: about 10 ms, for which a writer may have to wait."""

_MOST_RUNS = 16
"""Of backed slots in an extent that are offered to be pinned, the longest ones: what has many holes
is not worth as many calls."""

_PINNED_AT_ONCE_BYTES = 64 * 2**20
"""By one call, of which a process's page faults may have to wait for the end: some 10 ms."""


class DramTier(SlotTier):
    """Blocks in the host's memory; gone when the tier is closed.

    Parameters
    ----------
    block_bytes:
        Bytes of a block.
    capacity_bytes:
        Memory that it may take. A block takes whole pages.
    name:
        What metrics and messages call it.
    directory, policy, index, clock:
        As of `SlotTier`.
    threads:
        Over how many threads a large copy is split.
    prefault:
        Whether all of the capacity is taken from the system in the background after opening and
        growing. Otherwise it is when blocks are written first, which then takes three times as
        long.
    extent_bytes:
        Length of an extent, by default 1 GiB or more. A client maps whole extents.
    """

    def __init__(
        self,
        block_bytes: int,
        capacity_bytes: int,
        *,
        name: str = "dram",
        directory: KeyDirectory | None = None,
        policy: Policy | str = Policy.LRU,
        index: TierIndex | None = None,
        threads: int = 2,
        prefault: bool = True,
        extent_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            name,
            block_bytes,
            capacity_bytes,
            stride_bytes=-(-block_bytes // _PAGE_BYTES) * _PAGE_BYTES,
            directory=directory,
            policy=policy,
            index=index,
            threads=threads,
            clock=clock,
        )
        if extent_bytes is None:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            extent_bytes = max(GIB, memory // _MOST_EXTENTS)
        self.slots_per_extent = max(1, extent_bytes // self.stride_bytes)
        self._prefault = prefault
        self._prefaulting: asyncio.Task[None] | None = None
        self._extents: dict[int, MemoryFile] = {}
        """By place: those of slots from ``place * slots_per_extent`` on."""
        self._made = self._gone = 0
        self._emptying = False
        """Whether slots are being given back that count as backed until that is over."""

    # What `SlotTier` asks for.

    async def _start(self) -> None:
        _open_tiers.add(self)
        self._prefault_later()

    async def _stop(self) -> None:
        _open_tiers.discard(self)
        if self._prefaulting is not None:
            await self._prefaulting
        await asyncio.to_thread(self._close_extents)

    def _close_extents(self) -> None:
        while self._extents:
            self._extents.popitem()[1].close()

    async def _read_slots(self, slots: Slots, into: Blocks) -> NDArray[np.bool_]:
        await self._copy(slots, into, _read)
        return np.ones(len(slots), np.bool_)

    async def _write_slots(self, reservation: TierReservation, blocks: Blocks) -> None:
        await self._copy(reservation.handle.slots, blocks, _write)

    async def _back(self, slots: Slots) -> None:
        await self._in_threads([functools.partial(self._back_now, slots)])

    async def _give_back(self, slots: Slots) -> None:
        self._emptying = True
        try:
            await self._in_threads([functools.partial(self._give_back_now, slots)])
        finally:
            self._emptying = False

    async def _check_capacity(self, capacity_bytes: int) -> None:
        more = capacity_bytes - len(self._backing) * self.stride_bytes
        available = available_memory_bytes()
        if more > available:
            raise TierError(
                f"tier {self.name} cannot take {format_bytes(more)} more memory for a capacity of"
                f" {format_bytes(capacity_bytes)}: {format_bytes(available)} is available;"
                " choose less"
            )

    async def resize(self, capacity_bytes: int) -> int:
        """As `Tier.resize`."""
        over = await super().resize(capacity_bytes)
        self._prefault_later()
        return over

    @property
    def allocated_bytes(self) -> int:
        """Memory that the blocks take, as the kernel counts it."""
        return sum(extent.allocated_bytes for extent in list(self._extents.values()))

    # Bytes where they stand.

    def leased(self, lease: TierLease, first: int, count: int) -> Blocks:
        """As `greencache.tiers.base.Addressable.leased`."""
        ids = lease.handle.ids[first : first + count]
        return self._views(self.index.state.slot_of[ids])

    def reserved(self, reservation: TierReservation) -> Blocks:
        """As `greencache.tiers.base.Addressable.reserved`."""
        reservation.written = True
        return self._views(reservation.handle.slots)

    def leased_places(self, lease: TierLease, first: int, count: int) -> Places:
        """As `greencache.tiers.base.Shareable.leased_places`."""
        ids = lease.handle.ids[first : first + count]
        return self._places(self.index.state.slot_of[ids])

    def reserved_places(self, reservation: TierReservation) -> Places:
        """As `greencache.tiers.base.Shareable.reserved_places`."""
        reservation.written = True
        return self._places(reservation.handle.slots)

    def extent(self, number: int) -> tuple[int, int]:
        """As `greencache.tiers.base.Shareable.extent`."""
        for extent in list(self._extents.values()):
            if extent.number == number:
                return extent.descriptor, extent.length
        raise BlockStateError(f"extent {number} has no blocks any more")

    def extents(self) -> set[int]:
        """As `greencache.tiers.base.Shareable.extents`."""
        return {extent.number for extent in list(self._extents.values())}

    def extents_gone(self) -> int:
        """As `greencache.tiers.base.Shareable.extents_gone`."""
        return self._gone

    # Memory that devices use by themselves.

    def offer_pins(
        self, holder: PinHolder, but: Collection[int] = ()
    ) -> list[tuple[int, int, int]]:
        """As `greencache.tiers.base.Shareable.offer_pins`."""
        # A tier that is larger than it should be needs all back.
        too_large = len(self._backing) > self.index.capacity_blocks
        if self._pool is None or self._emptying or too_large:
            return []
        stride, most = self.stride_bytes, max(1, _PINNED_AT_ONCE_BYTES // self.stride_bytes)
        offered: list[tuple[int, int, int]] = []
        for place, extent in sorted(self._extents.items()):
            held = self._pins.slots_of(holder, extent.number)
            if extent.number in but or not (held or self._pins.may_offer(holder, extent.number)):
                continue
            runs = self._offerable(place)
            if held:
                if sum(count for _, count in runs) > held + held // 8:
                    self._pins.ask_back(holder, [extent.number])  # to be offered more of it
                continue
            if runs:
                self._pins.offer(holder, extent.number, runs)
            for first, count in runs:
                begin = first - place * self.slots_per_extent
                for at in range(begin, begin + count, most):
                    size = min(most, begin + count - at) * stride
                    offered.append((extent.number, at * stride, size))
        return offered

    def _offerable(self, place: int) -> Runs:
        """Backed slots of an extent, if no more of it are going to be."""
        capacity, begin = self.index.capacity_blocks, place * self.slots_per_extent
        end = begin + self.slots_per_extent
        below = max(0, min(end, capacity) - begin)
        backed = self._backing.between(begin, begin + below)
        if len(self._backing) < capacity and (backed < below or below == 0):
            return []
        runs = self._backing.runs(begin, end)
        return sorted(heapq.nlargest(_MOST_RUNS, runs, key=lambda run: run[1]))

    def unpinned(self, holder: PinHolder, extents: Collection[int] | None = None) -> set[int]:
        """As `greencache.tiers.base.Shareable.unpinned`."""
        held = self._pins.extents_of(holder)
        ended = held if extents is None else held.intersection(extents)
        unasked = ended - self._pins.asked_of(holder)
        self._pins.release(holder, ended)
        if ended and self._pool is not None:
            self._awaited = 0  # it may be given back now
            self._settle()
        return unasked

    def pinned_extents(self, holder: PinHolder) -> tuple[int, int]:
        """As `greencache.tiers.base.Shareable.pinned_extents`."""
        return len(self._pins.extents_of(holder)), len(self._pins.asked_of(holder))

    def _places(self, slots: Slots) -> Places:
        at, within = np.divmod(slots, self.slots_per_extent)
        numbers = [self._extents[place].number for place in at.tolist()]
        offsets = within.astype(np.uint64) * np.uint64(self.stride_bytes)
        return np.array(numbers, np.uint32), offsets

    def _views(self, slots: Slots) -> list[Bytes]:
        return [self._bytes_of(slot) for slot in slots.tolist()]

    def _bytes_of(self, slot: int) -> Bytes:
        number, place = divmod(slot, self.slots_per_extent)
        begin = place * self.stride_bytes
        return self._extents[number].bytes[begin : begin + self.block_bytes]

    # Copies.

    async def _copy(
        self, slots: Slots, blocks: Blocks, move: Callable[[Bytes, Bytes], None]
    ) -> None:
        size = len(slots) * self.block_bytes
        if size < _INLINE_BYTES:
            self._copy_now(slots, blocks, move)
            return
        parts = max(1, min(self._threads, size // _PART_BYTES, len(slots)))
        ends = [len(slots) * part // parts for part in range(parts + 1)]
        await self._in_threads(
            [
                functools.partial(self._copy_now, slots[begin:end], blocks[begin:end], move)
                for begin, end in itertools.pairwise(ends)
            ]
        )

    def _copy_now(self, slots: Slots, blocks: Blocks, move: Callable[[Bytes, Bytes], None]) -> None:
        for slot, block in zip(slots.tolist(), blocks, strict=True):
            move(self._bytes_of(slot), block)

    # Memory.

    def _runs(self, slots: Slots) -> Iterator[tuple[int, int, int]]:
        """Extent, first slot in it and length of each run of slots that follow one another."""
        ordered = np.sort(slots)
        extents = ordered // self.slots_per_extent
        ends = np.flatnonzero((np.diff(ordered) != 1) | (np.diff(extents) != 0)) + 1
        for run in np.split(ordered, ends):
            yield *divmod(int(run[0]), self.slots_per_extent), len(run)

    def _back_now(self, slots: Slots) -> None:
        backed: list[Slots] = []
        for number, place, count in self._runs(slots):
            first = number * self.slots_per_extent + place
            try:
                if number not in self._extents:
                    size = self.slots_per_extent * self.stride_bytes
                    self._made += 1
                    name = f"greencache-{self.name}"
                    self._extents[number] = MemoryFile(self._made, name, size, self.stride_bytes)
                extent = self._extents[number]
                extent.backed_slots += count
                backed.append(np.arange(first, first + count, dtype=np.int32))
                extent.back(place * self.stride_bytes, count * self.stride_bytes)
            except OSError as error:
                if backed:
                    self._give_back_now(np.concatenate(backed))
                raise StorageError(
                    f"tier {self.name} got no memory: {error.strerror}; make it smaller"
                ) from error

    def _give_back_now(self, slots: Slots) -> None:
        for number, place, count in self._runs(slots):
            extent = self._extents[number]
            try:
                extent.give_back(place * self.stride_bytes, count * self.stride_bytes)
            except OSError as error:
                raise StorageError(
                    f"tier {self.name} cannot give memory back: {error.strerror}"
                ) from error
            extent.backed_slots -= count
            if extent.backed_slots == 0:
                del self._extents[number]
                self._gone += 1
                extent.close()

    # Memory that nobody waits for yet.

    def _prefault_later(self) -> None:
        if self._prefault and self._pool is not None and self._prefaulting is None:
            self._prefaulting = asyncio.get_running_loop().create_task(self._prefault_all())

    async def _prefault_all(self) -> None:
        try:
            while self._pool is not None and await self._prefault_piece():
                await asyncio.sleep(0)  # whoever waits to write goes first
        except TierError as fault:
            if self._pool is not None:
                self._failed("prefault", fault)
        finally:
            self._prefaulting = None

    async def _prefault_piece(self) -> bool:
        """Back some slots that will be used next; whether there may be more."""
        async with self._space:
            capacity = self.index.capacity_blocks
            piece = min(capacity - len(self._backing), max(1, _PREFAULT_BYTES // self.stride_bytes))
            slots = self._backing.lowest_missing(max(0, piece), below=capacity)
            await self._back_slots(slots)
        return len(slots) > 0


def _read(slot: Bytes, block: Bytes) -> None:
    copy_bytes(block, slot)


def _write(slot: Bytes, block: Bytes) -> None:
    copy_bytes(slot, block)


_open_tiers: weakref.WeakSet[DramTier] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: let go of memory that is the parent's, which else would stay taken."""
    for tier in list(_open_tiers):
        tier._pool = None  # so that it counts as closed
        tier._close_extents()


os.register_at_fork(after_in_child=_leave_to_parent)
