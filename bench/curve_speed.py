"""How fast hit rates at many capacities are had, beside simulating each capacity.

``python -m greencache.bench.curve_speed [--json FILE]``: a million block accesses, made of copies
of the Mooncake conversation trace as if several such services shared a cache, and 20 capacities.
Our curves give all capacities at once; the others simulate one after the other, the slowest of them
only two, whose time is scaled. All have to count the same hits. Compilation is over, and printed,
before anything is timed; of the fast sides the best of several turns counts.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from greencache.bench.baselines import (
    libcachesim_loop_hits,
    libcachesim_native,
    ordered_dict_hits,
    write_oracle_general,
)
from greencache.bench.curve import prefix_hits, prompts
from greencache.bench.plain_lru import plain_lru_hits
from greencache.controller.curves import hits_at, lru_stack_distances, prefix_lru_stack_distances
from greencache.controller.sampled_curves import SampledCurve
from greencache.output import write_json
from greencache.tiers.policies import Policy
from greencache.traces import RequestTrace, read_trace, sample_path

__all__ = ["main", "measure", "several_services"]

ACCESSES = 1_000_000
SERVICES = 4
CAPACITIES = 20
TURNS = 5
SAMPLE_BLOCKS = 10_000
BATCHES = 20
USEFUL_BLOCKS = 100
"""Blocks of the sample in a capacity from which on its error is worth a mean."""
SEED = 1

EXACT = "exact curve, ours"
PREFIX = "exact prefix curve, ours"
SAMPLED = "sampled curve, ours"

Hits = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One way to the hits at each of some capacities.

    Attributes
    ----------
    hits:
        Gives them.
    turns:
        How often it is timed.
    of_each:
        Whether its time grows with the number of capacities.
    timed:
        How many of the capacities are timed; the time is scaled to all.
    prefixes:
        Whether it counts leading prefixes, not block by block.
    """

    hits: Callable[[Sequence[int]], Hits]
    turns: int = 1
    of_each: bool = True
    timed: int = CAPACITIES
    prefixes: bool = False


def several_services(trace: RequestTrace, services: int, accesses: int) -> RequestTrace:
    """Copies of ``trace`` with blocks of their own, begun at random times and merged by arrival.

    Cut after the last request that lies within ``accesses``.
    """
    begins_s = np.random.default_rng(SEED).uniform(0, trace.duration_s, services)
    copies = [
        replace(
            trace,
            arrival_s=trace.arrival_s + begin_s,
            block_names=trace.block_ids.astype(np.int64) + number * trace.unique_blocks,
        )
        for number, begin_s in enumerate(begins_s)
    ]
    arrival_s = np.concatenate([copy.arrival_s for copy in copies])
    order = np.argsort(arrival_s, kind="stable")
    lengths = np.concatenate([np.diff(copy.block_starts) for copy in copies])
    begins = np.cumsum(lengths) - lengths
    order = order[np.cumsum(lengths[order]) <= accesses]
    starts = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths[order])
    return RequestTrace(
        name=f"{services} services like {trace.name}",
        arrival_s=arrival_s[order] - arrival_s[order[0]],
        input_tokens=np.tile(trace.input_tokens, services)[order],
        output_tokens=np.tile(trace.output_tokens, services)[order],
        block_tokens=trace.block_tokens,
        block_names=np.concatenate([copy.block_names for copy in copies])[
            np.repeat(begins[order], lengths[order]) + within
        ],
        block_starts=starts,
    )


def _each(hits_of: Callable[[int], int]) -> Callable[[Sequence[int]], Hits]:
    return lambda capacities: np.array([hits_of(capacity) for capacity in capacities], np.int64)


def _at(everywhere: Hits, capacities: Sequence[int]) -> Hits:
    return np.asarray(everywhere[np.array(capacities)])


def _ours(trace: RequestTrace) -> dict[str, Side]:
    ids = trace.block_ids
    all_capacities = np.arange(trace.unique_blocks + 1)

    def exact(capacities: Sequence[int]) -> Hits:
        return _at(hits_at(lru_stack_distances(ids), all_capacities), capacities)

    def exact_prefix(capacities: Sequence[int]) -> Hits:
        return _at(hits_at(prefix_lru_stack_distances(*prompts(trace)), all_capacities), capacities)

    def sampled(capacities: Sequence[int]) -> Hits:
        curve = SampledCurve(SAMPLE_BLOCKS)
        for part in np.array_split(ids, BATCHES):  # as a stream comes
            curve.add_accesses(part)
        return curve.hits(np.array(capacities)).value.round().astype(np.int64)

    return {
        EXACT: Side(exact, TURNS, of_each=False),
        PREFIX: Side(exact_prefix, TURNS, of_each=False, prefixes=True),
        SAMPLED: Side(sampled, TURNS, of_each=False),
        "plain LRU, ours": Side(_each(lambda capacity: plain_lru_hits(ids, capacity)), 2),
        "full index, ours": Side(
            _each(lambda capacity: prefix_hits(trace, Policy.LRU, capacity)), 2, prefixes=True
        ),
    }


