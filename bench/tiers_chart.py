"""The benchmarks of tiers and of the control plane as pictures."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greencache.bench.charts import STYLE, drawn
from greencache.bench.tier_rounds import DRAM, SSD, size_text

__all__ = ["control_plane_picture", "tiers_picture"]

_COLOURS = ("#0072B2", "#999999", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's palette, which people with colour-blindness can tell apart."""

_OPERATIONS = {"put": "put_gb_per_s", "get": "get_gb_per_s"}


def tiers_picture(result: dict[str, Any]) -> bytes:
    """Bandwidth of every side, a panel for each tier and operation, as PNG.

    Bars stand in groups by case; the line on each is the latency of a batch up to its 99th
    percentile, as the bandwidth that it means.
    """
    tiers = [tier for tier in (DRAM, SSD) if any(case["tier"] == tier for case in result["cases"])]
    with mpl.rc_context(STYLE):
        most = max(sum(case["tier"] == tier for case in result["cases"]) for tier in tiers)
        size = (max(9.0, 1.6 * most + 3), 3.1 * len(_OPERATIONS) * len(tiers))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(tiers) * len(_OPERATIONS), 1, squeeze=False)[:, 0]
        for place, tier in enumerate(tiers):
            cases = [case for case in result["cases"] if case["tier"] == tier]
            for turn, operation in enumerate(_OPERATIONS):
                _draw(panels[place * len(_OPERATIONS) + turn], cases, operation)
    return drawn(figure, "png")


def _label(case: dict[str, Any]) -> str:
    depth = f"\ndepth {case['depth']}" if case["tier"] == SSD else ""
    return f"{size_text(case['block_bytes'])}\nof {size_text(case['batch_bytes'])}{depth}"


def _draw(axes: Axes, cases: list[dict[str, Any]], operation: str) -> None:
    names = list(dict.fromkeys(name for case in cases for name in case["sides"]))
    shown = [name for name in names if any("times" in case["sides"][name] for case in cases)]
    width = 0.84 / max(len(shown), 1)
    for place, name in enumerate(shown):
        sides = [case["sides"][name] for case in cases]
        heights = [side.get(_OPERATIONS[operation], np.nan) for side in sides]
        at = np.arange(len(cases)) + (place - (len(shown) - 1) / 2) * width
        axes.bar(at, heights, 0.92 * width, color=_COLOURS[place % len(_COLOURS)], label=name)
        for x, case, side in zip(at, cases, sides, strict=True):
            if "times" in side:
                ms = side[f"{operation}_ms"]
                slowest, usual = (case["batch_bytes"] / ms[p] / 1e6 for p in ("p99", "p50"))
                axes.plot([x, x], [slowest, usual], color="black", linewidth=1)
    axes.set_xticks(np.arange(len(cases)), [_label(case) for case in cases], fontsize=8)
    axes.set_ylabel("GB/s")
    axes.set_title(f"{cases[0]['tier'].upper()} {operation}, by size of blocks and batches")
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def control_plane_picture(result: dict[str, Any]) -> bytes:
    """Memory of the index by part, and how long requests take, as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6), layout="constrained")
        memory, requests = figure.subplots(2, 1)
        _draw_memory(memory, result)
        _draw_requests(requests, result["requests"])
    return drawn(figure, "png")


def _draw_memory(axes: Axes, result: dict[str, Any]) -> None:
    rows = result["memory"][::-1]  # horizontal bars are drawn from below
    labels = [row["what"].replace(", ", "\n") for row in rows]
    left = np.zeros(len(rows))
    for part, colour in zip(rows[0]["parts"], _COLOURS, strict=True):
        size = np.array([row["parts"][part] for row in rows])
        axes.barh(labels, size, left=left, height=0.6, color=colour, label=part)
        left += size
    axes.axvline(result["wanted"]["bytes_per_block"], color="black", linestyle=":")
    axes.set_xlabel(f"bytes a block, {result['blocks']:,} blocks in each tier")
    axes.set_title("Memory of the index")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_requests(axes: Axes, rows: list[dict[str, Any]]) -> None:
    at = np.arange(len(rows))
    names = list(rows[0]["us_per_block"])
    for place, name in enumerate(names):
        us = [row["us_per_block"][name]["p50"] for row in rows]
        axes.bar(at + (place - 0.5) * 0.4, us, 0.38, color=_COLOURS[place], label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    labels = [f"{row['what'].split(', ')[-1]}\n{row['blocks']:,} blocks" for row in rows]
    axes.set_xticks(at, labels, fontsize=8)
    axes.set_ylabel("us a block, median (log)")
    axes.set_title("A request in two full tiers, up to its release or commit")
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8)
