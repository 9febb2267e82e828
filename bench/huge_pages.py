"""Memory files in huge pages: shared memory that is not scattered.

By default Linux keeps shared memory in pages of 4 KiB, which are wherever others left room.
"""

from __future__ import annotations

import ctypes
import os
import weakref

import numpy as np
from numpy.typing import NDArray

__all__ = ["HUGE_PAGE_BYTES", "into_huge_pages", "mapped"]

HUGE_PAGE_BYTES = 2 * 2**20
"""On x86-64, and on ARM where others have 4 KiB."""

_MADV_COLLAPSE = 25
"""madvise(2), linux/mman.h; since Linux 6.1."""

# mmap(2), linux/mman.h
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.mmap.restype = ctypes.c_void_p


def _map(address: int | None, length: int, access: int, kind: int, descriptor: int) -> int:
    found = _libc.mmap(address, length, access, kind, descriptor, 0)
    if found == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)


def mapped(descriptor: int, length: int) -> NDArray[np.uint8]:
    """The bytes of a file, shared with all who map it, beginning where a huge page may.

    They are unmapped with the last view of them.

    Raises
    ------
    OSError
        As mmap(2) does.
    """
    # Addresses are taken that hold one that is a multiple; the file then goes there.
    room = length + HUGE_PAGE_BYTES
    taken = _map(None, room, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1)
    begin = -(-taken // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    try:
        _map(begin, length, _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_FIXED, descriptor)
    except OSError:
        _libc.munmap(taken, room)
        raise
    held = (ctypes.c_uint8 * length).from_address(begin)
    weakref.finalize(held, _libc.munmap, taken, room).atexit = False
    return np.ctypeslib.as_array(held)


def into_huge_pages(memory: NDArray[np.uint8]) -> bool:
    """Gather mapped memory into huge pages, whatever is the default; whether all of it was.

    Not before Linux 6.1, nor where there is no memory in such pieces. What is in it stays.
    """
    return bool(_libc.madvise(memory.ctypes.data, len(memory), _MADV_COLLAPSE) == 0)
