"""Any mix of readers, writers, deletes and resizes, against a plain record of what must hold.

What is written differs each time, also under the same key, so a block that should be gone or was
overwritten shows. What goes first when a tier is full is its own affair: the record only knows that
no more may be missing than were evicted.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from numpy.typing import NDArray

from greencache.tiers.base import Tier, TierLease, TierReservation
from tests.conformance.prompts import prompt

__all__ = ["TierMachine"]

DEPTH = 4
PROMPTS = [
    prompt(*[(leaf >> (length - 1 - depth)) & 1 for depth in range(length)])
    for length in range(1, DEPTH + 1)
    for leaf in range(2**length)
]
"""All paths from the root of a binary tree, which has 30 blocks."""


def marked(mark: int, block_bytes: int) -> NDArray[np.uint8]:
    """Bytes that no other mark has."""
    return np.resize(np.frombuffer(mark.to_bytes(3, "little"), np.uint8), block_bytes)


@dataclass(eq=False)
class Writer:
    """A reservation, what was written, and how much of it was not deleted before its commit."""

    reservation: TierReservation
    prefix: Sequence[bytes]
    marks: list[int] = field(default_factory=list)
    kept: int = DEPTH


@dataclass(eq=False)
class Reader:
    """A lease and what its blocks held when it began."""

    lease: TierLease
    marks: list[int]
    deleted: bool = False


class TierMachine(RuleBasedStateMachine):
    """Uses one tier. Subclasses say how it is made and what room so many blocks need."""

    block_bytes = 4500
    most_blocks = 20
    readers: Bundle[Reader] = Bundle("readers")
    writers: Bundle[Writer] = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.marks: dict[bytes, int] = {}  # what each key holds that was stored, evicted or not
        self.next_mark = 1
        self.reading: list[Reader] = []
        self.writing: list[Writer] = []
        self.evicted = 0

    def make_tier(self) -> Tier:
        raise NotImplementedError

    def room_for(self, blocks: int) -> int:
        raise NotImplementedError

    def run(self, steps: Any) -> Any:
        return self.runner.run(steps)

    @initialize(blocks=st.integers(0, most_blocks))
    def begin(self, blocks: int) -> None:
        self.tier = self.make_tier()
        self.run(self.tier.open())
        self.run(self.tier.resize(self.room_for(blocks)))

    def known(self, keys: Sequence[bytes]) -> int:
        """How many leading keys are stored, as far as the record knows."""
        return next((i for i, key in enumerate(keys) if key not in self.marks), len(keys))

    # Readers.

    @rule(target=readers, keys=st.sampled_from(PROMPTS))
    def acquire(self, keys: list[bytes]) -> Reader:
        found = self.run(self.tier.match(keys))
        lease = self.run(self.tier.acquire(keys))
        assert len(lease) == found <= self.known(keys)
        assert list(lease.keys) == keys[:found]
        reader = Reader(lease, [self.marks[key] for key in lease.keys])
        self.reading.append(reader)
        return reader

    @rule(reader=readers, first=st.integers(0, DEPTH), count=st.integers(0, DEPTH))
    def read(self, reader: Reader, first: int, count: int) -> None:
        self.run(self.reads(reader, first, count))

    async def reads(self, reader: Reader, first: int = 0, count: int = DEPTH) -> None:
        marks = reader.marks[first : first + count]
        blocks = np.zeros((len(marks), self.block_bytes), np.uint8)
        assert await self.tier.read(reader.lease, blocks, min(first, len(reader.marks))) == len(
            marks
        )
        for block, mark in zip(blocks, marks, strict=True):
            assert (block == marked(mark, self.block_bytes)).all()

    @rule(reader=consumes(readers))
    def release(self, reader: Reader) -> None:
        self.reading.remove(reader)
        self.run(self.in_loop(self.tier.release, reader.lease))

    async def in_loop(self, call: Any, handle: Any) -> None:
        call(handle)

    # Writers.

    @rule(target=writers, keys=st.sampled_from(PROMPTS))
    def reserve(self, keys: list[bytes]) -> Writer:
        before = self.run(self.tier.match(keys))
        reservation = self.run(self.tier.reserve(keys))
        if len(reservation):
            assert reservation.first == before
        end = reservation.first + len(reservation)
        assert list(reservation.keys) == keys[reservation.first : end]
        others = {key for writer in self.writing for key in writer.reservation.keys}
        assert others.isdisjoint(reservation.keys), "one writer at a time"
        writer = Writer(reservation, keys[: reservation.first])
        self.writing.append(writer)
        return writer

    @rule(writer=writers)
    def write(self, writer: Writer) -> None:
        self.run(self.writes(writer))

    async def writes(self, writer: Writer) -> None:
        count = len(writer.reservation)
        writer.marks = list(range(self.next_mark, self.next_mark + count))
        self.next_mark += count
        blocks = [marked(mark, self.block_bytes) for mark in writer.marks]
        assert await self.tier.write(writer.reservation, blocks)

    @rule()
    def all_at_once(self) -> None:
        """Everybody reads and writes at the same time."""

        async def everybody() -> None:
            readers = [self.reads(reader) for reader in self.reading]
            await asyncio.gather(*readers, *map(self.writes, self.writing))

        self.run(everybody())

    @rule(writer=consumes(writers), keep=st.booleans())
    def end(self, writer: Writer, keep: bool) -> None:
        self.writing.remove(writer)
        if not keep or len(writer.marks) < len(writer.reservation):
            self.run(self.in_loop(self.tier.abort, writer.reservation))
            return
        self.run(self.tier.commit(writer.reservation))
        kept = zip(writer.reservation.keys, writer.marks, strict=True)
        self.marks.update(itertools.islice(kept, writer.kept))

    # The rest.

    @rule(keys=st.sampled_from(PROMPTS))
    def delete(self, keys: list[bytes]) -> None:
        last = keys[-1]
        here = self.run(self.tier.match(keys)) == len(keys)
        here = here or any(last in writer.reservation.keys for writer in self.writing)
        self.run(self.tier.delete(keys))
        assert self.run(self.tier.match(keys)) < len(keys)
        if here:
            for path in PROMPTS:
                if last in path:
                    self.marks.pop(path[-1], None)
            for writer in self.writing:
                whole = [*writer.prefix, *writer.reservation.keys]
                if last in whole:
                    kept = max(0, whole.index(last) - len(writer.prefix))
                    writer.kept = min(writer.kept, kept)
            for reader in self.reading:
                reader.deleted |= last in reader.lease.keys

    @rule(blocks=st.integers(0, most_blocks))
    def resize(self, blocks: int) -> None:
        self.run(self.tier.resize(self.room_for(blocks)))
        stats = self.tier.stats()
        assert stats.capacity_bytes == self.room_for(blocks)

    @rule()
    def flush(self) -> None:
        self.run(self.tier.flush())

    @invariant()
    def what_is_leased_is_found(self) -> None:
        for reader in self.reading:
            if not reader.deleted:
                assert self.run(self.tier.match(reader.lease.keys)) == len(reader.lease)

    @invariant()
    def no_more_is_missing_than_was_evicted(self) -> None:
        missing = {
            path[-1]
            for path in PROMPTS
            if path[-1] in self.marks and self.run(self.tier.match(path)) < len(path)
        }
        stats = self.tier.stats()
        assert len(missing) <= stats.evicted_blocks - self.evicted
        assert stats.failures == {}
        for key in missing:
            del self.marks[key]
        self.evicted = stats.evicted_blocks

    @invariant()
    def the_capacity_is_kept_unless_blocks_are_in_use(self) -> None:
        stats = self.tier.stats()
        if not self.reading and not self.writing:
            assert stats.used_bytes <= stats.capacity_bytes
            assert stats.blocks == len(self.marks)

    def teardown(self) -> None:
        try:
            for writer in self.writing:
                self.run(self.in_loop(self.tier.abort, writer.reservation))
            for reader in self.reading:
                self.run(self.reads(reader))
                self.run(self.in_loop(self.tier.release, reader.lease))
            self.writing, self.reading = [], []
            self.no_more_is_missing_than_was_evicted()
            self.the_capacity_is_kept_unless_blocks_are_in_use()
            self.run(self.tier.close())
        finally:
            self.runner.close()
