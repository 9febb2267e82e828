"""A hit-rate curve as a picture."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from greencache.bench.charts import STYLE, drawn
from greencache.bench.curve import Curve
from greencache.quantities import format_bytes

__all__ = ["curve_picture"]


def curve_picture(curve: Curve, block_bytes: int | None) -> bytes:
    """Hit rate in blocks and in tokens over capacity, as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        capacities = np.array([point.capacity_blocks for point in curve.points]) * (
            block_bytes or 1
        )
        for rates, label, colour in (
            (
                [point.hit_rate_blocks for point in curve.points],
                "blocks, of all block accesses",
                "#0072B2",
            ),
            (
                [point.hit_rate_tokens for point in curve.points],
                "tokens, in leading prefixes of full blocks",
                "#D55E00",
            ),
        ):
            axes.plot(capacities, rates, marker="o", markersize=3.5, color=colour, label=label)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("capacity, blocks (log scale)")
        if block_bytes is not None:
            axes.set_xlabel("capacity (log scale)")
            axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
        axes.set_ylabel("hit rate")
        axes.set_title(f"{curve.trace}: hit rate over capacity, {curve.policy}")
        axes.legend(loc="upper left")
    return drawn(figure, "png")
