"""A tier in one file: blocks in a dictionary, the oldest that may go goes first.

This is all that somebody else's tier needs. It shares nothing with the tiers of GreenCache but the
contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from greencache.errors import BlockStateError, InputError, TierClosedError
from greencache.tiers.base import (
    Blocks,
    Tier,
    TierLease,
    TierReservation,
    TierStats,
    check_blocks,
)


@dataclass(eq=False)
class Held:
    """One block."""

    key: bytes
    parent: Held | None
    bytes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    committed: bool = False
    gone: bool = False
    users: int = 1
    """Leases, the writer, and blocks that build on it."""


class MinimalTier(Tier):
    """Blocks in a dictionary."""

    def __init__(self, block_bytes: int, capacity_bytes: int) -> None:
        self.name, self.block_bytes = "minimal", block_bytes
        self.held: dict[bytes, Held] = {}
        self.is_open = False
        self.counts = TierStats(capacity_bytes=capacity_bytes)

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def check_open(self) -> None:
        if not self.is_open:
            raise TierClosedError("the tier is not open")

    def prefix(self, keys: Sequence[bytes]) -> Iterator[Held]:
        """The blocks found, from the start of the prompt."""
        self.check_open()
        for key in keys:
            block = self.held.get(key)
            if block is None or block.gone or not block.committed:
                return
            yield block

    def take(self, blocks: Sequence[Held]) -> tuple[Held, ...]:
        for block in blocks:
            block.users += 1
        return tuple(blocks)

    def let_go(self, blocks: Sequence[Held]) -> None:
        for block in blocks:
            block.users -= 1
        for block in [block for block in self.held.values() if block.gone]:
            self.remove(block)
        self.make_room(0)

    def remove(self, block: Held | None) -> None:
        """Remove a block that is gone and what of its prefix waited for that."""
        while block is not None and block.gone and block.users == 0 and block.key in self.held:
            del self.held[block.key]
            block = block.parent
            if block is not None:
                block.users -= 1

    def make_room(self, blocks: int) -> bool:
        while (len(self.held) + blocks) * self.block_bytes > self.counts.capacity_bytes:
            victim = next((b for b in self.held.values() if b.committed and b.users == 0), None)
            if victim is None:
                return False
            victim.gone = True
            self.remove(victim)
            self.counts.evicted_blocks += 1
        return True

    async def match(self, keys: Sequence[bytes]) -> int:
        return len(list(self.prefix(keys)))

    async def acquire(self, keys: Sequence[bytes]) -> TierLease:
        blocks = self.take(list(self.prefix(keys)))
        self.counts.hit_blocks += len(blocks)
        self.counts.missed_blocks += len(keys) - len(blocks)
        return TierLease(keys[: len(blocks)], blocks)

    async def read(self, lease: TierLease, into: Blocks, first: int = 0) -> int:
        self.check_open()
        if lease.released or first + len(into) > len(lease):
            raise BlockStateError("no such blocks are leased")
        check_blocks(into, self.block_bytes)
        for buffer, block in zip(into, lease.handle[first:], strict=False):
            buffer[:] = block.bytes
        self.counts.read_bytes += len(into) * self.block_bytes
        return len(into)

    def release(self, lease: TierLease) -> None:
        if lease.released:
            raise BlockStateError("this lease was released before")
        lease.released = True
        self.let_go(lease.handle)

    async def reserve(self, keys: Sequence[bytes]) -> TierReservation:
        prefix = self.take(list(self.prefix(keys)))
        blocks = list(prefix)
        for key in keys[len(prefix) :]:
            if key in self.held or not self.make_room(1):
                break
            parent = blocks[-1] if blocks else None
            self.take([parent] if parent else [])
            self.held[key] = Held(key, parent, np.empty(self.block_bytes, np.uint8))
            blocks.append(self.held[key])
        return TierReservation(keys[len(prefix) : len(blocks)], len(prefix), blocks)

    async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
        self.check_open()
        if reservation.ended or len(blocks) != len(reservation):
            raise BlockStateError("no such blocks are reserved")
        check_blocks(blocks, self.block_bytes)
        for buffer, block in zip(blocks, reservation.handle[reservation.first :], strict=True):
            block.bytes[:] = buffer
        reservation.written = True
        self.counts.written_bytes += len(blocks) * self.block_bytes
        return True

    def end(self, reservation: TierReservation, *, committed: bool) -> None:
        if reservation.ended or (committed and len(reservation) and not reservation.written):
            raise BlockStateError("this reservation has ended, or was not written")
        reservation.ended = True
        for block in reservation.handle[reservation.first :]:
            block.committed, block.gone = committed, block.gone or not committed
        self.let_go(reservation.handle)

    async def commit(self, reservation: TierReservation) -> None:
        self.end(reservation, committed=True)

    def abort(self, reservation: TierReservation) -> None:
        self.end(reservation, committed=False)

    async def delete(self, keys: Sequence[bytes]) -> int:
        before = len(self.held)
        top = self.held.get(keys[-1]) if keys else None
        if top is not None:
            top.gone = True
            for block in self.held.values():  # parents stand before children
                block.gone = block.gone or (block.parent is not None and block.parent.gone)
            self.let_go([])
        return before - len(self.held)

    async def resize(self, capacity_bytes: int) -> int:
        self.check_open()
        if capacity_bytes < 0:
            raise InputError("a capacity is 0 bytes or more")
        self.counts.capacity_bytes = capacity_bytes
        self.make_room(0)
        return max(0, len(self.held) * self.block_bytes - capacity_bytes)

    async def flush(self) -> None:
        pass

    def stats(self) -> TierStats:
        size = len(self.held) * self.block_bytes
        return replace(
            self.counts,
            used_bytes=size,
            backed_bytes=size,
            blocks=len(self.held),
            failures=self.counts.failures.copy(),
        )
