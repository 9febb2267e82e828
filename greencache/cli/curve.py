"""``greencache curve``: from options to results."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from greencache.bench.curve import (
    Curve,
    Sampling,
    curves_json,
    default_capacities,
    measure_curve,
    parse_policies,
)
from greencache.cli.progress import progress_bar
from greencache.controller.models import find_model
from greencache.errors import InputError
from greencache.output import STDOUT, check_outputs, write_json, write_output
from greencache.quantities import format_bytes, parse_bytes
from greencache.traces.source import TraceSource

__all__ = ["Options", "run"]

_KV_DTYPE = "bf16"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed."""

    trace: Path | None
    format: str | None
    block_tokens: int | None
    policy: str
    capacities: str | None
    model: str | None
    kv_dtype: str | None
    sample: str | None
    skip_bad: bool
    json: Path | None
    png: Path | None


def _capacities(text: str, block_bytes: int | None) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError("--capacities needs at least one capacity")
    if block_bytes is not None:
        sizes = [parse_bytes(part) for part in parts]
        if min(sizes) < block_bytes:
            raise InputError(
                f"a capacity of {format_bytes(min(sizes))} holds no block of "
                f"{format_bytes(block_bytes)}; with --model capacities are in bytes, as 64GiB"
            )
        return sorted(size // block_bytes for size in sizes)
    unusable = [
        part for part in parts if not part.isascii() or not part.isdigit() or len(part) > 15
    ]
    if unusable:
        raise InputError(
            f"capacity {unusable[0]!r} is not a usable number of blocks; give --model for bytes"
        )
    return sorted(int(part) for part in parts)


def _sampling(text: str | None) -> Sampling | None:
    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        if number != text.strip():
            return Sampling(rate=float(number) / 100)
        return Sampling(max_blocks=int(number))
    except ValueError:
        raise InputError(
            f"--sample {text!r} is neither a share like 1% nor a number of blocks"
        ) from None


def _rate(rate: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{rate:.2%}"
    return f"{rate:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def _table(curves: list[Curve], block_bytes: int | None) -> Table:
    """One curve with blocks and tokens, several in tokens side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rates = ["hits\nblocks", "hit rate\nblocks", "hit rate\ntokens"]
    if len(curves) > 1:
        rates = [f"hit rate\ntokens, {curve.policy}" for curve in curves]
    for heading in ("capacity\nblocks", "capacity", *rates):
        if heading != "capacity" or block_bytes is not None:
            table.add_column(heading, justify="right")
    for points in zip(*(curve.points for curve in curves), strict=True):
        first = points[0]
        size = [] if block_bytes is None else [format_bytes(first.capacity_blocks * block_bytes)]
        blocks = []
        if len(curves) == 1:
            by_block = _rate(first.hit_rate_blocks, first.hit_rate_blocks_range)
            blocks = [f"{first.hit_blocks:,}", by_block]
        tokens = [_rate(point.hit_rate_tokens, point.hit_rate_tokens_range) for point in points]
        table.add_row(f"{first.capacity_blocks:,}", *size, *blocks, *tokens)
    return table


def _heading(curves: list[Curve]) -> str:
    curve = curves[0]
    text = (
        f"{curve.trace}: {curve.accesses:,} block accesses, {curve.unique_blocks:,} different "
        f"blocks of {curve.block_tokens} tokens; policy "
        f"{', '.join(str(each.policy) for each in curves)}\n"
    )
    if curve.sampling is not None:
        text += (
            f"from {curve.sampling.rate:.3g} of the blocks; in brackets the interval that holds "
            f"at each capacity with {curve.sampling.confidence:.0%}\n"
        )
    return text


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
    policies = parse_policies(options.policy)
    sampling = _sampling(options.sample)
    model = None if options.model is None else find_model(options.model)
    if model is None and options.kv_dtype is not None:
        raise InputError("--kv-dtype is of a model's KV; give --model too")
    trace = source.read()
    if not trace.has_blocks:
        raise InputError(
            f"{trace.name} names no blocks, so there is no reuse in it to measure; "
            "take a trace with block hashes"
        )
    block_bytes = None
    if model is not None:
        layout = model.kv_layout(
            options.kv_dtype or _KV_DTYPE, block_tokens=trace.block_tokens, ranks=1
        )
        block_bytes = layout.block_bytes
    capacities = default_capacities(trace)
    if options.capacities is not None:
        capacities = _capacities(options.capacities, block_bytes)
    curves = []
    with progress_bar() as report:
        for policy in policies:
            show = functools.partial(report, f"{policy} curve")
            curves.append(
                measure_curve(trace, policy, capacities, sampling=sampling, on_progress=show)
            )
    if options.json is not None:
        write_json(options.json, curves_json(curves, block_bytes))
    if options.png is not None:
        from greencache.bench.curve_chart import curve_picture

        write_output(options.png, curve_picture(curves, block_bytes))
    if STDOUT not in outputs:
        console = Console(highlight=False, markup=False)
        console.print(_heading(curves), style="dim")
        console.print(_table(curves, block_bytes))
