"""What people would serve block accesses with otherwise: LRU, block by block."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "libcachesim_loop_hits",
    "libcachesim_native",
    "ordered_dict_hits",
    "write_oracle_general",
]

ORACLE_GENERAL = np.dtype(
    [("time_s", "<u4"), ("id", "<u8"), ("bytes", "<u4"), ("next_access", "<i8")]
)
"""A record of libCacheSim's binary trace format (its ``doc/quickstart_traceFormat.md``)."""

_NO_NEXT_ACCESS = -1


def ordered_dict_hits(names: list[int], capacity: int) -> int:
    """LRU as one writes it in plain Python; hits among ``names`` in a cache of ``capacity``."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for name in names:
        if name in cache:
            cache.move_to_end(name)
            hits += 1
        else:
            cache[name] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits


def _hash_power(capacity: int) -> int:
    """Hash table of libCacheSim as large as the cache: its default of 2**24 places is slower."""
    return max(1, (capacity - 1).bit_length())


def libcachesim_loop_hits(names: list[int], capacity: int) -> int:
    """LRU of libCacheSim, asked for one block at a time from Python."""
    import libcachesim

    cache = libcachesim.LRU(capacity, hashpower=_hash_power(capacity))
    request = libcachesim.Request()
    request.obj_size = 1
    hits = 0
    for name in names:
        request.obj_id = name
        hits += cache.get(request)
    return hits


def write_oracle_general(names: NDArray[np.int64] | NDArray[np.int32], path: Path) -> None:
    """Write block accesses as a trace that libCacheSim reads by itself, every block of size 1."""
    records = np.zeros(len(names), ORACLE_GENERAL)
    records["time_s"] = np.arange(len(names))
    records["id"] = names
    records["bytes"] = 1
    records["next_access"] = _NO_NEXT_ACCESS
    records.tofile(path)


def libcachesim_native(path: Path, accesses: int, capacity: int) -> Callable[[], int]:
    """LRU of libCacheSim over a file of `write_oracle_general`, compiled code throughout.

    The file is mapped into memory once; each call reads it from the start into an empty cache and
    returns the hits.
    """
    import libcachesim

    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)

    def serve() -> int:
        reader.reset()
        cache = libcachesim.LRU(capacity, hashpower=_hash_power(capacity))
        miss_ratio, _ = cache.process_trace(reader)
        return round((1 - float(miss_ratio)) * accesses)

    return serve
