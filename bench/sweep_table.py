"""A sweep as a table that a person can read in a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from greencache.bench.sweep import SweepResult

__all__ = ["MOST_LINES", "sweep_table"]

MOST_LINES = 40
"""Cells that the table shows; all are in the results' file."""
_MOST_REASONS = 5
_KINDS_OF_INVALID = ("overloaded", "SLO missed")


def _by_cell(result: SweepResult) -> list[list[dict[str, Any]]]:
    """Rows of the cells that are shown."""
    columns = (
        *result.spec.axes,
        *("plan", "valid", "invalid_because", "error", "sci_g_per_1k_output_tokens"),
    )
    shown = int(result.cell.searchsorted(MOST_LINES))
    cells: list[list[dict[str, Any]]] = []
    rows = result.table.slice(0, shown).select(list(dict.fromkeys(columns))).to_pylist()
    for cell, row in zip(result.cell[:shown], rows, strict=True):
        if cell == len(cells):
            cells.append([])
        cells[cell].append(row)
    return cells


def _grams(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["valid"]:
        return f"{row['sci_g_per_1k_output_tokens']:.4g}"
    kind = str(row["invalid_because"]).partition(":")[0]
    return kind if kind in _KINDS_OF_INVALID else "invalid"


def _line(rows: list[dict[str, Any]], axes: list[str], plans: list[str]) -> list[str]:
    values = [_axis_text(rows[0][axis]) for axis in axes]
    if rows[0]["error"] is not None:
        return [*values, *["-"] * len(plans), "failed"]
    by_plan = {row["plan"]: row for row in rows}
    valid = [row for row in rows if row["valid"]]
    cheapest = min(valid, key=lambda row: row["sci_g_per_1k_output_tokens"], default=None)
    return [
        *values,
        *(_grams(by_plan.get(plan)) for plan in plans),
        "none valid" if cheapest is None else cheapest["plan"],
    ]


def _axis_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _most_frequent(reasons: list[str | None]) -> list[str]:
    counted = Counter(filter(None, reasons)).most_common()
    lines = [f"  {count:,} x {reason}" for reason, count in counted[:_MOST_REASONS]]
    if len(counted) > _MOST_REASONS:
        lines.append(f"  and {len(counted) - _MOST_REASONS:,} other reasons")
    return lines


def _heading(result: SweepResult, single: list[str]) -> str:
    spec = result.spec
    common = {**spec.replay, **{name: spec.axes[name][0] for name in single}}
    said = ", ".join(f"{name} {_axis_text(value)}" for name, value in common.items())
    return (
        f"{spec.path.name}: {len(spec):,} replays, simulated in {result.jobs:,} jobs\n"
        f"{f'All with {said}. ' if said else ''}"
        "gCO2e per 1,000 output tokens:"
    )


def _footer(result: SweepResult, where: str) -> str:
    lines = []
    if len(result.spec) > MOST_LINES:
        rest = len(result.spec) - MOST_LINES
        lines.append(f"{rest:,} replays more, and all that is known of each, are in {where}")
    failed = result.table["error"].to_pylist()
    if any(failed):
        lines += [f"{sum(map(bool, failed)):,} replays failed:", *_most_frequent(failed)]
    invalid = result.table["invalid_because"].to_pylist()
    if any(invalid):
        count = sum(map(bool, invalid))
        lines.append(
            f"{count:,} runs are invalid: overloaded, or the SLO was missed "
            "(column invalid_because)"
        )
    return "\n".join(lines)


def sweep_table(result: SweepResult, where: str) -> Group:
    """A line for each of the first cells: its place on the axes, grams by plan, the cheapest plan.

    Parameters
    ----------
    result:
        The sweep.
    where:
        The file that has all rows.
    """
    axes = [name for name, values in result.spec.axes.items() if len(values) > 1]
    single = [name for name in result.spec.axes if name not in axes]
    plans = [plan for plan in result.table["plan"].unique().to_pylist() if plan is not None]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in axes:
        table.add_column(name.removeprefix("factors."), overflow="fold")
    for plan in plans:
        table.add_column(plan, justify="right", overflow="fold")
    table.add_column("cheapest", overflow="fold")
    for rows in _by_cell(result):
        table.add_row(*_line(rows, axes, plans))
    parts: list[RenderableType] = [Text(_heading(result, single), style="dim"), Text(), table]
    if footer := _footer(result, where):
        parts += [Text(), Text(footer, style="dim")]
    return Group(*parts)
