"""How fast the core serves block accesses, beside what people would use otherwise.

``python -m greencache.bench.replay_speed [--quick] [--json FILE]``: LRU over the Mooncake
conversation trace, held in memory. All sides take turns, for a fifth of a second each and several
turns; each side's best run counts, since other work on the machine only ever slows a run down.
Compilation is over before the first turn and is timed apart, in processes of its own. Then the same
code serves a made stream that grows (`greencache.bench.scaling`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.baselines import (
    libcachesim_loop_hits,
    libcachesim_native,
    ordered_dict_hits,
    write_oracle_general,
)
from greencache.bench.curve import prefix_hits
from greencache.bench.plain_lru import plain_lru_hits
from greencache.bench.scaling import SCALES, measure_scaling
from greencache.bench.two_tiers import two_tier_hits
from greencache.output import write_json
from greencache.tiers.policies import Policy
from greencache.traces import RequestTrace, read_trace, sample_path

__all__ = ["main"]

TURNS = 5
TURN_S = 0.2
CAPACITY_BLOCKS = 50_000
DRAM_BLOCKS = CAPACITY_BLOCKS // 4

INDEX = "index, one tier"
TWO_TIERS = "index, two tiers and leases"

FIRST_CALLS = {
    "the two indexes": [
        "-c",
        "from greencache.bench.replay_speed import first_calls; first_calls()",
    ],
    "greencache replay": ["-m", "greencache", "replay"],
}
"""Commands that are run by Python with an empty folder for machine code, and again."""


def first_calls() -> None:
    """Serve a short stream once, which compiles what is not compiled yet."""
    from greencache.bench.scaling import make_sessions

    trace = make_sessions(1000)
    plain_lru_hits(trace.block_ids, 10)
    two_tier_hits(trace, Policy.LRU, 10, 20)


def _sides(trace: RequestTrace, folder: Path) -> dict[str, Callable[[], int]]:
    ids, names = trace.block_ids, trace.block_names.tolist()
    sides = {
        "plain LRU": lambda: plain_lru_hits(ids, CAPACITY_BLOCKS),
        INDEX: lambda: prefix_hits(trace, Policy.LRU, CAPACITY_BLOCKS),
        TWO_TIERS: lambda: two_tier_hits(trace, Policy.LRU, DRAM_BLOCKS, CAPACITY_BLOCKS),
        "OrderedDict": lambda: ordered_dict_hits(names, CAPACITY_BLOCKS),
    }
    try:
        import libcachesim  # noqa: F401 - only whether it is there
    except ImportError:
        return sides
    path = folder / "trace.oracleGeneral"
    write_oracle_general(trace.block_names, path)
    return sides | {
        "libcachesim, Python loop": lambda: libcachesim_loop_hits(names, CAPACITY_BLOCKS),
        "libcachesim, native runner": libcachesim_native(path, len(names), CAPACITY_BLOCKS),
    }


def measure_sides(trace: RequestTrace, clock: Callable[[], float]) -> dict[str, Any]:
    """Time every side over a trace and compare."""
    with tempfile.TemporaryDirectory() as folder:
        sides = _sides(trace, Path(folder))
        hits = {name: side() for name, side in sides.items()}  # compiles, and fills CPU caches
        best_s = dict.fromkeys(sides, np.inf)
        for _ in range(TURNS):
            for name, side in sides.items():
                turn_ends_s = clock() + TURN_S
                while clock() < turn_ends_s:
                    began_s = clock()
                    side()
                    best_s[name] = min(best_s[name], clock() - began_s)
    # The index stores no partial blocks. With two tiers, a block of a request is one access, though
    # both tiers serve it.
    accesses = dict.fromkeys(sides, len(trace.block_ids))
    accesses[INDEX] = accesses[TWO_TIERS] = int(trace.full_blocks.sum())
    rates = {name: accesses[name] / best_s[name] for name in sides}
    return {
        name: {
            "accesses": accesses[name],
            "tiers": 2 if name == TWO_TIERS else 1,
            "hits": hits[name],
            "best_s": best_s[name],
            "accesses_per_s": rates[name],
            "times_ordered_dict": rates[name] / rates["OrderedDict"],
        }
        for name in sides
    }


def _best_of_turns(clock: Callable[[], float]) -> Callable[[Callable[[], int]], tuple[float, int]]:
    """Run a side for as long as in `measure_sides` and at least twice; its best time and result."""

    def best_s(side: Callable[[], int]) -> tuple[float, int]:
        side()
        shortest_s, result = np.inf, 0
        ends_s = clock() + TURNS * TURN_S
        while not np.isfinite(shortest_s) or clock() < ends_s:
            began_s = clock()
            result = side()
            shortest_s = min(shortest_s, clock() - began_s)
        return float(shortest_s), result

    return best_s


def measure_first_calls(clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Time whole processes with no machine code kept, and with what that one left."""
    result: dict[str, dict[str, float]] = {}
    for name, arguments in FIRST_CALLS.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
            environment["XDG_CACHE_HOME"] = folder
            result[name] = {}
            for state in ("cold_s", "warm_s"):
                began_s = clock()
                subprocess.run(
                    [sys.executable, *arguments], env=environment, check=True, capture_output=True
                )
                result[name][state] = clock() - began_s
    return result