def _others(trace: RequestTrace, folder: Path) -> dict[str, Side]:
    names = trace.block_ids.tolist()
    sides = {"OrderedDict": Side(_each(lambda capacity: ordered_dict_hits(names, capacity)))}
    try:
        import libcachesim  # noqa: F401 - only whether it is there
    except ImportError:
        return sides
    path = folder / "accesses.bin"
    write_oracle_general(trace.block_ids, path)
    native = _each(lambda capacity: libcachesim_native(path, len(names), capacity)())
    sides["libcachesim, native"] = Side(native)
    loop = _each(lambda capacity: libcachesim_loop_hits(names, capacity))
    sides["libcachesim, Python loop"] = Side(loop, timed=2)
    return sides


def _spread(count: int, of: int) -> list[int]:
    """Which ``count`` of ``of`` capacities to time: spread over all, not the first."""
    return [int(place) for place in np.linspace(0, of - 1, count + 2).round()[1:-1]]


def _time(side: Side, capacities: list[int], clock: Callable[[], float]) -> dict[str, Any]:
    chosen = list(range(len(capacities)))
    if side.timed < len(capacities):
        chosen = _spread(side.timed, len(capacities))
    seconds = []
    for _ in range(side.turns):
        began_s = clock()
        hits = side.hits([capacities[i] for i in chosen])
        seconds.append((clock() - began_s) * len(capacities) / len(chosen))
    return {"best_s": min(seconds), "capacities_timed": chosen, "hits": hits.tolist()}


def _peak_bytes(side: Side, capacities: list[int]) -> int:
    tracemalloc.start()
    try:
        side.hits(capacities[-1:])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _sample_error(trace: RequestTrace, capacities: list[int], exact: Hits) -> dict[str, Any]:
    curve = SampledCurve(SAMPLE_BLOCKS)
    curve.add_accesses(trace.block_ids)
    rate = curve.hit_rate(np.array(capacities))
    true = exact / len(trace.block_ids)
    useful = np.array(capacities) * curve.rate >= USEFUL_BLOCKS
    return {
        "blocks": SAMPLE_BLOCKS,
        "rate": curve.rate,
        "memory_bytes": curve.memory_bytes,
        "capacities": int(useful.sum()),
        "largest_error": float(np.abs(rate.value - true)[useful].max(initial=0)),
        "mean_half_width": float((rate.high - rate.low)[useful].sum() / max(useful.sum(), 1) / 2),
        "inside_interval": int(((rate.low <= true) & (true <= rate.high)).sum()),
    }


def measure(trace: RequestTrace, clock: Callable[[], float]) -> dict[str, Any]:
    """Time every side and compare what they count; what ``--json`` writes."""
    capacities = np.geomspace(100, trace.unique_blocks, CAPACITIES).round().astype(int).tolist()
    ours = _ours(trace)
    began_s = clock()
    for side in ours.values():
        side.hits(capacities[:1])
    first_s = clock() - began_s
    with tempfile.TemporaryDirectory() as folder:
        sides = ours | _others(trace, Path(folder))
        results = {name: _time(side, capacities, clock) for name, side in sides.items()}
    exact = {False: results[EXACT]["hits"], True: results[PREFIX]["hits"]}
    for name, side in sides.items():
        result = results[name]
        result["of_each_capacity"] = side.of_each
        result["times_exact_curve"] = result["best_s"] / results[EXACT]["best_s"]
        expected = [exact[side.prefixes][i] for i in result["capacities_timed"]]
        result["equal"] = None if name == SAMPLED else result["hits"] == expected
        native = name.startswith("libcachesim")  # whose memory Python does not see
        result["peak_bytes"] = None if native else _peak_bytes(side, capacities)
    return {
        "schema": "greencache.bench.curve_speed/1",
        "trace": trace.name,
        "accesses": len(trace.block_ids),
        "unique_blocks": trace.unique_blocks,
        "capacities_blocks": capacities,
        "first_calls_s": first_s,
        "sides": results,
        "sample": _sample_error(trace, capacities, np.array(exact[False])),
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("side", "capacities", "seconds", "times exact", "hits", "memory"):
        table.add_column(heading, justify="left" if heading in ("side", "hits") else "right")
    count = len(result["capacities_blocks"])
    for name, side in result["sides"].items():
        timed = len(side["capacities_timed"])
        scaled = "" if timed == count else f", from {timed}"
        peak = side["peak_bytes"]
        table.add_row(
            name,
            f"{count}{scaled}" if side["of_each_capacity"] else "all",
            f"{side['best_s']:,.3f}",
            f"{side['times_exact_curve']:,.1f}",
            {None: "estimated", True: "equal", False: "DIFFERENT"}[side["equal"]],
            "" if peak is None else f"{peak / 1e6:,.1f} MB",
        )
    return table


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time hit-rate curves over a million block accesses: ours, and one simulation a capacity."""
    conversation = read_trace(sample_path())
    trace = several_services(conversation, SERVICES, ACCESSES)
    result = measure(trace, time.perf_counter)
    sample = result["sample"]
    console = Console(highlight=False)
    console.print(
        f"{result['trace']}: {result['accesses']:,} accesses, {result['unique_blocks']:,} blocks; "
        f"first calls, compiled or read from the cache: {result['first_calls_s']:.1f} s\n"
    )
    console.print(_table(result))
    console.print(
        f"\nsample of {sample['blocks']:,} blocks ({sample['rate']:.2%} of all): at the "
        f"{sample['capacities']} capacities of {USEFUL_BLOCKS} sampled blocks or more off by "
        f"{sample['largest_error']:.2%} at most, interval ±{sample['mean_half_width']:.2%} on "
        f"average; it holds at {sample['inside_interval']} of all "
        f"{len(result['capacities_blocks'])}"
    )
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
