"""Disks that fail, and disks that remember what they were told, to put under an SSD tier."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.files import Directory, File

Bytes = NDArray[np.uint8]
Fault = Callable[[str, str, range], int | None]
"""From what is done, to which file, to which of its bytes: the error's number, or None."""

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


class FaultyFile(File):
    """A real file that fails when it is told to, and may move less than it is asked to."""

    def __init__(self, descriptor: int, *, direct: bool, name: str, disk: FaultyDisk) -> None:
        super().__init__(descriptor, direct=direct)
        self.name, self.disk = name, disk

    def _check(self, doing: str, offset: int = 0, length: int = 0) -> None:
        self.disk.check(doing, self.name, range(offset, offset + length))

    def read(self, buffers: Sequence[Bytes], offset: int) -> int:
        self._check("read", offset, sum(buffer.nbytes for buffer in buffers))
        if self.disk.at_most is not None:
            buffers = [buffers[0][: self.disk.at_most]]
        return super().read(buffers, offset)

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        self._check("write", offset, sum(buffer.nbytes for buffer in buffers))
        if self.disk.at_most is not None:
            buffers = [buffers[0][: self.disk.at_most]]
        return super().write(buffers, offset)

    def sync(self) -> None:
        self._check("sync")
        super().sync()

    def allocate(self, offset: int, length: int) -> None:
        self._check("allocate", offset, length)
        super().allocate(offset, length)

    def punch(self, offset: int, length: int) -> None:
        self._check("punch", offset, length)
        super().punch(offset, length)

    def truncate(self, length: int) -> None:
        self._check("truncate", 0, length)
        super().truncate(length)

    def close(self) -> None:
        super().close()  # Linux closes it, whatever it says of that (close(2))
        self._check("close")


