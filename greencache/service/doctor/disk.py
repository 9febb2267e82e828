"""What the directory for SSD stands on: rights, filesystem, direct I/O, room."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from greencache.quantities import format_bytes
from greencache.service.doctor.finding import Finding, fail, ok, warn
from greencache.tiers.files import ALIGNMENT
from greencache.tiers.syscalls import allocate, punch_hole

__all__ = ["check_ssd", "filesystem_of"]

_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "beegfs", "afs"}
_PROBE_BYTES = 1 << 20

_OCTAL = re.compile(r"\\([0-7]{3})")
"""How mountinfo writes spaces and line ends."""


def check_ssd(path: Path, wanted_bytes: int) -> Iterator[Finding]:
    """Whether a directory can be a tier of so many bytes; nothing is left behind.

    Parameters
    ----------
    path:
        The directory; where it is missing, what it would be made in is looked at.
    wanted_bytes:
        Disk space that it may take, with what it has already.
    """
    try:
        below = _existing(path)
        problem = _problem(path, below)
    except OSError as fault:
        problem = fail("SSD directory", f"{path}: {fault.strerror}", "name another directory")
    if problem is not None:
        yield problem
        return
    missing = "" if below == path else ", to be made"
    yield ok("SSD directory", f"{path}{missing}")
    yield from _check_filesystem(below)
    try:
        yield from _check_calls(below)
    except OSError as fault:
        advice = "look for what the system says of this disk (dmesg)"
        yield fail("SSD files", f"a file in {below} cannot be used ({fault.strerror})", advice)
    yield _check_room(path, below, wanted_bytes)


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest above it that is there."""
    below = path
    while not os.path.lexists(below):
        below = below.parent
    return below


def _problem(path: Path, below: Path) -> Finding | None:
    """Why the daemon would refuse it."""
    name, found = "SSD directory", below.lstat()
    if below == path and stat.S_ISLNK(found.st_mode):
        return fail(name, f"{path} is a symbolic link", "name the directory itself")
    if not below.is_dir():
        return fail(name, f"{below} is no directory", "name another (GREENCACHE_SERVE__SSD_DIR)")
    if below == path:
        if found.st_uid != os.geteuid():
            text = f"{path} belongs to user {found.st_uid}, not to {os.geteuid()} that runs this"
            return fail(name, text, "run this as the daemon's user, or name a directory of yours")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            text = f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o})"
            return fail(name, text, f"chmod 700 {path}, if nobody else put anything there")
    if os.statvfs(below).f_flag & os.ST_RDONLY:
        return fail(name, f"the filesystem of {path} is read-only", "mount it to be written")
    if not os.access(below, os.W_OK | os.X_OK):
        advice = f"make {path} for this user, or name another (GREENCACHE_SERVE__SSD_DIR)"
        return fail(name, f"{below} may not be written to", advice)
    return None


def filesystem_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Type of the filesystem that a path is on (proc(5), mountinfo); ``unknown`` if not told."""
    kind, longest = "unknown", 0
    for line in mounts.read_text("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields.split()[4])
        # Of two at one place, the later hides the other.
        if path.resolve().is_relative_to(point) and len(point) >= longest:
            kind, longest = rest.split()[0], len(point)
    return kind


def _check_filesystem(below: Path) -> Iterator[Finding]:
    name, kind = "SSD filesystem", filesystem_of(below)
    if kind in _IN_MEMORY:
        yield fail(name, f"{kind}: this is memory, no disk", "name a directory on a local disk")
    elif kind in _REMOTE or kind.startswith("fuse"):
        advice = "prefer a local disk: each block waits for the network, and writes may be undone"
        yield warn(name, f"{kind}: not local", advice)
    elif kind == "overlay":
        advice = "mount a volume there: what is in a container's layer ends with it, and is slow"
        yield warn(name, "overlay: a container's own layer", advice)
    else:
        yield ok(name, kind)


def _check_calls(below: Path) -> Iterator[Finding]:
    """Try, in a file without a name, what the tier does with its files."""
    descriptor = _nameless(below)
    try:
        try:
            allocate(descriptor, 0, _PROBE_BYTES)
            taken = os.fstat(descriptor).st_blocks
            punch_hole(descriptor, 0, _PROBE_BYTES)
        except OSError as fault:
            advice = "use ext4 or xfs: a smaller tier would not give its disk space back"
            yield fail("SSD space", f"cannot be given back in parts ({fault.strerror})", advice)
        else:
            if os.fstat(descriptor).st_blocks < taken:
                yield ok("SSD space", "is set aside before it is written, and given back in parts")
            else:
                advice = "use ext4 or xfs: disk space is not set aside, a full disk shows late"
                yield warn("SSD space", "cannot be set aside before it is written", advice)
        yield _check_direct(descriptor)
    finally:
        os.close(descriptor)


def _nameless(below: Path) -> int:
    try:
        return os.open(below, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every filesystem has that
        descriptor, name = tempfile.mkstemp(dir=below, prefix=".greencache-doctor-")
        Path(name).unlink()
        return descriptor


def _check_direct(descriptor: int) -> Finding:
    """Write and read by direct I/O."""
    name = "SSD direct I/O"
    try:
        direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as fault:
        return _no_direct(name, fault)
    page = mmap.mmap(-1, ALIGNMENT)
    try:
        page[:] = bytes(range(256)) * (ALIGNMENT // 256)
        os.pwrite(direct, page, 0)
        page[:] = bytes(ALIGNMENT)
        os.preadv(direct, [page], 0)
        if page[:256] != bytes(range(256)):
            return fail(name, "other bytes come back than were written", "replace this disk")
    except OSError as fault:
        return _no_direct(name, fault)
    finally:
        page.close()
        os.close(direct)
    return ok(name, "works")


def _no_direct(name: str, fault: OSError) -> Finding:
    advice = "use ext4 or xfs: blocks pass through the page cache, which takes memory and time"
    return warn(name, f"not here ({fault.strerror})", advice)


def _check_room(path: Path, below: Path, wanted_bytes: int) -> Finding:
    usage = shutil.disk_usage(below)
    held_bytes = _held_bytes(path) if below == path else 0
    free_bytes = usage.free + held_bytes
    text = f"{format_bytes(free_bytes)} can be had, {format_bytes(wanted_bytes)} are for KV"
    if wanted_bytes > usage.total:
        text = f"the disk has {format_bytes(usage.total)}, {format_bytes(wanted_bytes)} are for KV"
        return fail("SSD room", text, "set GREENCACHE_SERVE__SSD to less, or name a larger disk")
    if wanted_bytes > free_bytes:
        advice = "free some, or set GREENCACHE_SERVE__SSD to less: writes fail once it is full"
        return warn("SSD room", text, advice)
    return ok("SSD room", text)


def _held_bytes(path: Path) -> int:
    """Disk space that a directory takes with all in it."""
    total = 0
    for folder, _, names in os.walk(path, onerror=None):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
            except FileNotFoundError:
                continue  # removed since
    return total
