"""Composed workloads beside their sources: ``python -m greencache.bench.workloads [--json F]``."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.table import WIDE
from greencache.bench.workload_statistics import (
    CAPACITY_SHARES,
    StreamStatistics,
    WorkloadComparison,
    compare_with_sources,
)
from greencache.output import check_outputs, write_json
from greencache.traces.compose import ComposedWorkload, compose
from greencache.traces.loads import find_load
from greencache.traces.sessions import WORKLOADS
from greencache.traces.statistics import Spread

__all__ = ["comparison_rows", "comparison_table"]

SCHEMA = "greencache.bench.workloads/1"

HOURS = 24.0
WARMUP_HOURS = 6.0
MEAN_RATES = {"conversation": 3.4, "document": 1.0, "agentic": 0.5}
"""Requests per second: of conversation as recorded; of the others, what makes a day as large."""

SEED = 1


def _number(value: float | None, form: str = ",.3g") -> str:
    return "-" if value is None else f"{value:{form}}"


def _spread(spread: Spread | None, form: str = ",.0f") -> str:
    if spread is None:
        return "-"
    return " / ".join(f"{value:{form}}" for value in (spread.mean, spread.p50, spread.p90))


def _column(statistics: StreamStatistics) -> list[str]:
    rates = statistics.hit_rates or (None,) * len(CAPACITY_SHARES)
    return [
        f"{statistics.requests:,}",
        _number(statistics.requests_per_s),
        _number(statistics.busiest_hour_per_s),
        _spread(statistics.prompt_tokens),
        _spread(statistics.output_tokens),
        f"{statistics.requests_per_session:.2f}",
        _spread(statistics.session_gap_s),
        _spread(statistics.reuse_gap_s),
        f"{statistics.seen_share:.1%}",
        *(_number(rate, ".1%") for rate in rates),
    ]


def comparison_rows(comparison: WorkloadComparison) -> list[tuple[str, str, str]]:
    """What each row of the table is, its composed and its recorded figure."""
    labels = [
        "requests",
        "requests/s",
        "requests/s, busiest hour",
        "prompt tokens",
        "output tokens",
        "requests a session",
        "gap in a session, s",
        "reuse gap of a block, s",
        "prompt tokens seen before",
        *(f"LRU hit rate, {Fraction(share)} of an hour's blocks" for share in CAPACITY_SHARES),
    ]
    return list(zip(labels, _column(comparison.composed), _column(comparison.source), strict=True))


def comparison_table(composed: ComposedWorkload, comparison: WorkloadComparison) -> Table:
    """The composed stream's measured hours beside the recording of its sessions.

    The caption tells how well the load is followed and where all is from.
    """
    load = [f"mean rate {comparison.rate_error:+.1%} off what was asked"]
    if comparison.busiest_hour_wanted_per_s is not None:
        load.append(f"busiest hour asked {comparison.busiest_hour_wanted_per_s:.3g}/s")
    if comparison.hourly_correlation is not None:
        load.append(f"correlation with the load by hour {comparison.hourly_correlation:.3f}")
    sources = [
        f"{part['role']}: {part['name']}, {part['source']} ({part['licence']})"
        for part in composed.composed_from
    ]
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title=composed.trace.name,
        title_justify="left",
        caption="\n".join(["Several figures: mean / p50 / p90.", "; ".join(load), *sources]),
        caption_justify="left",
    )
    for heading in ("", "composed", "recorded"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in comparison_rows(comparison):
        table.add_row(*row)
    return table


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
    load: Annotated[str, typer.Option(help="Load shape: a shipped one, or FILE[:SERIES].")] = (
        "m-large"
    ),
) -> None:
    """Compose a day of each workload and print it beside its sources."""
    check_outputs(json)
    series = find_load(load)
    results: dict[str, Any] = {}
    console = Console(width=None if Console().is_terminal else WIDE)
    for workload in WORKLOADS:
        composed = compose(
            workload,
            series,
            hours=HOURS,
            warmup_hours=WARMUP_HOURS,
            mean_rate=MEAN_RATES[workload],
            seed=SEED,
        )
        comparison = compare_with_sources(composed)
        results[workload] = {
            "composed_from": composed.composed_from,
            "notes": composed.notes,
            **comparison.as_json(),
        }
        console.print(comparison_table(composed, comparison), *composed.notes, "", sep="\n")
    if json is not None:
        write_json(json, {"schema": SCHEMA, "workloads": results})


if __name__ == "__main__":
    typer.run(main)
