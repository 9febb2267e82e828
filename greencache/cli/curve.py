"""``greencache curve``: from options to results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from greencache.bench.curve import Curve, default_capacities, measure_curve
from greencache.cli.progress import progress_bar
from greencache.cli.traces import TraceSource
from greencache.controller.models import find_model
from greencache.errors import InputError
from greencache.output import STDOUT, check_outputs, write_json, write_output
from greencache.quantities import format_bytes, parse_bytes
from greencache.tiers.policies import Policy

__all__ = ["Options", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed."""

    trace: Path | None
    format: str | None
    block_tokens: int | None
    policy: str
    capacities: str | None
    model: str | None
    kv_dtype: str
    skip_bad: bool
    json: Path | None
    png: Path | None


def _capacities(text: str, block_bytes: int | None) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError("--capacities needs at least one capacity")
    if block_bytes is not None:
        return sorted(parse_bytes(part) // block_bytes for part in parts)
    unusable = [
        part for part in parts if not part.isascii() or not part.isdigit() or len(part) > 15
    ]
    if unusable:
        raise InputError(
            f"capacity {unusable[0]!r} is not a usable number of blocks; give --model for bytes"
        )
    return sorted(int(part) for part in parts)


def _table(curve: Curve, block_bytes: int | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "capacity\nblocks",
        "capacity",
        "hits\nblocks",
        "hit rate\nblocks",
        "hit rate\ntokens",
    ):
        if heading != "capacity" or block_bytes is not None:
            table.add_column(heading, justify="right")
    for point in curve.points:
        size = [] if block_bytes is None else [format_bytes(point.capacity_blocks * block_bytes)]
        table.add_row(
            f"{point.capacity_blocks:,}",
            *size,
            f"{point.hit_blocks:,}",
            f"{point.hit_rate_blocks:.2%}",
            f"{point.hit_rate_tokens:.2%}",
        )
    return table


def run(options: Options) -> None:
    """Measure the curve, print it, write what was asked for.

    Raises
    ------
    InputError
        If an option or the trace is not usable.
    OutputError
        If a result cannot be written.
    """
    outputs = (options.json, options.png)
    source = TraceSource.of(options.trace, options.format, options.block_tokens, options.skip_bad)
    check_outputs(*outputs, inputs=(source.path,))
    policy = Policy.parse(options.policy)
    model = None if options.model is None else find_model(options.model)
    trace = source.read()
    if not trace.has_blocks:
        raise InputError(
            f"{trace.name} names no blocks, so there is no reuse in it to measure; "
            "take a trace with block hashes"
        )
    block_bytes = None
    if model is not None:
        layout = model.kv_layout(options.kv_dtype, block_tokens=trace.block_tokens, ranks=1)
        block_bytes = layout.block_bytes
    capacities = default_capacities(trace)
    if options.capacities is not None:
        capacities = _capacities(options.capacities, block_bytes)
    with progress_bar([f"{policy} curve"]) as report:
        curve = measure_curve(
            trace, policy, capacities, on_progress=lambda share: report(f"{policy} curve", share)
        )
    if options.json is not None:
        write_json(options.json, curve.as_json(block_bytes))
    if options.png is not None:
        from greencache.bench.curve_chart import curve_picture

        write_output(options.png, curve_picture(curve, block_bytes))
    if STDOUT not in outputs:
        console = Console(highlight=False, markup=False)
        console.print(
            f"{curve.trace}: {curve.accesses:,} block accesses, {curve.unique_blocks:,} different "
            f"blocks of {curve.block_tokens} tokens; policy {policy}\n",
            style="dim",
        )
        console.print(_table(curve, block_bytes))
