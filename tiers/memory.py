"""How much memory the host, or the container that this runs in, has left."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory_bytes"]


def available_memory_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory that can be had without swapping.

    What the kernel estimates (``MemAvailable``, proc(5)), and no more than each control group that
    this process is in leaves below its ``memory.max``, page cache that can be dropped included
    (cgroup v2).

    Parameters
    ----------
    proc, cgroups:
        Where these file systems are mounted.
    """
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for group in _own_groups(proc, cgroups):
        try:
            limit = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
            kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue  # the root has none, nor has a group without this controller
        if limit != "max":
            droppable = int(kinds.get("inactive_file", "0"))
            available = min(available, int(limit) - used + droppable)
    return max(0, available)


def _own_groups(proc: Path, cgroups: Path) -> list[Path]:
    """The control group of this process and those above it."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    paths = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not paths:
        return []
    group = cgroups / paths[0]
    groups = [group]
    while group != cgroups and cgroups in group.parents:
        group = group.parent
        groups.append(group)
    return groups
