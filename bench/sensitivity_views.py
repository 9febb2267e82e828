"""How a result moves with its factors, for people: a table and a tornado plot."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Group
from rich.table import Table
from rich.text import Text

from greencache.bench.charts import figure_of
from greencache.bench.replay import Replay
from greencache.bench.sensitivity import Bound, Sensitivity, cheapest, sci_g

__all__ = ["sensitivity_table", "tornado"]

_SMALLEST_SWING = 0.01
"""Factors that move no plan by more than this are summed up in a line."""

_LOW_COLOUR, _HIGH_COLOUR = "#56B4E9", "#D55E00"


def _cost(replay: Replay, plan: str) -> str:
    grams = sci_g(replay, plan)
    return "-" if grams is None else f"{grams:.4g}"


def _at(bound: Bound) -> str:
    return bound.at if bound.factor_value is None else f"{bound.factor_value:.4g} ({bound.at})"


def sensitivity_table(sensitivity: Sensitivity) -> Group:
    """Grams per 1,000 output tokens at the ends of each factor's range, the largest swing first."""
    plans = [result.plan for result in sensitivity.base.results]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("factor", no_wrap=True)
    table.add_column("at", no_wrap=True)
    for plan in plans:
        table.add_column(plan, justify="right", no_wrap=True)
    table.add_column("cheapest", no_wrap=True)
    base = sensitivity.base
    table.add_row("as given", "", *(_cost(base, plan) for plan in plans), cheapest(base) or "-")
    shown = [name for name in sensitivity.names if sensitivity.swing(name) > _SMALLEST_SWING]
    for name in shown:
        for bound in sensitivity.of(name):
            winner = cheapest(bound.replay)
            costs = (_cost(bound.replay, plan) for plan in plans)
            style = "yellow" if winner != cheapest(base) else None
            table.add_row(name, _at(bound), *costs, winner or "-", style=style)
    rest = [name for name in sensitivity.names if name not in shown]
    notes = ["Grams of CO2e per 1,000 output tokens, one factor changed at a time."]
    if cheapest(base) is None:
        notes = ["No plan is valid: there is no result for the factors to move."]
    elif rest:
        notes.append(f"No plan moves by more than {_SMALLEST_SWING:.0%} with {', '.join(rest)}.")
    return Group(table, Text(), Text("\n".join(notes), style="dim"))


def _draw_tornado(axes: Axes, sensitivity: Sensitivity, plan: str) -> None:
    base = sci_g(sensitivity.base, plan)
    assert base is not None
    rows = []
    for name in sensitivity.names:
        moved = [
            (bound, grams / base - 1)
            for bound in sensitivity.of(name)
            if (grams := sci_g(bound.replay, plan)) is not None
        ]
        if moved and max(abs(share) for _, share in moved) > _SMALLEST_SWING:
            rows.append((name, moved))
    rows.sort(key=lambda row: max(abs(share) for _, share in row[1]))
    for y, (_, moved) in enumerate(rows):
        for bound, share in moved:
            axes.barh(y, share, 0.62, color=_LOW_COLOUR if bound.at == "low" else _HIGH_COLOUR)
            text = bound.at if bound.factor_value is None else f"{bound.factor_value:,.4g}"
            axes.annotate(
                text,
                (share, y),
                xytext=(4 if share >= 0 else -4, 0),
                textcoords="offset points",
                ha="left" if share >= 0 else "right",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.axvline(0, color="black", linewidth=1)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"change of gCO2e per output token of {plan}, against the factors as given")
    axes.set_title(f"Sensitivity of {plan} to each factor's published range")
    axes.grid(axis="y", visible=False)


def tornado(sensitivity: Sensitivity) -> Figure | None:
    """How far each factor moves the plan that keeps most; None if no plan is valid."""
    valid = [
        result.plan
        for result in sensitivity.base.results
        if sci_g(sensitivity.base, result.plan) is not None
    ]
    if not valid:
        return None
    plan = "full" if "full" in valid else valid[-1]
    rows = sum(sensitivity.swing(name) > _SMALLEST_SWING for name in sensitivity.names)
    return figure_of(
        9,
        1.5 + 0.32 * max(rows, 1),
        lambda figure: _draw_tornado(figure.subplots(), sensitivity, plan),
    )