class FaultyDisk(Directory):
    """A real directory whose files fail as ``fault`` says; ``at_most`` bytes move at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fault: Fault = lambda doing, name, where: None
        self.at_most: int | None = None

    def check(self, doing: str, name: str, where: range) -> None:
        number = self.fault(doing, name, where)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def _opened(self, name: str, flags: int, *, direct: bool) -> File:
        self.check("open", name, range(0))
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        return FaultyFile(descriptor, direct=direct, name=name, disk=self)

    def unlink(self, name: str) -> None:
        self.check("unlink", name, range(0))
        super().unlink(name)


def failing(doing: str, name: str = "", number: int = errno.EIO) -> Fault:
    """Everything of one kind fails, on files whose name begins so."""
    return lambda does, to, where: number if does == doing and to.startswith(name) else None


@dataclass
class Inode:
    """What was done to one file, whatever it is called."""

    changes: list[tuple[int, str, int, bytes | int]] = field(default_factory=list)
    """Time, what, offset, and the bytes written or the length."""
    synced: list[int] = field(default_factory=list)


class RecordedFile(File):
    def __init__(self, descriptor: int, *, direct: bool, inode: Inode, disk: RecordedDisk) -> None:
        super().__init__(descriptor, direct=direct)
        self.inode, self.disk = inode, disk

    def _note(self, what: str, offset: int, change: bytes | int) -> None:
        self.inode.changes.append((self.disk.tick(), what, offset, change))

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        done = super().write(buffers, offset)
        self._note("write", offset, b"".join(b.tobytes() for b in buffers)[:done])
        return done

    def sync(self) -> None:
        begun = self.disk.tick()
        super().sync()
        self.inode.synced.append(begun)
        self.disk.tick()

    def allocate(self, offset: int, length: int) -> None:
        super().allocate(offset, length)
        self._note("allocate", offset, length)

    def punch(self, offset: int, length: int) -> None:
        super().punch(offset, length)
        self._note("punch", offset, length)

    def truncate(self, length: int) -> None:
        super().truncate(length)
        self._note("truncate", 0, length)


class RecordedDisk(Directory):
    """A real directory that remembers all that was done, to be done again up to a loss of power.

    Until a file is synced, any part of what was written to it may be on the medium or not, in any
    order, to the sector. Names change in order, and up to the last sync of the directory for sure.

    ``before`` is the disk as a process had it that has ended: its power was on all the time.
    """

    def __init__(self, path: Path, before: RecordedDisk | None = None) -> None:
        super().__init__(path)
        self.time: int = 0 if before is None else before.time
        self.inodes: list[Inode] = [] if before is None else before.inodes
        self.names_changed: list[tuple[int, str, str, int]] = (
            [] if before is None else before.names_changed
        )
        self.names_synced: list[int] = [] if before is None else before.names_synced
        self._inode_of: dict[str, int] = {} if before is None else before._inode_of

    def tick(self) -> int:
        self.time += 1
        return self.time

    def _opened(self, name: str, flags: int, *, direct: bool) -> File:
        if name not in self._inode_of:
            self._inode_of[name] = len(self.inodes)
            self.inodes.append(Inode())
            self.names_changed.append((self.tick(), "create", name, self._inode_of[name]))
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        inode = self.inodes[self._inode_of[name]]
        return RecordedFile(descriptor, direct=direct, inode=inode, disk=self)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._inode_of[new] = self._inode_of.pop(old)
        self.names_changed.append((self.tick(), "remove", old, -1))
        # At once: whoever applies the removal of the old name applies the new one, too.
        self.names_changed.append((self.time, "create", new, self._inode_of[new]))

    def unlink(self, name: str) -> None:
        super().unlink(name)
        del self._inode_of[name]
        self.names_changed.append((self.tick(), "remove", name, -1))

    def sync(self) -> None:
        begun = self.tick()
        super().sync()
        self.names_synced.append(begun)
        self.tick()

    def after_power_loss(self, path: Path, time: int, random: np.random.Generator) -> None:
        """Make a directory as it may be found after the power went at ``time``."""
        path.mkdir(mode=0o700)
        sure = max((t for t in self.names_synced if t < time), default=0)
        changed = [change for change in self.names_changed if change[0] <= time]
        times = sorted({change[0] for change in changed if change[0] > sure})
        until = times[random.integers(len(times) + 1) - 1] if times else sure
        if times and random.random() < 1 / (len(times) + 1):
            until = sure
        names: dict[str, int] = {}
        for when, what, name, inode in changed:
            if when > max(sure, until):
                break
            if what == "create":
                names[name] = inode
            else:
                names.pop(name, None)
        for name, number in names.items():
            (path / name).write_bytes(self._content(self.inodes[number], time, random))
            (path / name).chmod(0o600)

    def _content(self, inode: Inode, time: int, random: np.random.Generator) -> bytes:
        sure = max((t for t in inode.synced if t < time), default=0)
        lost = random.choice([0.0, 0.2, 0.5, 0.9, 1.0])
        torn = random.choice([0.0, 0.5])
        data = bytearray()
        for when, what, offset, change in inode.changes:
            if when > time:
                break
            unsynced = when > sure
            if unsynced and random.random() < lost:
                continue
            if isinstance(change, bytes):
                write = bytearray(change)
                if unsynced and random.random() < torn:
                    _tear(write, data, offset, random)
                _fit(data, offset + len(write))
                data[offset : offset + len(write)] = write
            elif what == "truncate":
                _fit(data, change)
                del data[change:]
            elif what == "allocate":
                _fit(data, offset + change)
            else:
                stop = min(offset + change, len(data))
                data[offset:stop] = bytes(max(0, stop - offset))
        return bytes(data)


def _fit(data: bytearray, length: int) -> None:
    data.extend(bytes(max(0, length - len(data))))


def _tear(write: bytearray, data: bytearray, offset: int, random: np.random.Generator) -> None:
    """Let some sectors of a write be as they were before it."""
    for sector in range(offset // SECTOR_BYTES, (offset + len(write)) // SECTOR_BYTES + 1):
        if random.random() < 0.5:
            begin = max(offset, sector * SECTOR_BYTES)
            end = min(offset + len(write), (sector + 1) * SECTOR_BYTES)
            before = bytes(data[begin:end])
            write[begin - offset : end - offset] = before + bytes(end - begin - len(before))
