"""Calls of Linux that Python has none for. Other threads run while they last."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HUGE_PAGE_BYTES",
    "allocate",
    "direct_io_alignment",
    "into_huge_pages",
    "mapped",
    "populate",
    "punch_hole",
]

HUGE_PAGE_BYTES = 2 * 2**20
"""What one entry of a page table above the last level maps, on x86-64 and on ARM with 4 KiB pages.
Where huge pages are larger, memory stays in small ones."""

_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
"""fallocate(2), linux/falloc.h: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""

_MADV_POPULATE_WRITE = 23
"""madvise(2), linux/mman.h; since Linux 5.14."""

_MADV_COLLAPSE = 25
"""madvise(2), linux/mman.h; since Linux 6.1."""

_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_MAP_FAILED = ctypes.c_void_p(-1).value
"""mmap(2), linux/mman.h."""

# statx(2), linux/stat.h
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_BYTES = 256
_STATX_DIO_MEM_ALIGN_OFFSET = 0x98


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    libc.statx.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_char_p,
    ]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _check(call: Callable[..., int], *arguments: int) -> None:
    while call(*arguments) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Set memory or disk space aside for a range of a file, which becomes as long as that.

    Unlike `os.posix_fallocate` it fails where the filesystem cannot, instead of writing zeros.

    Raises
    ------
    OSError
        As fallocate(2) does.
    """
    _check(_libc().fallocate, descriptor, 0, offset, length)


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Give the memory or disk space of a range of a file back; the file's length stays.

    Raises
    ------
    OSError
        As fallocate(2) does.
    """
    _check(_libc().fallocate, descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length)


def populate(address: int, length: int) -> None:
    """Put pages behind a range of mapped memory now, so that writing there meets no page fault.

    Before Linux 5.14 it does nothing, and whoever writes there first meets them.

    Raises
    ------
    OSError
        As madvise(2) does.
    """
    try:
        _check(_libc().madvise, address, length, _MADV_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def mapped(descriptor: int, length: int) -> NDArray[np.uint8]:
    """The bytes of a file, shared with all who map it, beginning where a huge page may.

    They are unmapped with the last view of them.

    Raises
    ------
    OSError
        As mmap(2) does.
    """
    libc, room = _libc(), length + HUGE_PAGE_BYTES

    def mapping(*arguments: int | None) -> int:
        address = libc.mmap(*arguments, 0)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(address)

    # Addresses are taken that hold one that is a multiple; the file then goes there.
    taken = mapping(None, room, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1)
    begin = -(-taken // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    access, kind = _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_FIXED
    try:
        mapping(begin, length, access, kind, descriptor)
    except OSError:
        libc.munmap(taken, room)
        raise
    held = (ctypes.c_uint8 * length).from_address(begin)
    weakref.finalize(held, libc.munmap, taken, room).atexit = False
    return np.frombuffer(held, np.uint8)


def into_huge_pages(address: int, length: int) -> bool:
    """Gather mapped memory that begins where a huge page may into such; whether all of it was.

    It asks for it, whatever the host's setting for huge pages is. Not before Linux 6.1, nor where
    there is no memory in such pieces. What is there stays.
    """
    return bool(_libc().madvise(address, length, _MADV_COLLAPSE) == 0)


def direct_io_alignment(descriptor: int) -> int | None:
    """What the kernel asks of addresses for direct I/O on a file.

    None if it does not say: it does since Linux 6.1.
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc().statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, found) != 0:
        return None
    (mask,) = struct.unpack_from("I", found, 0)
    (alignment,) = struct.unpack_from("I", found, _STATX_DIO_MEM_ALIGN_OFFSET)
    return int(alignment) if mask & _STATX_DIOALIGN and alignment > 0 else None
