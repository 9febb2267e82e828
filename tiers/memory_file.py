"""``MemoryFile``: memory that has no name in any file system, and can be handed to others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from greencache.shared_memory import HUGE_PAGE_BYTES, map_shared
from greencache.tiers.syscalls import allocate, into_huge_pages, populate, punch_hole

__all__ = ["MemoryFile"]

_PAGE_BYTES = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryFile:
    """One memory file (memfd), mapped, that slots stand in one after the other.

    Its length is sealed: whoever is handed the file could else end this process by shortening it.
    """

    def __init__(self, number: int, name: str, size: int, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self.number = number
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self.bytes: NDArray[np.uint8] = map_shared(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.length = size
        self.backed_slots = 0

    @property
    def allocated_bytes(self) -> int:
        """Memory that the file takes, as the kernel counts."""
        try:
            return os.fstat(self.descriptor).st_blocks * 512  # whatever the page size (stat(2))
        except OSError:
            return 0  # just closed, by the thread that gives memory back

    def back(self, offset: int, length: int) -> None:
        """Put memory behind a range that has none; raises `OSError` if there is none left."""
        for begin, end in self._huge_pages(offset, offset + length):
            for page in range(begin, end, HUGE_PAGE_BYTES):
                # The kernel gathers what is there already, which may be as little as this.
                allocate(self.descriptor, page, _PAGE_BYTES)
            into_huge_pages(self.bytes.ctypes.data + begin, end - begin)
        # What is allocated can be written to: without it, a write could end the process (SIGBUS).
        allocate(self.descriptor, offset, length)
        populate(self.bytes.ctypes.data + offset, length)

    def _huge_pages(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges of a range that may be in huge pages: those that lie within one slot.

        One huge page takes a fraction of the time of 512 small ones, and direct I/O hands a drive
        one address instead of as many. But the kernel gives part of one back only if nobody uses
        another part, so two slots never share one.
        """
        pages = np.arange(-(-begin // HUGE_PAGE_BYTES), end // HUGE_PAGE_BYTES)
        first_slot = pages * HUGE_PAGE_BYTES // self._slot_bytes
        last_slot = ((pages + 1) * HUGE_PAGE_BYTES - 1) // self._slot_bytes
        pages = pages[first_slot == last_slot]
        for run in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1):
            if len(run):
                yield int(run[0]) * HUGE_PAGE_BYTES, int(run[-1] + 1) * HUGE_PAGE_BYTES

    def give_back(self, offset: int, length: int) -> None:
        """Give the memory of whole slots back, which nobody may have pinned."""
        punch_hole(self.descriptor, offset, length)

    def close(self) -> None:
        """Let go of it; who else has it mapped keeps it, and who has a view of it here."""
        self.bytes = np.zeros(0, np.uint8)
        os.close(self.descriptor)
