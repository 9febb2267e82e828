"""``greencache trace``: what a trace is, and its conversion."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from greencache.bench.table import WIDE
from greencache.output import STDOUT, check_outputs, write_json
from greencache.traces.columns import write_columns
from greencache.traces.formats import read_trace
from greencache.traces.requests import RequestTrace
from greencache.traces.source import TraceSource
from greencache.traces.statistics import Spread, TraceStatistics, trace_statistics

__all__ = ["Options", "run", "statistics_table"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed."""

    trace: Path | None
    format: str | None
    block_tokens: int | None
    skip_bad: bool
    json: Path | None
    parquet: Path | None


def _spread(spread: Spread | None, unit: str = "") -> str:
    if spread is None:
        return "-"
    values = (spread.mean, spread.p50, spread.p90, spread.p99)
    mean, p50, p90, p99 = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"mean {mean}{unit}, p50 {p50}{unit}, p90 {p90}{unit}, p99 {p99}{unit}"


def _time(seconds: float) -> str:
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds:,.0f} s ({seconds / length_s:.1f} {unit})"
    return f"{seconds:.3g} s"


def _rate(statistics: TraceStatistics) -> str:
    rate = statistics.mean_rate_per_s
    mean = "all at once" if rate is None else f"mean {rate:.3g}/s"
    return f"{mean}, busiest minute {statistics.busiest_minute_per_s:.3g}/s"


def _blocks(statistics: TraceStatistics) -> str:
    if statistics.block_accesses is None:
        return "none named: reuse cannot be seen in this trace"
    return (
        f"{statistics.block_tokens} tokens each; {statistics.block_accesses:,} accesses to "
        f"{statistics.unique_blocks:,} different blocks"
    )


def _reuse(statistics: TraceStatistics) -> str:
    share = statistics.reused_tokens_share
    if share is None:
        return "-"
    return f"{share:.1%} of prompt tokens are in blocks seen before (a cache of endless size)"


def _sessions(statistics: TraceStatistics) -> str:
    if statistics.sessions is None:
        return "not recorded"
    return f"{statistics.sessions:,}; requests {_spread(statistics.requests_per_session)}"


_ROWS: dict[str, Callable[[TraceStatistics], str]] = {
    "format": lambda each: each.format or "-",
    "requests": lambda each: f"{each.requests:,}",
    "lines skipped": lambda each: f"{each.skipped:,}" if each.skipped else "none",
    "span": lambda each: _time(each.span_s),
    "rate": _rate,
    "prompt tokens": lambda each: _spread(each.input_tokens),
    "output tokens": lambda each: _spread(each.output_tokens),
    "blocks": _blocks,
    "reuse": _reuse,
    "time between uses": lambda each: _spread(each.reuse_gap_s, " s"),
    "sessions": _sessions,
}


def statistics_table(*traces: TraceStatistics) -> Table:
    """Numbers of one trace, or of several side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for trace in traces:
        table.add_column(trace.name)
    for row, cell in _ROWS.items():
        table.add_row(row, *(cell(trace) for trace in traces))
    return table


def _converted(source: TraceSource, path: Path) -> RequestTrace:
    """Write the trace to ``path`` as it is read, then read it from there."""
    if source.block_tokens is not None:
        # Larger blocks are known only when the whole trace is.
        trace = source.read()
        write_columns(path, trace)
        return trace
    format, batches = source.open()
    write_columns(path, batches, name=source.name)
    return replace(read_trace(path), format=format)


def run(options: Options) -> None:
    """Print what the trace is; convert it if asked to.

    Raises
    ------
    InputError
        If the trace is not usable.
    OutputError
        If a result cannot be written.
    """
    source = TraceSource.of(options.trace, options.format, options.block_tokens, options.skip_bad)
    check_outputs(options.json, options.parquet, inputs=(source.path,))
    trace = source.read() if options.parquet is None else _converted(source, options.parquet)
    if options.parquet is not None:
        print(f"wrote {options.parquet}", file=sys.stderr)
    statistics = trace_statistics(trace)
    if options.json is not None:
        write_json(options.json, statistics.as_json())
    if options.json != STDOUT:
        console = Console(
            highlight=False, markup=False, width=None if Console().is_terminal else WIDE
        )
        console.print(statistics_table(statistics))
