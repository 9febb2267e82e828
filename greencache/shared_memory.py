"""Memory files mapped so that they can be in huge pages: at addresses where such may begin.

Python's `mmap` leaves the address to the kernel, which aligns memory files only where an
administrator has switched huge pages on for them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref

import numpy as np
from numpy.typing import NDArray

__all__ = ["HUGE_PAGE_BYTES", "map_shared"]

HUGE_PAGE_BYTES = 2 * 2**20
"""On x86-64, and on ARM where other pages have 4 KiB."""

# mmap(2), linux/mman.h
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_MAP_FAILED = ctypes.c_void_p(-1).value


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    libc.mmap.restype = ctypes.c_void_p
    return libc


def _map(address: int | None, length: int, access: int, kind: int, descriptor: int) -> int:
    found = _libc().mmap(address, length, access, kind, descriptor, 0)
    if found == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)


def map_shared(descriptor: int, length: int) -> NDArray[np.uint8]:
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
    unmap = _libc().munmap
    try:
        _map(begin, length, _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_FIXED, descriptor)
    except OSError:
        unmap(taken, room)
        raise
    held = (ctypes.c_uint8 * length).from_address(begin)
    weakref.finalize(held, unmap, taken, room).atexit = False
    return np.ctypeslib.as_array(held)
