"""The files of a tier: a directory that one process owns, and I/O at offsets, direct if possible.

Everything that the SSD tier asks of the operating system goes through `Files` and `OpenFile`, so
that tests can put a disk in its place that fails, or that forgets what was not synced. `Directory`
is the real one.

Direct I/O passes by the page cache: what is written to SSD does not take the memory that the DRAM
tier was given, and one copy less is made. It needs lengths and offsets that are multiples of
`ALIGNMENT`, and addresses as the drive likes them; `aligned_buffer` always has such.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.errors import StorageError, TierBusyError, TierError
from greencache.tiers.syscalls import allocate, direct_io_alignment, punch_hole

__all__ = [
    "ALIGNMENT",
    "Directory",
    "File",
    "Files",
    "OpenFile",
    "address",
    "aligned_buffer",
    "filesystem_bytes",
    "read_fully",
    "reported",
    "write_fully",
]

ALIGNMENT = 4096
"""What offsets and lengths of direct I/O are multiples of. The logical block of a drive is 512 or
4,096 bytes, and open(2) asks for multiples of it."""

LOCK_NAME = "lock"
_DISK_BLOCK_BYTES = 512  # what st_blocks counts in, whatever the filesystem (stat(2))
_BUFFERS_A_CALL = os.sysconf("SC_IOV_MAX")

Bytes = NDArray[np.uint8]

_log = logging.getLogger("greencache.tiers")


class OpenFile(Protocol):
    """One open file of a tier. Every method raises `OSError` where the operating system does."""

    address_alignment: int
    """What addresses of buffers are multiples of: 1 where the page cache is between. Offsets and
    lengths are then free, too; otherwise they are multiples of `ALIGNMENT`."""

    def read(self, buffers: Sequence[Bytes], offset: int) -> int:
        """Fill ``buffers`` from ``offset`` on; how many bytes came, maybe fewer than asked for."""
        ...

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        """Write ``buffers`` at ``offset``; how many bytes were taken, maybe fewer than given."""
        ...

    def sync(self) -> None:
        """Return once what was written before is on the medium (fdatasync)."""
        ...

    def allocate(self, offset: int, length: int) -> None:
        """Set disk space aside for a range; a file that ends before is as long then.

        Does nothing on a filesystem that cannot.
        """
        ...

    def punch(self, offset: int, length: int) -> None:
        """Give the disk space of a range back; it reads as zeros from now on."""
        ...

    def truncate(self, length: int) -> None:
        """Make the file ``length`` bytes long; what is added takes no space and reads as zeros."""
        ...

    def size(self) -> int:
        """Length of the file in bytes."""
        ...

    def close(self) -> None:
        """Close the file; what was not synced may still be lost with the power."""
        ...


class Files(Protocol):
    """A directory and the files in it. Every method raises `OSError` as the system does."""

    path: Path

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> OpenFile:
        """Open a file to read and write, by direct I/O if asked for and possible."""
        ...

    def names(self) -> list[str]:
        """Names of all files here, sorted; the lock's is left out."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, at once and in place of a file that has it."""
        ...

    def unlink(self, name: str) -> None:
        """Remove a file."""
        ...

    def sync(self) -> None:
        """Return once names made, changed and removed before are on the medium."""
        ...

    def allocated_bytes(self) -> int:
        """Disk space that the directory takes with all in it, as ``du`` counts."""
        ...

    def close(self) -> None:
        """Let another process have the directory."""
        ...


def aligned_buffer(length: int) -> Bytes:
    """Zeroed bytes that begin on a page, as direct I/O wants them; given back with the array."""
    return np.frombuffer(mmap.mmap(-1, max(length, 1)), np.uint8, count=length)


def filesystem_bytes(path: Path) -> int:
    """Size of the filesystem that a directory is on, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).total


def address(buffer: Bytes) -> int:
    """Where in memory a buffer begins."""
    return int(buffer.__array_interface__["data"][0])


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """Raise `StorageError` in place of `OSError`; ``doing`` says what failed."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {doing}: {error.strerror or error}; make room on the disk, or mend it"
        ) from error


def _address_alignment(descriptor: int) -> int:
    """What addresses for direct I/O on a file are multiples of; `ALIGNMENT` always does."""
    known = direct_io_alignment(descriptor)
    return ALIGNMENT if known is None else min(known, ALIGNMENT)


def _move(
    call: Callable[[Sequence[Bytes], int], int],
    buffers: Sequence[Bytes],
    offset: int,
    ended: str,
) -> None:
    """Repeat a read or write until every buffer is done."""
    left = [buffer for buffer in buffers if buffer.nbytes]
    while left:
        done = call(left[:_BUFFERS_A_CALL], offset)
        if done == 0:
            raise OSError(errno.EIO, ended)
        offset += done
        while left and done >= left[0].nbytes:
            done -= left[0].nbytes
            del left[0]
        if done:
            left[0] = left[0][done:]


