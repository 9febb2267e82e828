"""``Tier``: the contract of all places that hold blocks' bytes.

A tier holds blocks of one size under keys that name whole prefixes (`greencache.blocks`), and keeps
three promises:

1. **A hit is a prefix.** A block is found only if all blocks before it are.
2. **Nothing half-written is found**: `Tier.reserve`, `Tier.write`, then `Tier.commit` or
   `Tier.abort`.
3. **What is leased stays**: `Tier.acquire`, `Tier.read`, then `Tier.release`. A leased block is
   neither evicted nor overwritten, whatever becomes of the tier's size. A lease ends by release
   only, never by time.

A tier may always miss. It never gives back bytes that were not stored under the key: what it cannot
read, or finds damaged, it drops, and counts. `tests/conformance` holds any tier to all of that;
one file is enough to add one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from greencache.buffers import Blocks, check_blocks
from greencache.durations import Durations
from greencache.errors import BlockStateError, InputError
from greencache.tiers.pins import PinHolder

__all__ = [
    "Addressable",
    "Blocks",
    "Shareable",
    "Tier",
    "TierLease",
    "TierReservation",
    "TierStats",
    "check_blocks",
    "check_prompt",
]


def check_prompt(keys: Sequence[bytes]) -> None:
    """Refuse what cannot be the blocks of a prompt.

    Raises
    ------
    InputError
        If a block is named twice.
    """
    if len(set(keys)) < len(keys):
        raise InputError("a prompt names no block twice: each key is of all that stands before")


@dataclass(slots=True, eq=False)
class TierLease:
    """A prefix that a tier keeps readable until it is released.

    Attributes
    ----------
    keys:
        The blocks found, from the start of the prompt.
    handle:
        The tier's own.
    """

    keys: Sequence[bytes]
    handle: Any = field(default=None, repr=False)
    released: bool = False

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(slots=True, eq=False)
class TierReservation:
    """Room for blocks that are to be written, invisible until committed.

    Whoever reserves ends it by `Tier.commit` or `Tier.abort`, also when cancelled.

    Attributes
    ----------
    keys:
        The blocks reserved: consecutive ones of the prompt.
    first:
        Place of the first of them in the prompt: how many blocks the tier has before it.
    handle:
        The tier's own.
    written:
        Whether all were written, so that they can be committed.
    """

    keys: Sequence[bytes]
    first: int
    handle: Any = field(default=None, repr=False)
    written: bool = False
    ended: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def check_running(self) -> None:
        """Refuse what was committed or aborted before.

        Raises
        ------
        BlockStateError
            If it was.
        """
        if self.ended:
            raise BlockStateError("this reservation was committed or aborted before")

    def check_writable(self, blocks: Blocks, block_bytes: int) -> None:
        """Refuse buffers that cannot be what was reserved.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before, or there is not one buffer for each block.
        InputError
            As `check_blocks`.
        """
        self.check_running()
        if len(blocks) != len(self):
            raise BlockStateError(f"{len(self)} blocks are reserved, not {len(blocks)}")
        check_blocks(blocks, block_bytes)


@dataclass(slots=True)
class TierStats:
    """What a tier has, and what it did since it was opened.

    Attributes
    ----------
    capacity_bytes, used_bytes:
        What it may hold and what its blocks take; more than it may only while leases last.
    backed_bytes:
        Memory or disk that it occupies now, free slots and its own records included.
    pinned_bytes, unpinning_bytes:
        Of these, what clients may have pinned; and what goes as soon as they have unpinned it.
    blocks:
        Blocks held, those being written included.
    hit_blocks, missed_blocks:
        Of those asked for by `Tier.acquire`.
    read_bytes, written_bytes:
        Moved.
    evicted_blocks:
        Given up for others, or to a smaller size.
    failures:
        What went wrong, by cause, and how often.
    took:
        How long the tier's ``read`` and ``write`` of a batch took, waiting for its threads and
        failures included.
    """

    capacity_bytes: int = 0
    used_bytes: int = 0
    backed_bytes: int = 0
    pinned_bytes: int = 0
    unpinning_bytes: int = 0
    blocks: int = 0
    hit_blocks: int = 0
    missed_blocks: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    evicted_blocks: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    took: dict[str, Durations] = field(
        default_factory=lambda: {"read": Durations(), "write": Durations()}, compare=False
    )

    def as_json(self) -> dict[str, Any]:
        """Plain values; of durations, how many and their sum."""
        took = {op: {"count": len(took), "total_s": took.total_s} for op, took in self.took.items()}
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, "failures": dict(self.failures), "took": took}

    def copy(self, **changes: int) -> TierStats:
        """The same with some values changed, which what is counted later does not change."""
        return replace(
            self,
            failures=Counter(self.failures),
            took={op: took.copy() for op, took in self.took.items()},
            **changes,
        )


class Tier(ABC):
    """One place that holds blocks.

    Opened and closed by ``async with``. All methods belong to one event loop and none blocks it:
    what takes long is awaited. Requests are lists of keys from the start of the prompt.

    Attributes
    ----------
    name:
        What metrics and messages call it.
    block_bytes:
        Bytes of a block.
    """

    name: str
    block_bytes: int

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Make ready, with what an earlier run left if the tier keeps anything.

        Raises
        ------
        TierError
            If the tier cannot be used; its text says what to do.
        """

    @abstractmethod
    async def close(self) -> None:
        """Flush, and give everything back. Calling it twice does nothing."""

    @abstractmethod
    async def match(self, keys: Sequence[bytes]) -> int:
        """Length of the longest prefix that could be read now; not counted as asked for."""

    @abstractmethod
    async def acquire(self, keys: Sequence[bytes]) -> TierLease:
        """Lease the longest prefix that is here, and count it as asked for."""

    async def hold(self, keys: Sequence[bytes]) -> TierLease:
        """Lease the longest prefix that is here; a tier that can does not count it as asked for."""
        return await self.acquire(keys)

    @abstractmethod
    async def read(self, lease: TierLease, into: Blocks, first: int = 0) -> int:
        """Read the leased blocks from the ``first`` on into buffers, one each.

        Returns
        -------
        int
            How many of them, from the first one, are good; fewer than there are buffers if a block
            could not be read or was damaged. It is dropped then, and what builds on it is no
            longer found. What is in the other buffers means nothing.
        """

    @abstractmethod
    def release(self, lease: TierLease) -> None:
        """End a lease.

        Raises
        ------
        BlockStateError
            If it was released before.
        """

    @abstractmethod
    async def reserve(self, keys: Sequence[bytes]) -> TierReservation:
        """Take room for the blocks that follow the prefix that is here.

        As many as there is room for, from the front: none if the tier is full of what may not go,
        or if somebody else is writing the next block.
        """

    @abstractmethod
    async def write(self, reservation: TierReservation, blocks: Blocks) -> bool:
        """Write the reserved blocks, one buffer each.

        Returns
        -------
        bool
            Whether they can be committed. If not, the reservation has been aborted and the failure
            counted.
        """

    @abstractmethod
    async def commit(self, reservation: TierReservation) -> None:
        """Let written blocks be found.

        Raises
        ------
        BlockStateError
            If it was not written, or was committed or aborted before.
        """

    @abstractmethod
    def abort(self, reservation: TierReservation) -> None:
        """Give reserved blocks up.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before, or is being written.
        """

    @abstractmethod
    async def delete(self, keys: Sequence[bytes]) -> int:
        """Drop the last of these blocks and all that builds on it; how many are gone.

        What is leased or being written is no longer found, and goes when that ends.
        """

    @abstractmethod
    async def resize(self, capacity_bytes: int) -> int:
        """Change the capacity while in use, and give back what is no longer needed.

        Returns
        -------
        int
            Bytes still to be given back, which are leased, being written or pinned; they are when
            that ends.

        Raises
        ------
        TierError
            If there is not so much to be had; the size is as before.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Make everything that is committed outlast a loss of power, if the tier can."""

    @abstractmethod
    def stats(self) -> TierStats:
        """What the tier has and did."""


