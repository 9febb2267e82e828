"""Pictures of docs/results.md, as PNG in the style of the replay's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greencache.bench.charts import STYLE, drawn, figure_of, plan_lines
from greencache.bench.experiments.checks import BEST_STATIC, CONTROLLED, ORACLE, WITHIN_OF_ORACLE
from greencache.bench.experiments.rows import Row
from greencache.bench.experiments.running import Results
from greencache.quantities import GIB, TB

__all__ = ["forecast_errors", "oracle_gaps", "savings", "timeline"]

_REFERENCES = ("full-write-all", "full", "hbm-only", "best-static")
_WORKLOAD_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_LOAD_MARKERS = ("v", "o", "^", "s")


def _png(width: float, height: float, draw: Callable[[Figure], None]) -> bytes:
    return drawn(figure_of(width, height, draw), "png")


def _rows(results: Results, run: str) -> list[Row]:
    """Rows of a run in the default scope with wear, of the first seed."""
    chosen = [
        row
        for row in results.rows
        if row["run"] == run and row["scope"] == "attributable" and row["wear"]
    ]
    seed = min((row["seed"] for row in chosen), default=0)
    return [row for row in chosen if row["seed"] == seed]


def _zones(rows: Sequence[Row]) -> list[str]:
    """Zones from the cleanest to the dirtiest over the measured days."""
    means = {row["zone"]: row.get("mean_gco2_per_kwh", math.inf) for row in rows}
    return sorted(means, key=lambda zone: means[zone])


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _per_cent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.grid(axis="x", visible=False)


def _zone_axis(axes: Axes, rows: Sequence[Row], zones: Sequence[str]) -> None:
    means = {row["zone"]: row["mean_gco2_per_kwh"] for row in rows if "mean_gco2_per_kwh" in row}
    labels = [
        f"{zone.removeprefix('US-').replace('CAL-', '')}\n{means[zone]:.0f}"
        if zone in means
        else zone
        for zone in zones
    ]
    axes.set_xticks(range(len(zones)), labels, fontsize=8)
    axes.set_xlim(-0.6, len(zones) - 0.4)


def _invalid(axes: Axes, x: float) -> None:
    axes.text(x, 0.01, "x", transform=axes.get_xaxis_transform(), ha="center", color="#aa0000")


def savings(results: Results, load: float) -> bytes:
    """What the controller saves against each reference, by zone and SSD factor, at one load."""
    rows = [row for row in _rows(results, CONTROLLED) if row["load_fraction"] == load]
    workloads, zones = _values(rows, "workload"), _zones(rows)
    factors = _values(rows, "ssd_kg_per_tb")
    references = [name for name in _REFERENCES if name in results.references]
    colours = list(mpl.colormaps["viridis_r"](np.linspace(0.12, 1, len(factors))))

    def draw(figure: Figure) -> None:
        if not rows:
            figure.text(0.5, 0.5, "no run of the controller", ha="center")
            return
        panels = figure.subplots(
            len(workloads), len(references), sharex=True, sharey="col", squeeze=False
        )
        for across, workload in zip(panels, workloads, strict=True):
            for axes, reference in zip(across, references, strict=True):
                _draw_savings(axes, rows, workload, reference, zones, factors, colours)
            across[0].set_ylabel(workload)
        for axes, reference in zip(panels[0], references, strict=True):
            axes.set_title(f"over {reference}")
        for axes in panels[-1]:
            _zone_axis(axes, rows, zones)
        figure.legend(
            *panels[0][0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(factors) + 1,
            title="SSD, kg/TB; x where a run of the two is invalid or was not made",
        )
        figure.suptitle(
            f"{results.title}: carbon saved per output token at load {load:g} (simulated)\n"
            "zones with their mean g/kWh over the measured days",
            fontsize=11,
        )

    return _png(3.4 * len(references), 1.9 + 2.3 * max(1, len(workloads)), draw)


def _draw_savings(
    axes: Axes,
    rows: Sequence[Row],
    workload: str,
    reference: str,
    zones: Sequence[str],
    factors: Sequence[float],
    colours: Sequence[Any],
) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    step = 0.6 / max(1, len(factors))
    for i, (kg, colour) in enumerate(zip(factors, colours, strict=True)):
        x = np.arange(len(zones)) + (i - (len(factors) - 1) / 2) * step
        here = {
            row["zone"]: row["saving_vs"].get(reference)
            for row in rows
            if row["workload"] == workload and row["ssd_kg_per_tb"] == kg
        }
        y = [here.get(zone) for zone in zones]
        known = [value is not None for value in y]
        axes.plot(
            x[known],
            [value for value in y if value is not None],
            "o",
            color=colour,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=f"{kg:g}",
        )
        for place, value in zip(x, y, strict=True):
            if value is None:
                _invalid(axes, place)
    _per_cent_axis(axes)


def oracle_gaps(results: Results) -> bytes:
    """How far the controller and the best fixed size are above the oracle, in every cell."""
    rows = [*_rows(results, CONTROLLED), *_rows(results, BEST_STATIC)]
    workloads, zones = _values(rows, "workload"), _zones(rows)
    loads = _values(rows, "load_fraction")
    lines = plan_lines([CONTROLLED])

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, max(1, len(workloads)), sharey=True, squeeze=False)[0]
        for axes, workload in zip(panels, workloads, strict=False):
            axes.axhline(0, color="black", linewidth=0.8)
            axes.axhline(WITHIN_OF_ORACLE, color="#888888", linestyle=":", linewidth=1)
            for side, run in ((-0.17, BEST_STATIC), (0.17, CONTROLLED)):
                for load, marker in zip(loads, _LOAD_MARKERS, strict=False):
                    here = [
                        row
                        for row in rows
                        if (row["run"], row["workload"], row["load_fraction"])
                        == (run, workload, load)
                    ]
                    factors = _values(here, "ssd_kg_per_tb")
                    points = [
                        (
                            zones.index(row["zone"])
                            + side
                            + 0.04 * (factors.index(row["ssd_kg_per_tb"]) - (len(factors) - 1) / 2),
                            -row["saving_vs"][ORACLE],
                        )
                        for row in here
                        if row["saving_vs"].get(ORACLE) is not None
                    ]
                    axes.plot(
                        [x for x, _ in points],
                        [y for _, y in points],
                        marker,
                        color=lines[run].colour,
                        markersize=4.5,
                        markeredgecolor="white",
                        markeredgewidth=0.4,
                        label=f"{run}, load {load:g}",
                    )
            ours = [r for r in rows if (r["run"], r["workload"]) == (CONTROLLED, workload)]
            lost = sum(row["saving_vs"].get(ORACLE) is None for row in ours)
            axes.set_title(
                f"{workload} ({lost} of {len(ours)} not to compare)" if lost else workload
            )
            _per_cent_axis(axes)
            _zone_axis(axes, rows, zones)
        panels[0].set_ylabel("grams per output token above oracle")
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=max(1, len(loads)))
        figure.suptitle(
            f"{results.title}: distance to perfect forecasts (simulated)\n"
            "a point for each SSD factor, lower ones to the left; dotted: 3 %",
            fontsize=11,
        )

    return _png(5 * max(1, len(workloads)), 4.4, draw)


def timeline(results: Results) -> bytes | None:
    """One cell hour by hour: the grid, the requests, the sizes and the SLO; None if not kept."""
    kept = [row for row in results.rows if row.get("by_hour")]
    if not kept:
        return None
    first = kept[0]
    lines = plan_lines([CONTROLLED])

    def draw(figure: Figure) -> None:
        panels = figure.subplots(5, 1, sharex=True, height_ratios=(1, 1, 1.2, 1.2, 1))
        grid, load, dram, ssd, slo = panels
        hours = np.arange(len(first["by_hour"]["requests"]) + 1)
        grid.stairs(first["by_hour"]["gco2_per_kwh"], hours, color="black", baseline=None)
        grid.set_title("Grid carbon intensity, g/kWh")
        load.stairs(first["by_hour"]["requests"], hours, color="black", baseline=None)
        load.set_title("Requests an hour")
        for row in kept:
            line = lines.get(row["run"], lines[CONTROLLED])
            said = row["by_hour"]
            style = {"color": line.colour, "linestyle": line.dashes, "baseline": None}
            for axes, tier, unit in ((dram, "dram", GIB), (ssd, "ssd", TB)):
                sizes = np.array(said[f"{tier}_bytes"]) / unit
                axes.stairs(sizes, hours, linewidth=1.6, label=row["run"], **style)
                used = np.array(said[f"{tier}_used_bytes"], float) / unit
                axes.plot(hours[:-1] + 0.5, used, color=line.colour, linewidth=0.8, alpha=0.6)
            attainment = np.array(said["slo_attainment"], float)
            slo.plot(hours[:-1] + 0.5, attainment, line.dashes, color=line.colour, linewidth=1.2)
        dram.set_title("DRAM, GiB: size, and thin what is in use")
        ssd.set_title("SSD, TB: size, and thin what is in use")
        slo.axhline(0.9, color="black", linestyle=":", linewidth=1)
        slo.set_title("Requests within the SLO, by hour")
        slo.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        for axes in (grid, load, dram, ssd):
            axes.set_ylim(bottom=0)
        dram.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        slo.set_xticks(range(0, len(hours), 12))
        slo.set_xlim(0, len(hours) - 1)
        slo.set_xlabel("hours since the warm-up")
        figure.suptitle(
            f"{results.title}: {first['workload']} at load {first['load_fraction']:g} in "
            f"{first['zone']}, {first['ssd_kg_per_tb']:g} kg/TB (simulated)",
            fontsize=11,
        )

    return _png(9, 8.5, draw)


def forecast_errors(results: Results) -> bytes:
    """Grams above the oracle and the worst day in the SLO, over bias and over noise."""
    known = {"bias": "forecast_bias", "noise": "forecast_noise"}
    chosen = [
        row
        for row in results.rows
        if row["control"].get("forecast") == "perfect" and "slo_attainment_worst_day" in row
    ]
    workloads = _values(chosen, "workload")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 2, sharex="col", sharey="row")
        for column, (name, key) in enumerate(known.items()):
            other = next(each for each in known.values() if each != key)
            rows = [row for row in chosen if not row["control"].get(other)]
            for workload, colour in zip(workloads, _WORKLOAD_COLOURS, strict=False):
                here = [row for row in rows if row["workload"] == workload]
                errors = sorted({row["control"].get(key, 0.0) for row in here})
                by_error = [
                    [row for row in here if row["control"].get(key, 0.0) == error]
                    for error in errors
                ]
                gaps = [
                    [
                        -row["saving_vs"][ORACLE]
                        for row in each
                        if row["saving_vs"].get(ORACLE) is not None
                    ]
                    for each in by_error
                ]
                _draw_range(panels[0][column], errors, gaps, colour, workload)
                days = [min(row["slo_attainment_worst_day"] for row in each) for each in by_error]
                panels[1][column].plot(errors, days, "o-", color=colour, markersize=4)
            panels[0][column].set_title(f"{name} of the forecast")
            panels[1][column].set_xlabel(f"{name}, as a share")
            panels[1][column].axhline(0.9, color="black", linestyle=":", linewidth=1)
            for axes in panels[:, column]:
                _per_cent_axis(axes)
        panels[0][0].set_ylabel("grams above oracle")
        panels[1][0].set_ylabel("worst day within the SLO")
        handles = panels[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=max(1, len(workloads)))
        figure.suptitle(
            f"{results.title} (simulated)\nmean over zones and loads, and from least to most",
            fontsize=11,
        )

    with mpl.rc_context(STYLE):
        return _png(9, 6, draw)


def _draw_range(
    axes: Axes,
    errors: Sequence[float],
    gaps: Sequence[Sequence[float]],
    colour: str,
    label: str,
) -> None:
    known = [(error, each) for error, each in zip(errors, gaps, strict=True) if each]
    x = [error for error, _ in known]
    axes.plot(x, [np.mean(each) for _, each in known], "o-", color=colour, ms=4, label=label)
    axes.fill_between(
        x,
        [min(each) for _, each in known],
        [max(each) for _, each in known],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