def read_fully(file: OpenFile, buffers: Sequence[Bytes], offset: int) -> None:
    """Fill all of ``buffers`` from ``offset`` on.

    Raises
    ------
    OSError
        If the file ends before, or cannot be read.
    """
    _move(file.read, buffers, offset, "the file ends too early")


def write_fully(file: OpenFile, buffers: Sequence[Bytes], offset: int) -> None:
    """Write all of ``buffers`` at ``offset``.

    Raises
    ------
    OSError
        If it cannot be written; some of it may have been.
    """
    _move(file.write, buffers, offset, "nothing was written")


class File:
    """A real file; made by `Directory.open`."""

    def __init__(self, descriptor: int, *, direct: bool) -> None:
        self.address_alignment = _address_alignment(descriptor) if direct else 1
        self._descriptor = descriptor

    def read(self, buffers: Sequence[Bytes], offset: int) -> int:
        """See `OpenFile.read`."""
        return os.preadv(self._descriptor, [buffer.data for buffer in buffers], offset)

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        """See `OpenFile.write`."""
        return os.pwritev(self._descriptor, [buffer.data for buffer in buffers], offset)

    def sync(self) -> None:
        """See `OpenFile.sync`."""
        os.fdatasync(self._descriptor)

    def allocate(self, offset: int, length: int) -> None:
        """See `OpenFile.allocate`."""
        try:
            allocate(self._descriptor, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise

    def punch(self, offset: int, length: int) -> None:
        """See `OpenFile.punch`."""
        punch_hole(self._descriptor, offset, length)

    def truncate(self, length: int) -> None:
        """See `OpenFile.truncate`."""
        os.ftruncate(self._descriptor, length)

    def size(self) -> int:
        """See `OpenFile.size`."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """See `OpenFile.close`."""
        os.close(self._descriptor)


class Directory:
    """A directory that this process owns as long as it is open.

    It is made, with mode 0700, if it is missing. Files are opened by their name within the
    directory that was checked, and never through a symbolic link.

    Parameters
    ----------
    path:
        Where it is; what is above it must exist or may be made.

    Raises
    ------
    TierBusyError
        If another process has it open.
    TierError
        If it is a symbolic link or no directory, belongs to another user, may be written to by
        others, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._direct_refused = False
        self._descriptor = _open_directory(path)
        try:
            _check_owner(path, self._descriptor)
            self._lock = _lock(path, self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __repr__(self) -> str:
        return f"<Directory {self.path}>"

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> File:
        """See `Files.open`; a file made here has mode 0600."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        if direct and not self._direct_refused:
            try:
                return self._opened(name, flags | os.O_DIRECT, direct=True)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct_refused = True
                _log.warning(
                    "%s: its filesystem has no direct I/O; blocks pass through the page cache",
                    self.path,
                )
        return self._opened(name, flags, direct=False)

    def _opened(self, name: str, flags: int, *, direct: bool) -> File:
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return File(descriptor, direct=direct)

    def names(self) -> list[str]:
        """See `Files.names`."""
        with os.scandir(self._descriptor) as entries:
            return sorted(entry.name for entry in entries if entry.name != LOCK_NAME)

    def rename(self, old: str, new: str) -> None:
        """See `Files.rename`."""
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        """See `Files.unlink`."""
        os.unlink(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        """See `Files.sync`."""
        os.fsync(self._descriptor)

    def allocated_bytes(self) -> int:
        """See `Files.allocated_bytes`."""
        blocks = os.fstat(self._descriptor).st_blocks + os.fstat(self._lock).st_blocks
        for name in self.names():
            try:
                found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since
            blocks += found.st_blocks
        return blocks * _DISK_BLOCK_BYTES

    def close(self) -> None:
        """See `Files.close`."""
        os.close(self._lock)
        os.close(self._descriptor)


def _open_directory(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            reason = "it is a symbolic link; name the directory itself"
        elif path.exists() and not path.is_dir():
            reason = "it is not a directory; name another"
        else:
            reason = f"{error.strerror}; name one that can be made and opened"
        raise TierError(f"cannot use {path} as a tier: {reason}") from error


def _check_owner(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise TierError(
            f"cannot use {path} as a tier: it belongs to user {found.st_uid}, not to"
            f" {os.geteuid()} that runs this; name a directory of your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TierError(
            f"cannot use {path} as a tier: others may write to it; run chmod 700 {path}, if nobody"
            " else put anything there"
        )


def _lock(path: Path, directory: int) -> int:
    """Take the directory's lock, which ends with this process at the latest."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(LOCK_NAME, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise TierError(f"cannot lock {path} as a tier: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(os.pread(descriptor, 32, 0))
        os.close(descriptor)
        raise TierBusyError(
            f"{path} is in use by {holder}: stop that process, or name another directory"
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        os.close(descriptor)
        raise TierError(f"cannot lock {path} as a tier: {error.strerror}") from error
    return descriptor


def _holder(written: Iterable[int]) -> str:
    pid = bytes(written).strip()
    return f"process {int(pid)}" if pid.isdigit() else "another process"
