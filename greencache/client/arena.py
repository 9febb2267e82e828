"""The daemon's memory as this process has it mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.client.messages import Places
from greencache.errors import ProtocolError, UnavailableError
from greencache.shared_memory import map_shared

__all__ = ["Extent", "Part", "Run", "Standing"]

Bytes = NDArray[np.uint8]


class Extent:
    """A memory file of the daemon, mapped as long as somebody has a view of it.

    Nothing unmaps it by hand: the mapping goes with the last array that looks into it, so whoever
    still copies when the daemon drops the extent, or dies, does so undisturbed.

    Parameters
    ----------
    descriptor:
        Of the file; it is closed here.
    size_bytes:
        How long the daemon says that it is.
    number:
        What the daemon calls it.

    Attributes
    ----------
    writable, readable:
        All its bytes.

    Raises
    ------
    ProtocolError
        If the file is shorter: touching what is missing would end the process.
    UnavailableError
        If it cannot be mapped.
    """

    def __init__(self, descriptor: int, size_bytes: int, number: int) -> None:
        self.number = number
        try:
            if not 0 < size_bytes <= os.fstat(descriptor).st_size:
                raise ProtocolError(f"an extent is shorter than the {size_bytes:,} bytes said")
            self.writable: Bytes = map_shared(descriptor, size_bytes)
        except OSError as error:
            raise UnavailableError(f"cannot map the daemon's memory: {error.strerror}") from error
        finally:
            os.close(descriptor)
        self.readable = self.writable.view()
        self.readable.flags.writeable = False

    def __len__(self) -> int:
        return len(self.writable)

    @property
    def address(self) -> int:
        """Where it is mapped."""
        return self.writable.ctypes.data


@dataclass(frozen=True, slots=True)
class Part:
    """Which bytes of a block a process reads and writes: all, or one shard's."""

    begin: int
    size_bytes: int

    @classmethod
    def of(cls, block_bytes: int, shards: int, shard: int | None) -> Part:
        """The part of one of ``shards``; all if ``shard`` is None."""
        if shard is None:
            return cls(0, block_bytes)
        size_bytes = block_bytes // shards
        return cls(shard * size_bytes, size_bytes)


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks, by place from ``first`` on, whose bytes follow one another in memory."""

    first: int
    count: int
    extent: Extent
    begin: int


class Standing:
    """Where blocks, or this process's part of each, stand in mapped memory.

    Parameters
    ----------
    places:
        As the daemon says.
    extents:
        What is mapped, by number. Those needed stay mapped as long as this.
    part:
        Which bytes of a block are wanted.

    Raises
    ------
    ProtocolError
        If a place is not within what is mapped.
    """

    def __init__(self, places: Places, extents: Mapping[int, Extent], part: Part) -> None:
        self._number, offset = places.arrays()
        self._begin = offset.astype(np.int64) + part.begin
        self.part_bytes = part.size_bytes
        self._extents: dict[int, Extent] = {}
        for number in set(self._number.tolist()):
            extent = extents.get(number)
            begin = self._begin if len(extents) == 1 else self._begin[self._number == number]
            if (
                extent is None
                or int(begin.min()) < part.begin
                or int(begin.max()) > len(extent) - part.size_bytes
            ):
                raise ProtocolError(f"a block stands outside of what is mapped, in extent {number}")
            self._extents[number] = extent

    def __len__(self) -> int:
        return len(self._number)

    @property
    def extents(self) -> list[Extent]:
        """Those in which there are any."""
        return list(self._extents.values())

    def views(self, *, writable: bool = False) -> list[Bytes]:
        """The blocks' bytes where they stand, an array each."""
        size_bytes = self.part_bytes
        bases = {
            number: extent.writable if writable else extent.readable
            for number, extent in self._extents.items()
        }
        return [
            bases[number][begin : begin + size_bytes]
            for number, begin in zip(self._number.tolist(), self._begin.tolist(), strict=True)
        ]

    def runs(self, first: int, end: int) -> Iterator[Run]:
        """The longest runs of the blocks from ``first`` to ``end``."""
        if first >= end:
            return
        number, begin = self._number[first:end], self._begin[first:end]
        breaks = (np.diff(begin) != self.part_bytes) | (number[1:] != number[:-1])
        starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
        for start, after in zip(starts, [*starts[1:], end - first], strict=True):
            extent = self._extents[int(number[start])]
            yield Run(first + start, after - start, extent, int(begin[start]))