def measure(quick: bool, clock: Callable[[], float]) -> dict[str, Any]:
    """All that is measured; what ``--json`` writes."""
    trace = read_trace(sample_path())
    scales = SCALES[:-1] if quick else SCALES
    scaling = [measure_scaling(accesses, _best_of_turns(clock)) for accesses in scales]
    return {
        "schema": "greencache.bench.replay_speed/2",
        "trace": trace.name,
        "capacity_blocks": CAPACITY_BLOCKS,
        "dram_blocks": DRAM_BLOCKS,
        "turns": TURNS,
        "sides": measure_sides(trace, clock),
        "scaling": scaling,
        "first_calls": None if quick else measure_first_calls(clock),
    }


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _tables(result: dict[str, Any]) -> list[Table]:
    sides = _table("LRU over a trace", "accesses", "hits", "M accesses/s", "times OrderedDict")
    for name, side in result["sides"].items():
        sides.add_row(
            name,
            f"{side['accesses']:,}",
            f"{side['hits']:,}",
            f"{side['accesses_per_s'] / 1e6:,.1f}",
            f"{side['times_ordered_dict']:,.1f}",
        )
    scaling = _table("accesses of a stream", "blocks", "side", "ns/access", "times the first", "MB")
    scaling.columns[2].justify = "left"
    first = result["scaling"][0]["sides"]
    for scale in result["scaling"]:
        for name, side in scale["sides"].items():
            scaling.add_row(
                f"{scale['accesses']:,}",
                f"{scale['unique_blocks']:,}",
                name,
                f"{side['ns_per_access']:,.1f}",
                f"{side['ns_per_access'] / first[name]['ns_per_access']:,.1f}",
                f"{side['state_bytes'] / 1e6:,.0f}",
            )
    if result["first_calls"] is None:
        return [sides, scaling]
    calls = _table("whole process", "nothing compiled, s", "compiled, s")
    for name, times in result["first_calls"].items():
        calls.add_row(name, f"{times['cold_s']:,.1f}", f"{times['warm_s']:,.1f}")
    return [sides, scaling, calls]


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the largest stream and compilation.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time LRU, plain and in the index, beside OrderedDict and libcachesim, and as it grows."""
    result = measure(quick, time.perf_counter)
    for table in _tables(result):
        Console().print(table, end="\n\n")
    print("With two tiers, a block of a request is one access, though both tiers serve it.")
    peak_bytes = result["scaling"][-1]["peak_process_bytes"]
    print(f"MB: arrays of the side. The whole process took {peak_bytes / 1e6:,.0f} MB at most.")
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
