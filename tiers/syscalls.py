"""Calls of Linux that Python has none for. Other threads run while they last."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Callable

__all__ = ["allocate", "direct_io_alignment", "into_huge_pages", "populate", "punch_hole"]

_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
"""fallocate(2), linux/falloc.h: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""

_MADV_POPULATE_WRITE = 23
"""madvise(2), linux/mman.h; since Linux 5.14."""

_MADV_COLLAPSE = 25
"""madvise(2), linux/mman.h; since Linux 6.1."""

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


def into_huge_pages(address: int, length: int) -> bool:
    """Gather a range of mapped memory into huge pages, whatever the default; whether it all was.

    What is in it stays. Not before Linux 6.1, nor where there is no memory in such pieces, nor
    where nothing is behind a whole huge page yet.
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
