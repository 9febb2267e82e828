"""``SsdTier``: blocks in files on a local disk, which outlast the process.

What is where is in the `Manifest`, bytes are in `Extents`, and a `TierIndex` in memory decides, as
in every tier of slots. A block's life on disk:

1. If a block stood in its slot before, the manifest says that the slot is free.
2. Its bytes are written, by direct I/O where the filesystem has it.
3. When all of its batch is written, the manifest says where it is and what its checksum is. From
   now on it outlasts the process, however that ends; its commit lets this one find it. What is
   given up instead is free on disk from the next flush on; until then it is a block like any other
   to the next process.
4. `SsdTier.flush` syncs the files of slots, then the manifest. From now on it outlasts the power.

A block is given out only if its bytes match its checksum, so whatever was lost or mixed up before
is a miss. Opening finds blocks again without reading them: a block whose parent is not there goes,
and every slot that no block stands in gives its disk space back.

Disk space, as ``du`` counts it, never goes beyond the capacity: the manifest and what filesystems
keep besides are taken out of it before slots are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from greencache.blocks import KEY_BYTES
from greencache.errors import InputError, StorageError, TierClosedError, TierError
from greencache.tiers.base import Blocks, TierReservation
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.extents import Extents, extent_name
from greencache.tiers.files import ALIGNMENT, Directory, Files, filesystem_bytes, reported
from greencache.tiers.index import TierIndex
from greencache.tiers.manifest import (
    RECORD,
    Geometry,
    Manifest,
    freed,
    manifest_bytes,
    stored,
)
from greencache.tiers.policies import Policy
from greencache.tiers.recovery import LOST, Found, find_blocks, recover
from greencache.tiers.slots import Slots, SlotTier
from greencache.tiers.state import NONE
from greencache.tiers.transfers import Outcome, Transfers

__all__ = ["SsdTier"]

T = TypeVar("T")
Opened = TypeVar("Opened", Files, Manifest)

EXTENT_BYTES = 8 * 2**30
"""Length of a file of slots. They are sparse, so this costs nothing; each is kept open, and few
processes may have more than 1,024 files open."""

DEPTH = 4

_KEYS_AT_ONCE = 2048
"""Given their ids at once when blocks are found again: about a millisecond."""

_MAPPED_SHARE = 256
"""One part in so many of the data is left to the filesystem for finding it: if every 4 KiB page
were mapped by itself, ext4 would take 12 bytes for each (ext4_extent), xfs 16 (xfs_bmbt_rec)."""

_FIXED_BYTES = 64 * 2**10
"""Left for the directory itself, the lock, and a page or two of map for each file of slots."""


@dataclass(slots=True)
class _Parts:
    """What an open tier consists of."""

    files: Files
    extents: Extents
    manifest: Manifest
    transfers: Transfers

    def sync(self) -> None:
        """Make all that is committed outlast the power: bytes first, then what says so."""
        self.extents.sync()
        self.manifest.sync()

    def close(self) -> None:
        """Close all, whatever closing one of them says; another process may have the directory."""
        with ExitStack() as last:
            for part in (self.files, self.extents, self.manifest, self.transfers):
                last.callback(part.close)


class SsdTier(SlotTier):
    """A tier in a directory on a local disk.

    Parameters
    ----------
    path:
        The directory, for this tier alone; made if it is missing. One that another process uses,
        that others may write to, or that holds other files is refused when the tier is opened.
    block_bytes, capacity_bytes:
        Bytes of a block, and disk space that the directory may take with all in it.
    namespace:
        Digest of what two engines must share to read each other's blocks (`KVLayout.namespace`). A
        directory with another's blocks is refused.
    start_empty:
        Throw away what is there if it is of another namespace, format or size of block, instead of
        refusing it.
    depth:
        How many transfers of a batch the disk has to do at a time.
    extent_bytes:
        Most that a file of slots is long.
    open_files:
        What opens the directory; tests put failing disks here.
    name, directory, policy, index, clock:
        As in `SlotTier`.
    """

    def __init__(
        self,
        path: Path | str,
        block_bytes: int,
        capacity_bytes: int,
        *,
        namespace: bytes = bytes(KEY_BYTES),
        start_empty: bool = False,
        depth: int = DEPTH,
        extent_bytes: int = EXTENT_BYTES,
        open_files: Callable[[Path], Files] = Directory,
        name: str = "ssd",
        directory: KeyDirectory | None = None,
        policy: Policy | str = Policy.LRU,
        index: TierIndex | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if depth < 1 or len(namespace) != KEY_BYTES:
            raise InputError(
                f"an SSD tier has a depth of 1 or more, a namespace of {KEY_BYTES} bytes"
            )
        super().__init__(
            name,
            block_bytes,
            capacity_bytes,
            stride_bytes=-(-block_bytes // ALIGNMENT) * ALIGNMENT,
            directory=directory,
            policy=policy,
            index=index,
            threads=depth,
            clock=clock,
        )
        self.path = Path(path)
        self._depth, self._start_empty, self._open_files = depth, start_empty, open_files
        slots_per_extent = max(1, extent_bytes // self.stride_bytes)
        self._geometry = Geometry(block_bytes, self.stride_bytes, slots_per_extent, namespace)
        self._parts: _Parts | None = None

    def _slots_in(self, capacity_bytes: int) -> int:
        per_slot = self.stride_bytes * (1 + 1 / _MAPPED_SHARE) + 4 * RECORD.itemsize
        slots = max(0, int((capacity_bytes - _FIXED_BYTES) / per_slot))
        while slots and self._needed(slots) > capacity_bytes:
            slots -= 1
        return slots

    def bytes_for(self, blocks: int) -> int:
        """As `SlotTier.bytes_for`: with all that belongs to them."""
        needed = self._needed(blocks)
        while self._slots_in(needed) < blocks:
            needed += self.stride_bytes
        return needed

    def _needed(self, slots: int) -> int:
        data = slots * self.stride_bytes
        return (
            data + data // _MAPPED_SHARE + manifest_bytes(slots, self.stride_bytes) + _FIXED_BYTES
        )

    def _own_bytes(self) -> int:
        return manifest_bytes(self.index.capacity_blocks, self.stride_bytes) + _FIXED_BYTES

    async def _check_capacity(self, capacity_bytes: int) -> None:
        whole_bytes = await asyncio.to_thread(filesystem_bytes, self.path)
        if capacity_bytes > whole_bytes:
            raise TierError(
                f"the filesystem of {self.path} has {whole_bytes:,} bytes in all, and tier"
                f" {self.name} was to have {capacity_bytes:,}: give it less, or another disk"
            )

    # Opening and closing.

    async def _start(self) -> None:
        with ExitStack() as undo:
            files = await self._opened_in(undo, partial(self._open_files, self.path))
            extents = Extents(files, self._geometry)
            undo.callback(extents.close)
            find = partial(find_blocks, files, extents, self._geometry, self._start_empty)
            found = await self._run(find)
            restored = await self._restore(found)
            capacity_blocks = self.index.capacity_blocks
            begin = partial(recover, found, restored, capacity_blocks)
            manifest = await self._opened_in(undo, begin)
            transfers = Transfers(extents, self.block_bytes, self.stride_bytes, self._depth)
            undo.pop_all()
        self._parts = _Parts(files, extents, manifest, transfers)
        self._backing.add(np.flatnonzero(self.index.occupied_slots()).astype(np.int32))

    async def _opened_in(self, undo: ExitStack, opening: Callable[[], Opened]) -> Opened:
        """Open something in a thread; ``undo`` closes it, also if its caller was cancelled."""

        def run() -> Opened:
            opened = opening()
            undo.callback(opened.close)
            return opened

        return await self._run(run)

    async def _restore(self, found: Found) -> NDArray[np.intp]:
        """Fill the index with what was found; which of it is there then."""
        sound = np.flatnonzero(found.parents != LOST)
        keys = found.records["key"][sound]
        ids = np.empty(len(sound), np.int32)
        for begin in range(0, len(keys), _KEYS_AT_ONCE):
            end = begin + _KEYS_AT_ONCE
            ids[begin:end] = self.directory.intern(keys[begin:end].tolist())
            await asyncio.sleep(0)  # others share the directory, and the loop
        return await self._run(partial(self._restore_index, found, sound, ids))

    def _restore_index(
        self, found: Found, sound: NDArray[np.intp], ids: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        """In a thread: nobody uses the index before the tier is open."""
        slots, now_s = found.records["slot"][sound], self.clock()
        self.index.restore(ids, found.parents[sound], slots, now_s)
        self.index.resize(self.index.capacity_blocks, now_s)  # it may have become smaller
        return sound[self.index.occupied_slots()[slots]]

    async def _stop(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            with reported(f"close {self.path}"):
                parts.close()

    @property
    def _in_use(self) -> _Parts:
        if self._parts is None:
            raise TierClosedError(f"tier {self.name} is not open: use it in `async with`")
        return self._parts

    async def flush(self) -> None:
        """As `Tier.flush`: what is committed now outlasts a loss of power from now on.

        Raises
        ------
        StorageError
            If the disk fails; the next call tries again.
        """
        parts = self._in_use
        async with self._space:  # no slot is claimed meanwhile, to be written and recorded anew
            gone = parts.manifest.held_slots()
            occupied = self.index.occupied_slots()[: len(gone)]
            gone[: len(occupied)] &= ~occupied
            if gone.any():
                await self._run(partial(parts.manifest.append, freed(np.flatnonzero(gone))))
        with reported(f"flush {self.path}"):
            await self._run(parts.sync)

    async def _resize(self, capacity_bytes: int) -> int:
        """As `SlotTier._resize`; the manifest's size follows."""
        slots = self._slots_in(capacity_bytes)
        make_room = partial(self._in_use.manifest.resize, slots)
        if slots > self.index.capacity_blocks:
            await self._run(make_room)  # if there is none, the tier is as before
            return await super()._resize(capacity_bytes)
        left_bytes = await super()._resize(capacity_bytes)
        try:
            await self._run(make_room)
        except StorageError as fault:
            self._failed("manifest", fault)  # it takes more than its share for now
        return left_bytes

    # Slots.

    async def _read_slots(self, slots: Slots, into: Blocks) -> NDArray[np.bool_]:
        parts = self._in_use
        checksums = parts.manifest.of_slot["checksum"][slots].tolist()
        reads = parts.transfers.reads(slots, list(into), checksums)
        *_, (outcomes, fault) = await self._in_threads(reads, parts.transfers.readers)
        for slot, outcome in zip(slots.tolist(), outcomes, strict=True):
            if outcome is Outcome.UNREADABLE:
                self._failed("read", fault or OSError("it could not be read"))
            elif outcome is Outcome.DAMAGED:
                self._failed("checksum", self._damaged_at(slot))
        return np.array(outcomes) == Outcome.GOOD

    def _damaged_at(self, slot: int) -> StorageError:
        extent = self.path / extent_name(slot // self._geometry.slots_per_extent)
        return StorageError(f"the block in slot {slot} of {extent} does not match its checksum")

    async def _write_slots(self, reservation: TierReservation, blocks: Blocks) -> None:
        transfers, slots = self._in_use.transfers, reservation.handle.slots
        before = partial(self._free_on_disk, slots)
        after = self._recording(slots, reservation.keys)
        with reported(f"write to {self.path}"):
            await self._in_threads(
                transfers.writes(slots, list(blocks), before, after), transfers.writers
            )

    def _free_on_disk(self, slots: Slots) -> None:
        """Have the manifest say that no block stands in these slots any more."""
        manifest = self._in_use.manifest
        recorded = manifest.recorded(slots)
        if len(recorded):
            manifest.append(freed(recorded))

    def _recording(self, slots: Slots, keys: Sequence[bytes]) -> Callable[[list[bytes]], None]:
        """What has the manifest say that these blocks stand in these slots, given checksums."""
        manifest = self._in_use.manifest
        before = int(self.index.state.slots["parent"][slots[0]])
        parent = bytes(KEY_BYTES) if before == NONE else manifest.of_slot["key"][before].tobytes()
        parents = [parent, *keys[:-1]]

        def record(checksums: list[bytes]) -> None:
            manifest.append(stored(slots, keys, parents, checksums))

        return record

    async def _back(self, slots: Slots) -> None:
        with reported(f"take disk space in {self.path}"):
            await self._run(partial(self._in_use.extents.allocate, np.sort(slots)))

    async def _give_back(self, slots: Slots) -> None:
        parts = self._in_use
        try:
            await self._run(partial(self._free_on_disk, slots))
        except StorageError as fault:
            self._failed("manifest", fault)  # blocks there will not match their checksums
        per_extent = self._geometry.slots_per_extent
        going = zip(*np.unique(slots // per_extent, return_counts=True), strict=True)
        empty = [
            int(number)
            for number, count in going
            if self._backing.between(number * per_extent, (number + 1) * per_extent) == count
        ]
        # No file goes before all space is given back: if that fails, its slots stay in use.
        with reported(f"give disk space in {self.path} back"):
            await self._run(partial(parts.extents.punch, np.sort(slots)))
        try:
            with reported(f"remove empty files in {self.path}"):
                await self._in_threads([partial(parts.extents.remove, each) for each in empty])
        except StorageError as fault:
            self._failed("give back", fault)  # they take no space, and serve when it grows again

    async def _run(self, job: Callable[[], T]) -> T:
        (result,) = await self._in_threads([job])
        return result
