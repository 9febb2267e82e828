"""How often the interval of a sampled curve holds, and how wide it is.

``python -m greencache.bench.curve_error [--seeds N] [--json FILE]``: for each
trace and size of sample, many samples by different seeds, each against the exact curve at 24
capacities. The interval was designed on the conversation trace; the other traces were first
measured when it was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from greencache.bench.curve import prompts
from greencache.controller.curves import hits_at, prefix_lru_stack_distances
from greencache.controller.sampled_curves import SampledCurve
from greencache.output import write_json
from greencache.traces import RequestTrace, read_trace, sample_path

__all__ = [
    "Stream",
    "beginning",
    "by_block",
    "by_prefix",
    "coverage",
    "main",
    "synthetic_streams",
]

AGENT_ACCESSES = 4_000_000
SIZES = (500, 5_000, 20_000)
CAPACITIES = 24
USEFUL_BLOCKS = 100
"""Blocks of the sample in a capacity from which on widths are averaged; below, an interval says
little and would decide the mean."""


class Stream(NamedTuple):
    """What `SampledCurve.add` takes, with ids from 0."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    full: NDArray[np.int64]
    reusable: NDArray[np.int64]


def beginning(trace: RequestTrace, accesses: int) -> RequestTrace:
    """The first requests of a trace, with no more block accesses than that."""
    return trace.select(trace.block_starts[1:] <= accesses)


def by_prefix(trace: RequestTrace) -> Stream:
    """The requests of a trace, for prefix LRU."""
    return Stream(*prompts(trace))


def by_block(names: NDArray[Any]) -> Stream:
    """Blocks one by one, for plain LRU."""
    _, ids = np.unique(names, return_inverse=True)
    one = np.ones(len(ids), np.int64)
    return Stream(ids.astype(np.int32), np.arange(len(ids)), one, one)


def _zipf(generator: np.random.Generator, skew: float, blocks: int, count: int) -> NDArray[Any]:
    weights = np.arange(1, blocks + 1) ** -skew
    return generator.choice(blocks, count, p=weights / weights.sum())


def synthetic_streams(accesses: int, seed: int) -> Iterator[tuple[str, Stream]]:
    """Streams with what makes sampling hard: skew, loops, scans, change."""
    generator = np.random.default_rng(seed)
    blocks = accesses // 3
    for skew in (0.6, 0.9, 1.2, 1.6):
        yield f"Zipf {skew}", by_block(_zipf(generator, skew, blocks, accesses))
    yield "loop", by_block(np.arange(accesses) % (accesses // 10))
    yield "scan", by_block(np.arange(accesses // 3))
    third = accesses // 3
    mixed = (
        _zipf(generator, 1.0, blocks // 5, third),
        np.arange(third) % (accesses // 60) + blocks,
        np.arange(third) + 2 * blocks,
    )
    yield "Zipf, loop, scan", by_block(np.concatenate(mixed))
    sixth = accesses // 6
    phases = [_zipf(generator, 0.9, blocks // 5, sixth) + phase * blocks for phase in range(6)]
    yield "six phases", by_block(np.concatenate(phases))
    popular = np.where(
        generator.random(accesses) < 0.3, -1, _zipf(generator, 0.8, blocks // 2, accesses)
    )
    yield "one block 30 %", by_block(popular)


def coverage(stream: Stream, size: int, seeds: int) -> dict[str, Any]:
    """How often the interval held over seeds and capacities, and how wide it was."""
    unique = int(stream.ids.max()) + 1
    capacities = np.unique(np.geomspace(1, unique, CAPACITIES).round().astype(np.int64))
    accesses = int(stream.full.sum())
    exact = hits_at(prefix_lru_stack_distances(*stream), capacities) / accesses
    held, width, error, rates = [], [], [], []
    for seed in range(seeds):
        curve = SampledCurve(size, seed=seed)
        curve.add(*stream)
        rate = curve.hit_rate(capacities)
        slack = 1e-9  # sums of weights are rounded
        held.append((rate.low <= exact + slack) & (exact <= rate.high + slack))
        width.append((rate.high - rate.low) / 2)
        error.append(rate.value - exact)
        rates.append(curve.rate)
    mean_rate = float(np.mean(rates))
    useful = capacities * mean_rate >= USEFUL_BLOCKS
    return {
        "accesses": accesses,
        "unique_blocks": unique,
        "sample_blocks": size,
        "rate": mean_rate,
        "coverage": float(np.mean(held)),
        "lowest_coverage": float(np.mean(held, axis=0).min()),
        "useful_capacities": int(useful.sum()),
        "useful_coverage": float(np.mean(np.array(held)[:, useful])) if useful.any() else None,
        "mean_half_width": float(np.mean(np.array(width)[:, useful])) if useful.any() else None,
        "rms_error": float(np.sqrt(np.mean(np.array(error)[:, useful] ** 2)))
        if useful.any()
        else None,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def main(
    seeds: Annotated[int, typer.Option(help="Samples of each trace and size.")] = 200,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Measure how often the intervals of sampled curves hold."""
    conversation = read_trace(sample_path())
    agents = beginning(read_trace(sample_path("agentic-sessions")), AGENT_ACCESSES)
    streams = [
        ("conversation, prefix", by_prefix(conversation)),
        ("conversation, plain", by_block(conversation.block_ids)),
        *synthetic_streams(300_000, seed=7),
        ("agent sessions, prefix", by_prefix(agents)),
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "trace",
        "sample\nblocks",
        "rate",
        "held,\nall",
        "held, worst\ncapacity",
        f"held, {USEFUL_BLOCKS}\nor more",
        "half\nwidth",
        "RMS\nerror",
    ):
        table.add_column(heading, justify="left" if heading == "trace" else "right")
    results = []
    for name, stream in streams:
        for size in SIZES:
            result = coverage(stream, size, seeds)
            results.append({"trace": name} | result)
            table.add_row(
                name,
                f"{size:,}",
                *(
                    _percent(result[field])
                    for field in (
                        "rate",
                        "coverage",
                        "lowest_coverage",
                        "useful_coverage",
                        "mean_half_width",
                        "rms_error",
                    )
                ),
            )
    Console(highlight=False).print(table)
    if json is not None:
        schema = "greencache.bench.curve_error/1"
        write_json(json, {"schema": schema, "seeds": seeds, "confidence": 0.95, "runs": results})


if __name__ == "__main__":
    typer.run(main)