@runtime_checkable
class Addressable(Protocol):
    """A tier whose bytes can be read and written where they stand, without a copy."""

    def leased(self, lease: TierLease, first: int, count: int) -> Blocks:
        """Leased blocks, to be read until the lease is released."""

    def reserved(self, reservation: TierReservation) -> Blocks:
        """Reserved blocks, to be written by the caller before they are committed."""


@runtime_checkable
class Shareable(Protocol):
    """A tier whose memory another process can map, to read and write blocks where they stand.

    Its memory is in extents, each a file that has a descriptor. An extent's number is never given
    to another, also when its memory was given back and is taken again.
    """

    def leased_places(
        self, lease: TierLease, first: int, count: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Extent and offset in bytes of each leased block, good until the lease is released."""

    def reserved_places(
        self, reservation: TierReservation
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """The same of reserved blocks, which count as written from now on: the caller does that."""

    def extent(self, number: int) -> tuple[int, int]:
        """Descriptor and length in bytes of an extent with leased or reserved blocks.

        The descriptor is the tier's, which closes it: duplicate it to keep it.
        """

    def extents(self) -> set[int]:
        """Numbers of all extents there are; what is no longer among them never comes back."""

    def extents_gone(self) -> int:
        """How many have gone by now; it changes whenever one goes."""

    def offer_pins(
        self, holder: PinHolder, but: Collection[int] = ()
    ) -> list[tuple[int, int, int]]:
        """What a holder may pin from now on: extent, first byte and bytes of each part.

        All of it has memory, is not of the extents in ``but``, and was not offered to the holder
        before. It counts as pinned until `unpinned`; what a shrink needs is asked back.
        """

    def unpinned(self, holder: PinHolder, extents: Collection[int] | None = None) -> set[int]:
        """A holder has nothing of these extents, or of any, pinned any more.

        Which of them it was offered, and not asked for.
        """

    def pinned_extents(self, holder: PinHolder) -> tuple[int, int]:
        """How many extents a holder was offered, and how many of them it is asked for."""
