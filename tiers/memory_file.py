"""``MemoryFile``: memory that has no name in any file system, and can be handed to others."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.syscalls import allocate, populate, punch_hole

__all__ = ["MemoryFile"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryFile:
    """One memory file (memfd), mapped.

    Its length is sealed: whoever is handed the file could else end this process by shortening it.
    """

    def __init__(self, number: int, name: str, size: int) -> None:
        self.number = number
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.length = size
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.backed_slots = 0

    @property
    def allocated_bytes(self) -> int:
        """Memory that the file takes, as the kernel counts."""
        try:
            return os.fstat(self.descriptor).st_blocks * 512  # whatever the page size (stat(2))
        except OSError:
            return 0  # just closed, by the thread that gives memory back

    def back(self, offset: int, length: int) -> None:
        """Put memory behind a range; raises `OSError` if there is none."""
        # What is allocated can be written to: without it, a write could end the process (SIGBUS).
        allocate(self.descriptor, offset, length)
        populate(self.bytes.ctypes.data + offset, length)

    def give_back(self, offset: int, length: int) -> None:
        """Give the memory of a range back, which nobody may have pinned."""
        punch_hole(self.descriptor, offset, length)

    def close(self) -> None:
        """Let go of it; who else has it mapped keeps it."""
        self.bytes = np.zeros(0, np.uint8)
        os.close(self.descriptor)
        # Whoever failed or was cancelled may still have a view: it is unmapped with the last one.
        with contextlib.suppress(BufferError):
            self._map.close()
