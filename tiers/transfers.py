"""``Transfers``: batches of blocks between buffers and `Extents`, checksummed on the way.

A batch is cut into pieces, which ``depth`` threads read or write: neighbouring slots go by one
call, large blocks are shared by several. One thread more makes checksums meanwhile, so the disk
waits for none of them. Reads and writes have threads of their own: a read waits for no write that
was asked for before.

Where a buffer's address, or a block's size, is not what direct I/O wants, pieces go through an
aligned buffer of the thread's own, at the cost of a copy.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
import xxhash

from greencache.tiers.extents import Extents, Slots
from greencache.tiers.files import (
    ALIGNMENT,
    Bytes,
    OpenFile,
    address,
    aligned_buffer,
    read_fully,
    write_fully,
)
from greencache.tiers.workers import started_pool

__all__ = ["Outcome", "Read", "Transfers"]

T = TypeVar("T")

SMALLEST_PIECE_BYTES = 2**20
LARGEST_READ_BYTES = 2 * 2**20
LARGEST_WRITE_BYTES = 8 * 2**20
"""Least and most that one call moves, multiples of `ALIGNMENT`. From 2 to 32 MiB a disk is equally
fast. The checksum of the last piece is what a reader waits for after the disk is done; a writer
waits for none, and where other work shares the processors, fewer calls are faster."""


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
            self._replace(slot=self.slot + i, first=self.first + i, stop=self.first + i + 1)
            for i in range(self.stop - self.first)
        ]


class Read(NamedTuple):
    """What became of blocks that were read, and why one that could not be read could not."""

    outcomes: list[Outcome]
    fault: OSError | None


def _taken_from(left: deque[T]) -> Iterator[T]:
    """What is left, one by one; several threads may take from the same."""
    while True:
        try:
            yield left.popleft()
        except IndexError:
            return


class Transfers:
    """What reads and writes batches of blocks.

    A batch is several calls, each for a thread of its own: of `readers`, or of `writers`.

    Parameters
    ----------
    extents:
        Where slots are.
    block_bytes, stride_bytes:
        Bytes of a block and of a slot.
    depth:
        Threads that move a batch.

    Raises
    ------
    TierError
        If there are no threads to be had.
    """

    def __init__(self, extents: Extents, block_bytes: int, stride_bytes: int, depth: int) -> None:
        self._extents, self._depth = extents, depth
        self._block_bytes, self._stride_bytes = block_bytes, stride_bytes
        # One thread more, for checksums.
        with ExitStack() as undo:
            self.readers = started_pool(depth + 1, "greencache-read")
            undo.callback(self.readers.shutdown)
            self.writers = started_pool(depth + 1, "greencache-write")
            undo.pop_all()
        self._own = threading.local()

    def close(self) -> None:
        """End the threads, after what they have to do."""
        self.readers.shutdown()
        self.writers.shutdown()

    def writes(
        self,
        slots: Slots,
        blocks: Sequence[Bytes],
        before: Callable[[], None],
        after: Callable[[list[bytes]], None],
    ) -> list[Callable[[], None]]:
        """What writes blocks to slots.

        The first of these calls calls ``before``; nothing is written until that has returned, nor
        if it raised. Whichever ends last calls ``after`` with the blocks' checksums, if all is
        written. Others raise `OSError` if something cannot be.
        """
        order = np.argsort(slots)
        in_order = [blocks[place] for place in order.tolist()]
        pieces = deque(self._pieces(slots[order], LARGEST_WRITE_BYTES))
        ready: Future[None] = Future()
        checksums: list[bytes] = []

        def begin() -> None:
            try:
                before()
            except BaseException as error:
                ready.set_exception(error)
            else:
                ready.set_result(None)
            write()

        def write() -> None:
            ready.result()
            for piece in _taken_from(pieces):
                self._put(piece, in_order)
            end()

        def check() -> None:
            checksums.extend(xxhash.xxh3_128_digest(block.data) for block in blocks)
            end()

        def end() -> None:
            if running.pop() == 0:  # taken by whoever ends last, by nobody if one failed
                after(checksums)

        calls = [begin, *[write] * (min(self._depth, len(pieces)) - 1), check]
        running = list(range(len(calls)))
        return calls

    def reads(
        self, slots: Slots, blocks: Sequence[Bytes], checksums: Sequence[bytes]
    ) -> list[Callable[[], Read]]:
        """What reads slots into buffers; the last of these calls returns what became of it."""
        order = np.argsort(slots)
        in_order = [blocks[place] for place in order.tolist()]
        wanted = [checksums[place] for place in order.tolist()]
        pieces = list(self._pieces(slots[order], LARGEST_READ_BYTES))
        done: list[Future[None]] = [Future() for _ in pieces]
        left = deque(zip(pieces, done, strict=True))

        def read() -> Read:
            for piece, its in _taken_from(left):
                try:
                    self._get(piece, in_order)
                except BaseException as error:
                    its.set_exception(error)
                else:
                    its.set_result(None)
            return Read([], None)

        def check() -> Read:
            outcomes, fault = self._checked(pieces, done, in_order, wanted)
            given: list[Outcome] = [Outcome.GOOD] * len(blocks)
            for place, outcome in zip(order.tolist(), outcomes, strict=True):
                given[place] = outcome
            return Read(given, fault)

        return [*[read] * min(self._depth, len(pieces)), check]

    def _checked(
        self,
        pieces: Sequence[Piece],
        done: Sequence[Future[None]],
        blocks: Sequence[Bytes],
        checksums: Sequence[bytes],
    ) -> Read:
        """Check pieces as they come."""
        outcomes = [Outcome.GOOD] * len(blocks)
        fault: OSError | None = None
        hashed = xxhash.xxh3_128()
        for piece, its in zip(pieces, done, strict=True):
            try:
                its.result()
            except OSError:
                # Find out which of its blocks it is.
                for single in piece.alone():
                    try:
                        self._get(single, blocks)
                    except OSError as error:
                        fault = error
                        outcomes[single.first] = Outcome.UNREADABLE
            for place, part in enumerate(piece.parts(blocks), piece.first):
                hashed.update(part.data)
                if piece.end >= self._block_bytes:
                    if hashed.digest() != checksums[place] and not outcomes[place]:
                        outcomes[place] = Outcome.DAMAGED
                    hashed.reset()
        return Read(outcomes, fault)

    def _fits(self, file: OpenFile, parts: Sequence[Bytes]) -> bool:
        """Whether buffers can be read into and written from as they are."""
        if self._block_bytes != self._stride_bytes:
            return False
        alignment = file.address_alignment
        return alignment == 1 or all(address(part) % alignment == 0 for part in parts)

    def _pieces(self, slots: Slots, largest_bytes: int) -> Iterator[Piece]:
        """Cut a batch of slots in rising order so that every thread has something to do."""
        stride = self._stride_bytes
        share = -(-len(slots) * stride // self._depth // ALIGNMENT) * ALIGNMENT
        most = max(SMALLEST_PIECE_BYTES, min(share, largest_bytes))
        step = max(1, most // stride)
        for begin, end in self._extents.runs(slots):
            for first in range(begin, end, step):
                stop = min(first + step, end)
                for part in range(0, stride, most):
                    yield Piece(int(slots[first]), first, stop, part, min(part + most, stride))

    def _put(self, piece: Piece, blocks: Sequence[Bytes]) -> None:
        file, offset = self._extents.place(piece.slot)
        parts = piece.parts(blocks)
        moved = parts if self._fits(file, parts) else [self._gathered(piece, parts)]
        try:
            write_fully(file, moved, offset + piece.begin)
        finally:
            self._extents.written(piece.slot)

    def _get(self, piece: Piece, blocks: Sequence[Bytes]) -> None:
        file, offset = self._extents.place(piece.slot)
        parts = piece.parts(blocks)
        if self._fits(file, parts):
            read_fully(file, parts, offset + piece.begin)
            return
        staged = self._staged(piece.length)
        read_fully(file, [staged], offset + piece.begin)
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            part[:] = staged[place * length : place * length + len(part)]

    def _gathered(self, piece: Piece, parts: Sequence[Bytes]) -> Bytes:
        """A copy of a piece as it stands on disk."""
        staged = self._staged(piece.length)
        length = piece.end - piece.begin
        for place, part in enumerate(parts):
            staged[place * length : place * length + len(part)] = part
            staged[place * length + len(part) : (place + 1) * length] = 0
        return staged

    def _staged(self, length: int) -> Bytes:
        """An aligned buffer of this thread's own."""
        staged: Bytes | None = getattr(self._own, "buffer", None)
        if staged is None or len(staged) < length:
            staged = aligned_buffer(length)
            self._own.buffer = staged
        return staged[:length]
