"""``Extents``: the files that a tier's slots stand in.

Slot s stands in file s // slots_per_extent at (s % slots_per_extent) * stride_bytes. The files are
sparse: a slot takes disk space from `Extents.allocate` until `Extents.punch`. Everything here
blocks, and is called from a tier's threads.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.files import (
    Files,
    OpenFile,
)
from greencache.tiers.manifest import Geometry

__all__ = ["Extents", "Slots", "extent_name", "extent_number"]

_PREFIX = "extent-"

Slots = NDArray[np.int32]


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

    def place(self, slot: int) -> tuple[OpenFile, int]:
        """File that a slot is in, and at which offset.

        Raises
        ------
        OSError
            If the file cannot be opened.
        """
        return self._file(self._number(slot)), self._range(slot, slot + 1)[0]

    def runs(self, slots: Slots) -> Iterator[tuple[int, int]]:
        """Neighbours in one file, of slots in rising order: place of the first, after the last."""
        apart = np.diff(slots) != 1
        apart |= np.diff(slots // self._geometry.slots_per_extent) != 0
        bounds = [0, *(np.flatnonzero(apart) + 1).tolist(), len(slots)]
        yield from itertools.pairwise(bounds)

    def written(self, slot: int) -> None:
        """Have `sync` see to a slot's file; called after writing, so that it misses nothing."""
        with self._changing:
            self._dirty.add(self._number(slot))

    def allocate(self, slots: Slots) -> None:
        """Put disk space behind slots, in rising order, all or none.

        Raises
        ------
        OSError
            If there is not enough.
        """
        try:
            for number, offset, length in self._ranges(slots):
                self._file(number, create=True).allocate(offset, length)
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
        for number, offset, length in self._ranges(slots):
            with suppress(FileNotFoundError):
                self._file(number).punch(offset, length)

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

    def _ranges(self, slots: Slots) -> Iterator[tuple[int, int, int]]:
        """File, offset and length of all runs of neighbours."""
        for begin, end in self.runs(slots):
            first = int(slots[begin])
            yield self._number(first), *self._range(first, first + end - begin)

    def _file(self, number: int, *, create: bool = False) -> OpenFile:
        file = self._open.get(number)
        if file is not None:
            return file
        with self._changing:
            if number not in self._open:
                file = self._files.open(extent_name(number), create=create, direct=True)
                if create:
                    self._lengthen(file, number)
                self._open[number] = file
            return self._open[number]

    def _lengthen(self, file: OpenFile, number: int) -> None:
        """Make a file as long as it should be; one that cannot be is closed and removed."""
        try:
            if file.size() < self.extent_bytes:
                file.truncate(self.extent_bytes)
                self._unsynced_names = True
        except OSError:
            file.close()
            with suppress(OSError):  # as short as it is, it would keep the tier from opening again
                self._files.unlink(extent_name(number))
            raise
