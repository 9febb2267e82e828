"""What the host gives a process: memory, limits, and what of Linux the daemon stands on."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Iterator

from greencache.quantities import GIB, format_bytes
from greencache.service.doctor.finding import Finding, fail, ok, warn
from greencache.tiers.memory import available_memory_bytes
from greencache.tiers.syscalls import allocate, punch_hole

__all__ = ["check_limits", "check_memory", "check_memory_files", "check_processes"]

_ROOM_SHARE = 0.8
"""Of the memory that is available: a host without any left swaps or kills."""

_FILES_BESIDE = 256
"""Files open beside sessions' own: extents, files of slots, logs, connections of others."""

_FILES_A_SESSION = 2
"""Its socket, and the pidfd of its process."""

_LARGEST_FILE_BYTES = 8 * GIB
"""A file of slots on SSD, and at the least an extent of DRAM."""


def check_memory(
    wanted_bytes: int,
    *,
    held_bytes: int = 0,
    available: Callable[[], int] = available_memory_bytes,
) -> Finding:
    """Whether there is memory for the DRAM tier.

    Parameters
    ----------
    wanted_bytes:
        What it is set to.
    held_bytes:
        What of that a daemon that runs has taken already.
    available:
        Memory that can be had now.
    """
    free_bytes = available() + held_bytes
    text = f"{format_bytes(free_bytes)} can be had, {format_bytes(wanted_bytes)} are for KV"
    if wanted_bytes > free_bytes:
        advice = "set GREENCACHE_SERVE__DRAM to less, or free memory (or raise the container's)"
        return fail("memory", text, advice)
    if wanted_bytes > _ROOM_SHARE * free_bytes:
        advice = "leave a fifth for others, or the host swaps: set GREENCACHE_SERVE__DRAM to less"
        return warn("memory", text, advice)
    return ok("memory", text)


def check_memory_files(*, make: Callable[[str, int], int] = os.memfd_create) -> Finding:
    """Whether memory can be made that clients map, and given back in parts."""
    name, length = "memory files", 1 << 20
    try:
        descriptor = make("greencache-doctor", os.MFD_CLOEXEC)
    except OSError as fault:
        advice = "allow memfd_create, which a container's seccomp profile may forbid"
        return fail(name, f"none can be made ({fault.strerror})", advice)
    try:
        allocate(descriptor, 0, length)
        held = os.fstat(descriptor).st_blocks
        punch_hole(descriptor, 0, length)
        given_back = held - os.fstat(descriptor).st_blocks
    except OSError as fault:
        advice = "allow fallocate, which a container's seccomp profile may forbid"
        return fail(name, f"memory cannot be taken or given back ({fault.strerror})", advice)
    finally:
        os.close(descriptor)
    if given_back * 512 < length:
        advice = "use a kernel that can punch holes in memory files: any Linux since 3.17"
        return fail(name, "memory of a hole is not given back", advice)
    return ok(name, "can be made, and given back in parts")


def check_processes(*, watch: Callable[[int], int] = os.pidfd_open) -> Finding:
    """Whether the death of a client can be seen, which ends its leases."""
    name, kernel = "kernel", platform.release()
    try:
        os.close(watch(os.getpid()))
    except OSError as fault:
        advice = "use Linux 5.3 or newer, and allow pidfd_open in the container's seccomp profile"
        return fail(name, f"{kernel}: no pidfd to be had ({fault.strerror})", advice)
    return ok(name, f"Linux {kernel}: ends of processes can be seen")


def check_limits(
    sessions: int, *, limits: Callable[[int], tuple[int, int]] = resource.getrlimit
) -> Iterator[Finding]:
    """Whether a process may have what serving so many clients takes.

    The daemon raises its soft limits itself, so the hard ones count.
    """
    needed = _FILES_BESIDE + _FILES_A_SESSION * sessions
    files = limits(resource.RLIMIT_NOFILE)[1]
    text = f"{_limit(files)} may be open; {sessions:,} clients take {needed:,}"
    if files != resource.RLIM_INFINITY and files < needed:
        clients = max(0, files - _FILES_BESIDE) // _FILES_A_SESSION
        advice = f"raise it (LimitNOFILE={needed} in the unit): {clients:,} clients are served"
        yield warn("open files", text, advice)
    else:
        yield ok("open files", text)
    length = limits(resource.RLIMIT_FSIZE)[1]
    if length != resource.RLIM_INFINITY and length < _LARGEST_FILE_BYTES:
        yield fail(
            "length of files",
            f"{format_bytes(length)} at the most",
            "lift it (ulimit -f unlimited, LimitFSIZE=infinity in the unit)",
        )
    locked = limits(resource.RLIMIT_MEMLOCK)[1]
    text = "without limit"
    if locked != resource.RLIM_INFINITY:
        text = (
            f"{format_bytes(locked)}; the daemon locks none, CUDA needs no more, an engine that"
            " pins for RDMA does"
        )
    yield ok("locked memory", text)


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else f"{value:,}"
