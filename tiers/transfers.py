"""``Transfers``: batches of blocks between buffers and `Extents`, checksummed on the way.

A batch is cut into pieces, which ``depth`` threads read or write: neighbouring slots go by one
call, large blocks are shared by several. The thread that moves a piece makes its checksums too,
while the disk is busy with the pieces of others: a batch waits for no more than those of its first
or last pieces. Reads and writes have threads of their own: a read waits for no write that was asked
for before.

Where a buffer's address, or a block's size, is not what direct I/O wants, pieces go through an
aligned buffer of the thread's own, at the cost of a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import xxhash

from greencache.tiers.extents import Extents, Slots
from greencache.tiers.files import (
    ALIGNMENT,
    Bytes,
    address,
    aligned_buffer,
    read_fully,
    write_fully,
)

__all__ = ["Outcome", "Transfers", "checksum"]

PART_BYTES = 2**20
"""What has a checksum of its own, so that several threads can share a large block; a multiple of
`ALIGNMENT`. It is part of the format of what is on disk."""

LARGEST_PIECE_BYTES = 4 * PART_BYTES
"""Most that one call moves; the least is a part. From 2 to 32 MiB a disk is equally fast, and the
checksums of a piece are what a batch waits for beside the disk."""


def checksum(block: Bytes) -> bytes:
    """xxh3_128 of a block's bytes, or, of one of several parts, of its parts' xxh3_128."""
    return _joined(_checksums_of(block))


def _checksums_of(buffer: Bytes) -> list[bytes]:
    """Of each part."""
    return [
        xxhash.xxh3_128_digest(buffer[begin : begin + PART_BYTES].data)
        for begin in range(0, len(buffer), PART_BYTES)
    ]


def _joined(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else xxhash.xxh3_128_digest(b"".join(parts))


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

    def of(self, blocks: Sequence[Bytes]) -> list[Bytes]:
        """What of each block's buffer is in it."""
        return [block[self.begin : self.end] for block in blocks[self.first : self.stop]]

    def parts_of_one(self, block_bytes: int) -> int:
        """How many parts that have checksums it has of each block."""
        return -(-(min(self.end, block_bytes) - self.begin) // PART_BYTES)

    def alone(self) -> list[Piece]:
        """Its blocks, each by itself."""
        return [
            self._replace(slot=self.slot + i, first=self.first + i, stop=self.first + i + 1)
            for i in range(self.stop - self.first)
        ]


class Transfers:
    """Reads and writes batches of blocks; callers are threads that may wait.

    Parameters
    ----------
    extents:
        Where slots are.
    block_bytes, stride_bytes:
        Bytes of a block and of a slot.
    depth:
        Threads that read, and as many that write.
    """

    def __init__(self, extents: Extents, block_bytes: int, stride_bytes: int, depth: int) -> None:
        self._extents, self._depth = extents, depth
        self._block_bytes, self._stride_bytes = block_bytes, stride_bytes
        self._readers = ThreadPoolExecutor(depth, "greencache-read")
        self._writers = ThreadPoolExecutor(depth, "greencache-write")
        self._own = threading.local()

    def close(self) -> None:
        """End the threads, after what they have to do."""
        self._readers.shutdown()
        self._writers.shutdown()

    def write(self, slots: Slots, blocks: Sequence[Bytes]) -> list[bytes]:
        """Write blocks to slots; their checksums.

        Raises
        ------
        OSError
            If any cannot be written; none is being written any more then.
        """
        order = np.argsort(slots)
        in_order = [blocks[place] for place in order.tolist()]
        in_place = self._fits(slots, blocks)
        moves: list[Future[list[bytes]]] = []
        try:
            for piece in self._pieces(slots[order]):
                moves.append(self._writers.submit(self._put, piece, in_order, in_place))
        finally:
            wait(moves)
            self._extents.written(slots)
        parts = [part for move in moves for part in move.result()]
        checksums = [b""] * len(blocks)
        for place, own in zip(order.tolist(), self._by_block(parts), strict=True):
            checksums[place] = _joined(own)
        return checksums

    def read(
        self, slots: Slots, blocks: Sequence[Bytes], checksums: Sequence[bytes]
    ) -> tuple[list[Outcome], OSError | None]:
        """Read slots into buffers.

        Returns
        -------
        outcomes, fault
            What became of each block, and why one that could not be read could not.
        """
        order = np.argsort(slots)
        in_order = [blocks[place] for place in order.tolist()]
        outcomes = [Outcome.GOOD] * len(blocks)
        fault: OSError | None = None
        parts: list[bytes] = []
        moves: list[tuple[Piece, Future[list[bytes]]]] = []
        try:
            in_place = self._fits(slots, blocks)
            for piece in self._pieces(slots[order]):
                moves.append((piece, self._readers.submit(self._get, piece, in_order, in_place)))
            for piece, move in moves:
                try:
                    parts += move.result()
                except OSError:
                    # Find out which of its blocks it is.
                    for single in piece.alone():
                        try:
                            parts += self._get(single, in_order, in_place)
                        except OSError as error:
                            fault = error
                            outcomes[order[single.first]] = Outcome.UNREADABLE
                            parts += [b""] * single.parts_of_one(self._block_bytes)
        except OSError as error:  # there is no such file
            return [Outcome.UNREADABLE] * len(blocks), error
        finally:
            wait([move for _, move in moves])
        for place, own in zip(order.tolist(), self._by_block(parts), strict=True):
            if not outcomes[place] and _joined(own) != checksums[place]:
                outcomes[place] = Outcome.DAMAGED
        return outcomes, fault

    def _by_block(self, parts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Checksums of parts, block by block."""
        each = -(-self._block_bytes // PART_BYTES)
        for begin in range(0, len(parts), each):
            yield parts[begin : begin + each]

    def _fits(self, slots: Slots, blocks: Sequence[Bytes]) -> bool:
        """Whether buffers can be read into and written from as they are."""
        if self._block_bytes != self._stride_bytes:
            return False
        alignment = self._extents.place(int(slots[0]))[0].address_alignment
        return alignment == 1 or all(address(block) % alignment == 0 for block in blocks)

    def _pieces(self, slots: Slots) -> Iterator[Piece]:
        """Cut a batch of slots in rising order so that every thread has something to do."""
        stride = self._stride_bytes
        share = -(-len(slots) * stride // self._depth // PART_BYTES) * PART_BYTES
        most = max(PART_BYTES, min(share, LARGEST_PIECE_BYTES))
        step = max(1, most // stride)
        for begin, end in self._extents.runs(slots):
            for first in range(begin, end, step):
                stop = min(first + step, end)
                for part in range(0, stride, most):
                    yield Piece(int(slots[first]), first, stop, part, min(part + most, stride))

    def _put(self, piece: Piece, blocks: Sequence[Bytes], in_place: bool) -> list[bytes]:
        """Write a piece; checksums of its parts, made before, while others' are on their way."""
        file, offset = self._extents.place(piece.slot)
        buffers = piece.of(blocks)
        checksums = [part for buffer in buffers for part in _checksums_of(buffer)]
        moved = buffers if in_place else [self._gathered(piece, buffers)]
        write_fully(file, moved, offset + piece.begin)
        return checksums

    def _get(self, piece: Piece, blocks: Sequence[Bytes], in_place: bool) -> list[bytes]:
        """Read a piece; checksums of its parts."""
        file, offset = self._extents.place(piece.slot)
        buffers = piece.of(blocks)
        if in_place:
            read_fully(file, buffers, offset + piece.begin)
        else:
            staged = self._staged(piece.length)
            read_fully(file, [staged], offset + piece.begin)
            length = piece.end - piece.begin
            for place, buffer in enumerate(buffers):
                buffer[:] = staged[place * length : place * length + len(buffer)]
        return [part for buffer in buffers for part in _checksums_of(buffer)]

    def _gathered(self, piece: Piece, buffers: Sequence[Bytes]) -> Bytes:
        """A copy of a piece as it stands on disk."""
        staged = self._staged(piece.length)
        length = piece.end - piece.begin
        for place, buffer in enumerate(buffers):
            staged[place * length : place * length + len(buffer)] = buffer
            staged[place * length + len(buffer) : (place + 1) * length] = 0
        return staged

    def _staged(self, length: int) -> Bytes:
        """An aligned buffer of this thread's own."""
        staged: Bytes | None = getattr(self._own, "buffer", None)
        if staged is None or len(staged) < length:
            staged = aligned_buffer(length)
            self._own.buffer = staged
        return staged[:length]
