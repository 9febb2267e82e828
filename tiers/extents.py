"""``Extents``: blocks in slots of large files, moved and checksummed.

Slot s stands in file s // slots_per_extent at (s % slots_per_extent) * stride_bytes. The files are
sparse: a slot takes disk space from `Extents.allocate` until `Extents.punch`. Everything here
blocks, and is called from a tier's threads.

Neighbouring slots are moved by one call, `PIECE_BYTES` at most. Checksums are made by other threads
than those that read and write, piece by piece: the disk never waits for them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import IntEnum
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from greencache.tiers.files import (
    ALIGNMENT,
    Bytes,
    Files,
    OpenFile,
    address,
    aligned_buffer,
    read_fully,
    write_fully,
)
from greencache.tiers.manifest import Geometry

__all__ = ["Extents", "Outcome", "extent_name", "extent_number"]

PIECE_BYTES = 4 * 2**20
"""Most that one call moves, a multiple of `ALIGNMENT`. The checksum of the last piece of a batch is
what its reader waits for after the disk is done."""

_PREFIX = "extent-"

Slots = NDArray[np.int32]
Mover = Callable[[OpenFile, Sequence[Bytes], int], None]


class Outcome(IntEnum):
    """What became of a block that was read."""

    GOOD = 0
    UNREADABLE = 1
    DAMAGED = 2


class Piece(NamedTuple):
    """What one call moves: neighbouring blocks, or a part of one."""

    slot: int
    first: int
    """Place of the first block in the batch."""
    stop: int
    """Place after the last one."""
    begin: int
    """Byte of the slot to begin at: 0 unless it is a part."""
    end: int
    """Byte of the slot, or of the last one, to end before."""

    @property
    def length(self) -> int:
        """Bytes on disk."""
        return (self.stop - self.first) * (self.end - self.begin)

    def parts(self, blocks: Sequence[Bytes]) -> list[Bytes]:
        """What of each block's buffer is in it."""
        return [block[self.begin : self.end] for block in blocks[self.first : self.stop]]

    def alone(self) -> list[Piece]:
        """Its blocks, each by itself."""
        return [
            self._replace(
                slot=self.slot + place, first=self.first + place, stop=self.first + place + 1
            )
            for place in range(self.stop - self.first)
        ]


def _checksums(blocks: Sequence[Bytes]) -> list[bytes]:
    return [xxhash.xxh3_128_digest(block.data) for block in blocks]


def _mismatches(
    arrived: SimpleQueue[Piece | None], blocks: Sequence[Bytes], checksums: Sequence[bytes]
) -> list[int]:
    """Places of blocks that do not match their checksums, as pieces arrive in order."""
    found: list[int] = []
    hashed = xxhash.xxh3_128()
    for piece in iter(arrived.get, None):
        for place, part in enumerate(piece.parts(blocks), piece.first):
            hashed.update(part.data)
            if piece.end >= len(blocks[place]):
                if hashed.digest() != checksums[place]:
                    found.append(place)
                hashed.reset()
    return found


def extent_name(number: int) -> str:
    """Name of a file of slots."""
    return f"{_PREFIX}{number:06d}"


def extent_number(name: str) -> int | None:
    """Number of a file of slots, None if the file is another."""
    digits = name.removeprefix(_PREFIX)
    if not digits.isascii() or not digits.isdigit() or extent_name(int(digits)) != name:
        return None
    return int(digits)


