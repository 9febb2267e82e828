"""Plots of a replay, each a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from greencache.bench.outcome import TIERS
from greencache.bench.replay import Measured, PlanResult, Replay
from greencache.bench.simulation import BIN_S
from greencache.ledger import COMPONENTS
from greencache.quantities import GIB, HOUR_S, TB

__all__ = [
    "STYLE",
    "Line",
    "carbon_by_component",
    "carbon_over_time",
    "drawn",
    "figure_of",
    "hit_rate_by_tier",
    "overview",
    "plan_lines",
    "ttft",
]

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.hashsalt": "greencache",  # so that equal results are drawn alike, byte for byte
    "text.parse_math": False,  # names of traces may hold dollar signs
}

# Okabe and Ito's palette, which people with colour-blindness can tell apart.
_TIER_COLOURS = {"hbm": "#0072B2", "dram": "#56B4E9", "ssd": "#E69F00"}
_COMPONENT_COLOURS = {"gpu": "#0072B2", "host": "#999999", "dram": "#56B4E9", "ssd": "#E69F00"}
_PLAN_COLOURS = {
    "none": "#999999",
    "hbm-only": "#0072B2",
    "full": "#D55E00",
    "best-static": "#009E73",
    "greencache": "#CC79A7",
    "oracle": "#000000",
}
_OTHER_COLOURS = ("#56B4E9", "#E69F00", "#7B3294", "#A6761D")
_DASHES = ("-", "--", "-.", ":")
_FEW = 5
"""Plans whose legend fits inside a plot."""
_SMOOTHED = 5
"""Minutes over which carbon over time is averaged."""
_NAMES = {"gpu": "GPU", "host": "host", "hbm": "HBM", "dram": "DRAM", "ssd": "SSD"}


class Line(NamedTuple):
    """How a plan is drawn, in every plot that has a line for each."""

    colour: str
    dashes: str


def plan_lines(plans: Iterable[str]) -> dict[str, Line]:
    """Colours come round again with many plans, and plans often run along one another."""
    lines = {plan: Line(colour, "-") for plan, colour in _PLAN_COLOURS.items()}
    lines["best-static"] = lines["best-static"]._replace(dashes="--")
    others = [plan for plan in plans if plan not in lines]
    for i, plan in enumerate(others):
        turn, place = divmod(i, len(_OTHER_COLOURS))
        lines[plan] = Line(_OTHER_COLOURS[place], _DASHES[turn % len(_DASHES)])
    return lines


def _lines(replay: Replay) -> dict[str, Line]:
    return plan_lines(result.plan for result in replay.results)


def _measured(replay: Replay) -> list[tuple[PlanResult, Measured]]:
    """Runs that gave numbers, last plan first, as horizontal bars are drawn from below."""
    return [(r, r.measured) for r in replay.results[::-1] if r.measured is not None]


def _label(result: PlanResult) -> str:
    return result.plan if result.valid else f"{result.plan}\n(SLO missed)"


def _legend_beneath(axes: Axes, columns: int) -> None:
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8
    )


def _draw_carbon(axes: Axes, replay: Replay) -> None:
    runs = _measured(replay)
    labels = [_label(result) for result, _ in runs]
    scope = replay.setup.scope
    left = np.zeros(len(runs))
    thousands = np.array([m.served.output_tokens / 1000 for _, m in runs])
    kinds = {
        "operational": [m.carbon.operational_g for _, m in runs],
        "embodied": [m.carbon.embodied_g[scope] for _, m in runs],
    }
    for kind, by_component in kinds.items():
        for name in COMPONENTS:
            grams = np.array([components[name] for components in by_component]) / thousands
            if not grams.any():
                continue
            axes.barh(
                labels,
                grams,
                left=left,
                height=0.62,
                color=_COMPONENT_COLOURS[name],
                alpha=1.0 if kind == "operational" else 0.75,
                hatch="" if kind == "operational" else "////",
                edgecolor="white",
                linewidth=0.6,
                label=f"{_NAMES[name]} {kind}",
            )
            left += grams
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.3g}", va="center", fontsize=9)
    axes.set_xlim(0, left.max() * 1.12)
    axes.set_xlabel("gCO2e per 1,000 output tokens")
    axes.set_title("Carbon by component")
    axes.grid(axis="y", visible=False)
    _legend_beneath(axes, 4)


def _draw_hits(axes: Axes, replay: Replay) -> None:
    runs = _measured(replay)
    labels = [_label(result) for result, _ in runs]
    left = np.zeros(len(runs))
    for tier in TIERS:
        share = np.array([m.served.hit_rate_tokens_by_tier[tier] for _, m in runs])
        axes.barh(
            labels, share, left=left, height=0.62, color=_TIER_COLOURS[tier], label=_NAMES[tier]
        )
        left += share
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.1%}", va="center", fontsize=9)
    axes.set_xlim(0, max(left.max() * 1.2, 0.05))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("prompt tokens served from cache")
    axes.set_title("Hit rate by tier")
    axes.grid(axis="y", visible=False)
    _legend_beneath(axes, 3)


def _draw_ttft(axes: Axes, replay: Replay) -> None:
    lines = _lines(replay)
    for result, measured in _measured(replay)[::-1]:
        latency = measured.served.ttft
        axes.plot(
            latency.quantiles_s,
            np.linspace(0.0, 1.0, len(latency.quantiles_s)),
            color=lines[result.plan].colour,
            linestyle=lines[result.plan].dashes,
            label=f"{result.plan}: median {latency.percentile_s(50):.2g} s",
        )
    slo = replay.setup.slo
    axes.axvline(slo.ttft_s, color="black", linestyle=":", linewidth=1)
    axes.axhline(slo.target, color="black", linestyle=":", linewidth=1)
    axes.annotate(
        f"SLO {slo.ttft_s:g} s, {slo.target:.0%}",
        (slo.ttft_s, slo.target),
        xytext=(5, -12),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("time to first token, s (log scale)")
    axes.set_ylabel("requests at or below")
    axes.set_title("TTFT distribution")
    few = len(axes.lines) <= _FEW + 2  # two of them are the SLO's
    if few:
        axes.legend(loc="upper left", fontsize=8, frameon=True, framealpha=1, edgecolor="none")
    else:
        _legend_beneath(axes, 2)


def figure_of(width: float, height: float, draw: Callable[[Figure], None]) -> Figure:
    """A figure in our style, so many inches large."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg`` or ``png``, without the time it was drawn at."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(content, format=kind, dpi=110, metadata=metadata)
    return content.getvalue()


