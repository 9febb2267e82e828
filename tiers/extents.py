"""``Extents``: blocks in slots of large files, moved and checksummed.

Slot s stands in file s // slots_per_extent at (s % slots_per_extent) * stride_bytes. The files are
sparse: a slot takes disk space from `Extents.allocate` until `Extents.punch`. Everything here
blocks, and is called from a tier's threads.

Neighbouring slots are moved by one call. A batch goes in pieces of `PIECE_BYTES`, each checksummed
right after it was read or before it is written: another thread's transfer keeps the disk busy
meanwhile, and the bytes are still in the processor's cache.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
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
"""Most that one call moves. Larger ones read no faster, and leave the disk idle while they are
checksummed; a multiple of `ALIGNMENT`."""

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
    """

    def __init__(self, files: Files, geometry: Geometry) -> None:
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
        checksums: list[bytes] = []
        in_place = self._fits(slots, blocks)
        hashed = xxhash.xxh3_128()
        try:
            for piece in self._pieces(slots):
                parts = [
                    block[piece.begin : piece.end] for block in blocks[piece.first : piece.stop]
                ]
                for part, block in zip(parts, blocks[piece.first : piece.stop], strict=True):
                    hashed.update(part)
                    if piece.end >= len(block):
                        checksums.append(hashed.digest())
                        hashed.reset()
                self._move(
                    write_fully, piece, parts if in_place else [self._gathered(piece, parts)]
                )
        finally:
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
        try:
            in_place = self._fits(slots, blocks)
        except OSError as error:
            return [Outcome.UNREADABLE] * len(blocks), error
        hashed = xxhash.xxh3_128()
        waiting = list(self._pieces(slots))[::-1]
        while waiting:
            piece = waiting.pop()
            try:
                self._fill(piece, blocks, in_place)
            except OSError as error:
                if piece.stop - piece.first > 1:  # find out which of them it is
                    waiting += self._alone(piece)[::-1]
                    continue
                fault = fault or error
                outcomes[piece.first] = Outcome.UNREADABLE
            for place in range(piece.first, piece.stop):
                hashed.update(blocks[place][piece.begin : piece.end])
                if piece.end >= len(blocks[place]):
                    if outcomes[place] is Outcome.GOOD and hashed.digest() != checksums[place]:
                        outcomes[place] = Outcome.DAMAGED
                    hashed.reset()
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

    @staticmethod
    def _alone(piece: Piece) -> list[Piece]:
        """The blocks of a piece, each by itself."""
        return [
            Piece(piece.slot + place, piece.first + place, piece.first + place + 1, 0, piece.end)
            for place in range(piece.stop - piece.first)
        ]

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

    @staticmethod
    def _length(piece: Piece) -> int:
        """Bytes on disk of a piece."""
        return (piece.stop - piece.first) * (piece.end - piece.begin)

    def _gathered(self, piece: Piece, parts: Sequence[Bytes]) -> Bytes:
        """A copy of a piece as it stands on disk."""
        staged = self._staged(self._length(piece))
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            staged[place * length : place * length + len(part)] = part
            staged[place * length + len(part) : (place + 1) * length] = 0
        return staged

    def _fill(self, piece: Piece, blocks: Sequence[Bytes], in_place: bool) -> None:
        """Read a piece into the buffers of its blocks."""
        parts = [block[piece.begin : piece.end] for block in blocks[piece.first : piece.stop]]
        if in_place:
            self._move(read_fully, piece, parts)
            return
        staged = self._staged(self._length(piece))
        self._move(read_fully, piece, [staged])
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            part[:] = staged[place * length : place * length + len(part)]

    def _move(self, move: Mover, piece: Piece, buffers: Sequence[Bytes]) -> None:
        offset, _ = self._range(piece.slot, piece.slot + 1)
        move(self._file(self._number(piece.slot)), buffers, offset + piece.begin)