class Extents:
    """The files of a tier's slots.

    Parameters
    ----------
    files:
        The tier's directory.
    geometry:
        What slots are like.
    threads:
        Threads that make checksums: as many as there are to call `read` and `write` at a time.
    """

    def __init__(self, files: Files, geometry: Geometry, threads: int) -> None:
        # A reader waits for its checksums, and they for it: each needs a thread.
        self._hashers = ThreadPoolExecutor(threads, "greencache-checksum")
        self._files, self._geometry = files, geometry
        self._open: dict[int, OpenFile] = {}
        self._dirty: set[int] = set()
        self._unsynced_names = False
        self._changing = threading.Lock()
        self._syncing = threading.Lock()  # taken before the other, if both are
        self._staging = threading.local()

    @property
    def extent_bytes(self) -> int:
        """Length of each file."""
        return self._geometry.slots_per_extent * self._geometry.stride_bytes

    def numbers(self) -> list[int]:
        """Numbers of the files there are."""
        found = [extent_number(name) for name in self._files.names()]
        return sorted(number for number in found if number is not None)

    def whole_slots(self, number: int) -> int:
        """How many slots a file is long enough for; it may have been cut short."""
        return self._file(number).size() // self._geometry.stride_bytes

    def write(self, slots: Slots, blocks: Sequence[Bytes]) -> list[bytes]:
        """Write blocks to slots in rising order; their checksums.

        Raises
        ------
        OSError
            If any cannot be written.
        """
        in_place = self._fits(slots, blocks)
        hashing = self._hashers.submit(_checksums, blocks)
        try:
            for piece in self._pieces(slots):
                parts = piece.parts(blocks)
                self._move(
                    write_fully, piece, parts if in_place else [self._gathered(piece, parts)]
                )
        finally:
            checksums = hashing.result()
            # Only now: `sync` may have come in between, and has not seen all of it.
            with self._changing:
                self._dirty.update(np.unique(slots // self._geometry.slots_per_extent).tolist())
        return checksums

    def read(
        self, slots: Slots, blocks: Sequence[Bytes], checksums: Sequence[bytes]
    ) -> tuple[list[Outcome], OSError | None]:
        """Read slots in rising order into buffers.

        Returns
        -------
        outcomes, fault
            What became of each block, and why the first one that could not be read could not.
        """
        outcomes = [Outcome.GOOD] * len(blocks)
        fault: OSError | None = None
        arrived: SimpleQueue[Piece | None] = SimpleQueue()
        hashing = self._hashers.submit(_mismatches, arrived, blocks, checksums)
        try:
            in_place = self._fits(slots, blocks)
            waiting = list(self._pieces(slots))[::-1]
            while waiting:
                piece = waiting.pop()
                try:
                    self._fill(piece, blocks, in_place)
                except OSError as error:
                    if piece.stop - piece.first > 1:  # find out which of them it is
                        waiting += piece.alone()[::-1]
                        continue
                    fault = fault or error
                    outcomes[piece.first] = Outcome.UNREADABLE
                arrived.put(piece)
        except OSError as error:  # there is no such file
            return [Outcome.UNREADABLE] * len(blocks), error
        finally:
            arrived.put(None)
            damaged = hashing.result()
        for place in damaged:
            if outcomes[place] is Outcome.GOOD:
                outcomes[place] = Outcome.DAMAGED
        return outcomes, fault

    def allocate(self, slots: Slots) -> None:
        """Put disk space behind slots, in rising order, all or none.

        Raises
        ------
        OSError
            If there is not enough.
        """
        try:
            for first, stop in self._runs(slots):
                self._file(self._number(first), create=True).allocate(*self._range(first, stop))
        except OSError:
            with suppress(OSError):
                self.punch(slots)
            raise

    def punch(self, slots: Slots) -> None:
        """Give the disk space behind slots back, in rising order.

        Raises
        ------
        OSError
            If that failed.
        """
        for first, stop in self._runs(slots):
            with suppress(FileNotFoundError):
                self._file(self._number(first)).punch(*self._range(first, stop))

    def give_back(self, slots: Slots, empty: Sequence[int]) -> None:
        """Punch slots, in rising order, and remove the files of which none is in use any more.

        Raises
        ------
        OSError
            If that failed.
        """
        gone = np.isin(slots // self._geometry.slots_per_extent, empty)
        for number in empty:
            self.remove(number)
        if not gone.all():
            self.punch(slots[~gone])

    def punch_all_but(self, slots: Slots) -> None:
        """Give the disk space of every other slot back, and make files as long as they should be.

        Raises
        ------
        OSError
            If that failed.
        """
        per_extent = self._geometry.slots_per_extent
        for number in self.numbers():
            inside = np.sort(slots[slots // per_extent == number]) - number * per_extent
            begins = np.concatenate([[0], inside + 1])
            gaps = np.concatenate([inside, [per_extent]]) - begins
            file = self._file(number)
            if file.size() != self.extent_bytes:
                file.truncate(self.extent_bytes)
            for begin, gap in zip(begins[gaps > 0].tolist(), gaps[gaps > 0].tolist(), strict=True):
                offset, length = self._range(begin, begin + gap)
                file.punch(offset, length)

    def remove(self, number: int) -> None:
        """Remove a file no slot of which is in use.

        Raises
        ------
        OSError
            If that failed.
        """
        with self._syncing, self._changing:
            self._dirty.discard(number)
            file = self._open.pop(number, None)
            if file is not None:
                file.close()
            with suppress(FileNotFoundError):
                self._files.unlink(extent_name(number))

    def sync(self) -> None:
        """Make all that was written before outlast a loss of power.

        Raises
        ------
        OSError
            If that failed; it is tried again by the next call.
        """
        with self._syncing:
            with self._changing:
                dirty, self._dirty = self._dirty, set()
                names, self._unsynced_names = self._unsynced_names, False
            try:
                for number in sorted(dirty):
                    self._file(number).sync()
                if names:
                    self._files.sync()
            except OSError:
                with self._changing:
                    self._dirty |= dirty
                    self._unsynced_names |= names
                raise

    def close(self) -> None:
        """Close all files."""
        self._hashers.shutdown()
        with self._syncing, self._changing:
            for file in self._open.values():
                file.close()
            self._open.clear()

    # Where slots are.

    def _number(self, slot: int) -> int:
        return slot // self._geometry.slots_per_extent

    def _range(self, first: int, stop: int) -> tuple[int, int]:
        """Offset and length, in their file, of slots up to ``stop``."""
        stride = self._geometry.stride_bytes
        return first % self._geometry.slots_per_extent * stride, (stop - first) * stride

    def _runs(self, slots: Slots) -> Iterator[tuple[int, int]]:
        """Runs of neighbouring slots in one file: first, and after the last."""
        for begin, end in self._run_places(slots):
            yield int(slots[begin]), int(slots[end - 1]) + 1

    def _run_places(self, slots: Slots) -> Iterator[tuple[int, int]]:
        apart = np.diff(slots) != 1
        apart |= np.diff(slots // self._geometry.slots_per_extent) != 0
        bounds = [0, *(np.flatnonzero(apart) + 1).tolist(), len(slots)]
        yield from itertools.pairwise(bounds)

    def _pieces(self, slots: Slots) -> Iterator[Piece]:
        stride = self._geometry.stride_bytes
        step = max(1, PIECE_BYTES // stride)
        for begin, end in self._run_places(slots):
            for first in range(begin, end, step):
                stop = min(first + step, end)
                for part in range(0, stride, PIECE_BYTES):
                    last = min(part + PIECE_BYTES, stride)
                    yield Piece(int(slots[first]), first, stop, part, last)

    def _file(self, number: int, *, create: bool = False) -> OpenFile:
        file = self._open.get(number)
        if file is not None:
            return file
        with self._changing:
            if number not in self._open:
                file = self._files.open(extent_name(number), create=create, direct=True)
                if create and file.size() < self.extent_bytes:
                    file.truncate(self.extent_bytes)
                    self._unsynced_names = True
                self._open[number] = file
            return self._open[number]

    # Moving bytes.

    def _fits(self, slots: Slots, blocks: Sequence[Bytes]) -> bool:
        """Whether buffers can be read into and written from as they are."""
        if self._geometry.block_bytes != self._geometry.stride_bytes:
            return False
        alignment = self._file(self._number(int(slots[0]))).address_alignment
        return alignment == 1 or all(address(block) % alignment == 0 for block in blocks)

    def _staged(self, length: int) -> Bytes:
        """An aligned buffer of this thread's own."""
        staging: Bytes | None = getattr(self._staging, "buffer", None)
        if staging is None or len(staging) < length:
            staging = aligned_buffer(max(length, ALIGNMENT))
            self._staging.buffer = staging
        return staging[:length]

    def _gathered(self, piece: Piece, parts: Sequence[Bytes]) -> Bytes:
        """A copy of a piece as it stands on disk."""
        staged = self._staged(piece.length)
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            staged[place * length : place * length + len(part)] = part
            staged[place * length + len(part) : (place + 1) * length] = 0
        return staged

    def _fill(self, piece: Piece, blocks: Sequence[Bytes], in_place: bool) -> None:
        """Read a piece into the buffers of its blocks."""
        parts = piece.parts(blocks)
        if in_place:
            self._move(read_fully, piece, parts)
            return
        staged = self._staged(piece.length)
        self._move(read_fully, piece, [staged])
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            part[:] = staged[place * length : place * length + len(part)]

    def _move(self, move: Mover, piece: Piece, buffers: Sequence[Bytes]) -> None:
        offset, _ = self._range(piece.slot, piece.slot + 1)
        move(self._file(self._number(piece.slot)), buffers, offset + piece.begin)