def carbon_by_component(replay: Replay) -> Figure:
    """Grams per 1,000 output tokens of each plan, by component and kind."""
    rows = len(_measured(replay))
    return figure_of(9, 1.8 + 0.45 * rows, lambda figure: _draw_carbon(figure.subplots(), replay))


def hit_rate_by_tier(replay: Replay) -> Figure:
    """Share of prompt tokens served by each tier."""
    rows = len(_measured(replay))
    return figure_of(9, 1.5 + 0.45 * rows, lambda figure: _draw_hits(figure.subplots(), replay))


def ttft(replay: Replay) -> Figure:
    """Cumulative distribution of the time to first token, with the SLO."""
    return figure_of(9, 3.6, lambda figure: _draw_ttft(figure.subplots(), replay))


def _time_unit(replay: Replay) -> tuple[float, str]:
    """What time is plotted in: seconds to a unit, and its name."""
    return (HOUR_S, "hours") if replay.setup.trace.duration_s > 3 * HOUR_S else (60.0, "minutes")


def _shade_warmup(axes: Axes, replay: Replay) -> None:
    if replay.setup.warmup_s:
        unit_s, _ = _time_unit(replay)
        axes.axvspan(0, replay.setup.warmup_s / unit_s, color="#f3f3f3", zorder=0)


