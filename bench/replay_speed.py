"""How fast the core serves block accesses, beside what people would use otherwise.

``python -m greencache.bench.replay_speed [--json FILE]``: LRU over the Mooncake conversation trace,
held in memory. All sides take turns, for a fifth of a second each and several turns; each side's
best run counts, since other work on the machine only ever slows a run down. Compilation is over
before the first turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.curve import prefix_hits
from greencache.bench.plain_lru import plain_lru_hits
from greencache.output import write_json
from greencache.tiers.policies import Policy
from greencache.traces import RequestTrace, read_trace, sample_path

__all__ = ["libcachesim_hits", "main", "ordered_dict_hits"]

TURNS = 5
TURN_S = 0.2
CAPACITY_BLOCKS = 50_000


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


def libcachesim_hits(names: list[int], capacity: int) -> int:
    """The same in libCacheSim, fed from Python; it must be installed."""
    import libcachesim

    cache, request = libcachesim.LRU(capacity), libcachesim.Request()
    request.obj_size = 1
    hits = 0
    for name in names:
        request.obj_id = name
        hits += cache.get(request)
    return hits


def _sides(trace: RequestTrace) -> dict[str, Callable[[], int]]:
    ids, names = trace.block_ids, trace.block_names.tolist()
    sides = {
        "plain LRU, ours": lambda: plain_lru_hits(ids, CAPACITY_BLOCKS),
        "full index, ours": lambda: prefix_hits(trace, Policy.LRU, CAPACITY_BLOCKS),
        "OrderedDict": lambda: ordered_dict_hits(names, CAPACITY_BLOCKS),
    }
    try:
        import libcachesim  # noqa: F401 - only whether it is there
    except ImportError:
        return sides
    return sides | {"libcachesim, Python loop": lambda: libcachesim_hits(names, CAPACITY_BLOCKS)}


def measure(trace: RequestTrace, clock: Callable[[], float]) -> dict[str, Any]:
    """Time every side and compare; what ``--json`` writes."""
    sides = _sides(trace)
    hits = {name: side() for name, side in sides.items()}  # compiles, and fills the CPU's caches
    best_s = dict.fromkeys(sides, np.inf)
    for _ in range(TURNS):
        for name, side in sides.items():
            turn_ends_s = clock() + TURN_S
            while clock() < turn_ends_s:
                began_s = clock()
                side()
                best_s[name] = min(best_s[name], clock() - began_s)
    accesses = {name: len(trace.block_ids) for name in sides}
    accesses["full index, ours"] = int(trace.full_blocks.sum())  # it stores no partial blocks
    rates = {name: accesses[name] / best_s[name] for name in sides}
    return {
        "schema": "greencache.bench.replay_speed/1",
        "trace": trace.name,
        "capacity_blocks": CAPACITY_BLOCKS,
        "turns": TURNS,
        "sides": {
            name: {
                "accesses": accesses[name],
                "hits": hits[name],
                "best_s": best_s[name],
                "accesses_per_s": rates[name],
                "times_ordered_dict": rates[name] / rates["OrderedDict"],
            }
            for name in sides
        },
    }


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time LRU over the Mooncake conversation trace: ours, OrderedDict, libcachesim."""
    result = measure(read_trace(sample_path()), time.perf_counter)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("side", "accesses", "hits", "M accesses/s", "times OrderedDict"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for name, side in result["sides"].items():
        table.add_row(
            name,
            f"{side['accesses']:,}",
            f"{side['hits']:,}",
            f"{side['accesses_per_s'] / 1e6:,.1f}",
            f"{side['times_ordered_dict']:,.1f}",
        )
    Console().print(table)
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
