"""Hit-rate curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from greencache.bench.charts import STYLE, drawn
from greencache.bench.curve import Curve
from greencache.quantities import format_bytes

__all__ = ["curve_picture"]

_BLOCKS, _TOKENS = "#0072B2", "#D55E00"
_COLOURS = (_BLOCKS, _TOKENS, "#009E73", "#E69F00", "#CC79A7", "#000000")
"""Okabe and Ito's palette, which people with colour-blindness can tell apart."""


def curve_picture(curves: Sequence[Curve], block_bytes: int | None) -> bytes:
    """Hit rate over capacity, as PNG, with the interval as a band where it is sampled.

    One curve is shown in blocks and in tokens, several in tokens.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        if len(curves) == 1:
            _draw(axes, curves[0], block_bytes, "blocks", "blocks, of all block accesses", _BLOCKS)
            label = "tokens, in leading prefixes of full blocks"
            _draw(axes, curves[0], block_bytes, "tokens", label, _TOKENS)
        else:
            for curve, colour in zip(curves, _COLOURS, strict=False):
                _draw(axes, curve, block_bytes, "tokens", str(curve.policy), colour)
        axes.set_xscale("log")
        # An interval that says nothing must not flatten the curve.
        points = [point for curve in curves for point in curve.points]
        highest = max(max(point.hit_rate_blocks, point.hit_rate_tokens) for point in points)
        axes.set_ylim(0, 1.25 * highest if highest > 0 else 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("capacity, blocks (log scale)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if block_bytes is not None:
            axes.set_xlabel("capacity (log scale)")
            axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
        axes.set_ylabel("hit rate" if len(curves) == 1 else "hit rate, tokens in leading prefixes")
        policies = ", ".join(str(curve.policy) for curve in curves)
        axes.set_title(f"{curves[0].trace}: hit rate over capacity, {policies}")
        axes.legend(loc="upper left")
    return drawn(figure, "png")


def _draw(
    axes: Axes, curve: Curve, block_bytes: int | None, unit: str, label: str, colour: str
) -> None:
    capacities = np.array([point.capacity_blocks for point in curve.points]) * (block_bytes or 1)
    rates = [getattr(point, f"hit_rate_{unit}") for point in curve.points]
    axes.plot(capacities, rates, marker="o", markersize=3.5, color=colour, label=label)
    ranges = [getattr(point, f"hit_rate_{unit}_range") for point in curve.points]
    if curve.sampling is not None:
        low, high = zip(*ranges, strict=True)
        axes.fill_between(capacities, low, high, color=colour, alpha=0.2, linewidth=0)