def carbon_over_time(replay: Replay) -> Figure:
    """Grid intensity, power, carbon, and what DRAM and SSD may hold and do hold."""
    lines = _lines(replay)
    runs = _measured(replay)[::-1]
    setup = replay.setup
    unit_s, unit_name = _time_unit(replay)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(5, 1, sharex=True, height_ratios=(1, 1, 1.5, 1, 1))
        grid, power, carbon, dram, ssd = panels
        bins = max(len(m.used_bytes["dram"]) for _, m in runs)
        edges_s = np.minimum(np.arange(bins + 1) * BIN_S, setup.trace.duration_s)
        grid.stairs(
            setup.gco2_per_kwh(edges_s[:-1]), np.arange(bins + 1) * BIN_S / unit_s, color="black"
        )
        grid.set_ylabel("g/kWh")
        grid.set_ylim(bottom=0)
        grid.set_title(
            f"Grid carbon intensity, {setup.grid.zone} from {setup.grid.start:%Y-%m-%d %H:%M} UTC"
        )
        for result, m in runs:
            colour, dashes = lines[result.plan]
            whole = m.carbon.by_minute_g[:-1]  # the last minute is cut short
            times = (setup.warmup_s + (np.arange(len(whole)) + 0.5) * BIN_S) / unit_s
            if len(whole) >= _SMOOTHED:
                whole = np.convolve(whole, np.ones(_SMOOTHED) / _SMOOTHED, mode="valid")
                times = times[_SMOOTHED // 2 : -(_SMOOTHED // 2)]
            watts = m.gpu_w[:-1]
            power.plot(
                (np.arange(len(watts)) + 0.5) * BIN_S / unit_s, watts / 1e3, dashes, color=colour
            )
            carbon.plot(times, whole, dashes, color=colour, label=result.plan)
            dram_bytes, ssd_bytes = result.sizes.by_bin(bins, BIN_S)
            for axes, tier, each_bytes, unit in (
                (dram, "dram", dram_bytes, GIB),
                (ssd, "ssd", ssd_bytes, TB),
            ):
                capacity = setup.replicas * each_bytes
                if not capacity.any():
                    continue
                used = m.used_bytes[tier]
                axes.plot(np.arange(1, len(used) + 1) * BIN_S / unit_s, used / unit, color=colour)
                axes.stairs(
                    capacity[: len(used)] / unit,
                    np.arange(len(used) + 1) * BIN_S / unit_s,
                    baseline=None,
                    color=colour,
                    linestyle="--",
                    linewidth=1,
                )
        power.set_title("Power of all GPUs, kW")
        power.set_ylim(bottom=0)
        carbon.set_title("Operational carbon, g per minute (mean over 5 minutes)")
        carbon.set_ylim(bottom=0)
        carbon.legend(loc="lower right", ncols=4, fontsize=8)
        dram.set_title("DRAM, GiB: capacity (dashed) and in use")
        ssd.set_title("SSD, TB: capacity (dashed) and in use")
        for axes in (dram, ssd):
            axes.set_ylim(bottom=0)
            if not axes.lines:
                axes.text(0.5, 0.5, "no plan has any", transform=axes.transAxes, ha="center")
        for axes in panels:
            _shade_warmup(axes, replay)
        ssd.set_xlabel(
            f"{unit_name} since the trace began" + ("; warm-up shaded" if setup.warmup_s else "")
        )
        ssd.set_xlim(0, max(setup.trace.duration_s / unit_s, 1))

    return figure_of(9, 9.5, draw)


def overview(replay: Replay) -> Figure:
    """Carbon, hit rate and TTFT side by side: the replay in one picture."""

    def draw(figure: Figure) -> None:
        if not _measured(replay):
            figure.text(0.5, 0.5, "No plan gave a result: see why in the table.", ha="center")
            return
        thirds: Any = figure.subfigures(1, 3, width_ratios=(1.35, 1, 1.1))
        carbon, hits, latency = thirds
        _draw_carbon(carbon.subplots(), replay)
        _draw_hits(hits.subplots(), replay)
        _draw_ttft(latency.subplots(), replay)
        setup = replay.setup
        end = setup.grid.start + timedelta(seconds=setup.trace.duration_s)
        figure.suptitle(
            f"{setup.trace.name}: {len(setup.trace):,} requests, {setup.hardware.model.title} on "
            f"{setup.hardware.name} (simulated), grid {setup.grid.zone} "
            f"{setup.grid.start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC",
            fontsize=11,
        )

    return figure_of(15, 3 + 0.3 * max(4, len(replay.results)), draw)
