"""A sweep as one picture: for each axis, what its values do to each plan's carbon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from greencache.bench.charts import STYLE, drawn, plan_lines
from greencache.bench.sweep import SweepResult
from greencache.bench.sweep_spec import AxisValue

__all__ = ["summary_picture"]

_BASE = "hbm-only"
_MOST_PANELS_ABREAST = 3
_MANY_LETTERS = 44
"""Letters of all labels along a panel above which they are written upwards."""
_WIDE_SAVING = -1.0
"""Below this (twice the carbon) savings are drawn by the ratio of grams, or gains would vanish."""
_SAVING_TICKS = (0.9, 0.75, 0.5, 0.25, 0.1, 0.0, -0.25, -0.5, -1, -2, -4, -9, -19, -49, -99, -999)


@dataclass(frozen=True)
class _Measure:
    """What is drawn, for every row of the sweep; NaN where there is nothing to draw."""

    label: str
    values: NDArray[np.float64]
    plans: list[str]
    saving: bool


def _measure(result: SweepResult) -> _Measure:
    table = result.table
    plan = np.array(table["plan"].to_pylist(), object)
    plans = [name for name in dict.fromkeys(plan) if name is not None]
    others = [name for name in plans if name != _BASE]
    valid = table["valid"].to_numpy()
    saving = table["saving_vs_hbm_only"].to_numpy(zero_copy_only=False)
    if np.isfinite(saving[(plan != _BASE) & (plan != None)]).any():  # noqa: E711 - an array
        return _Measure(f"carbon saved against {_BASE}, per output token", saving, others, True)
    grams = table["sci_g_per_1k_output_tokens"].to_numpy(zero_copy_only=False)
    return _Measure("gCO2e per 1,000 output tokens", np.where(valid, grams, np.nan), plans, False)


def _labels(values: Sequence[AxisValue]) -> list[str]:
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def _counted(values: Sequence[AxisValue]) -> bool:
    """Whether the values are numbers in order, which a line may lead through."""
    numbers = [each for each in values if isinstance(each, int | float)]
    return len(numbers) == len(values) and (
        numbers == sorted(numbers) or numbers == sorted(numbers, reverse=True)
    )


def _draw(
    axes: Axes,
    name: str,
    values: Sequence[AxisValue],
    place: NDArray[np.int64],
    plan: NDArray[Any],
    measure: _Measure,
) -> None:
    lines = plan_lines(measure.plans)
    lost = np.zeros(len(values), int)
    step = min(0.16, 0.7 / len(measure.plans))
    for i, each in enumerate(measure.plans):
        offset = (i - (len(measure.plans) - 1) / 2) * step
        middles = np.full(len(values), np.nan)
        for j in range(len(values)):
            all_here = measure.values[(place == j) & (plan == each)]
            here = all_here[np.isfinite(all_here)]
            lost[j] += len(all_here) - len(here)
            if len(here):
                middles[j] = np.median(here)
                axes.vlines(
                    j + offset, here.min(), here.max(), lines[each].colour, linewidth=4, alpha=0.35
                )
        x = np.arange(len(values)) + offset
        axes.plot(
            x,
            middles,
            linestyle=lines[each].dashes if _counted(values) else "none",
            linewidth=1.2,
            color=lines[each].colour,
            marker="o",
            markersize=6,
            markeredgecolor="white",
            label=each,
        )
    lost += np.array([np.sum((place == j) & (plan == None)) for j in range(len(values))])  # noqa: E711
    _name_values(axes, values, lost)
    axes.set_title(name.removeprefix("factors."))
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(axis="x", visible=False)


def _name_values(axes: Axes, values: Sequence[AxisValue], lost: NDArray[np.int64]) -> None:
    labels = _labels(values)
    upwards = sum(map(len, labels)) > _MANY_LETTERS
    between = " " if upwards else "\n"
    labels = [
        f"{label}{between}({count} invalid)" if count else label
        for label, count in zip(labels, lost, strict=True)
    ]
    axes.set_xticks(range(len(values)), labels, rotation=90 if upwards else 0)


def _scale(axes: Axes, measure: _Measure) -> None:
    """The scale that all panels share."""
    if not measure.saving:
        axes.set_ylim(bottom=0)
        return
    lowest, highest = np.nanmin(measure.values), np.nanmax(measure.values)
    if lowest < _WIDE_SAVING:
        # A half and a double of the grams are equally far from none saved.
        axes.set_yscale(
            "function",
            functions=(
                lambda saving: -np.log(np.maximum(1 - saving, 1e-9)),
                lambda drawn_at: 1 - np.exp(-drawn_at),
            ),
        )
        ticks = [tick for tick in _SAVING_TICKS if 2 * lowest <= tick <= 1]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(1 - 1.25 * (1 - lowest), 1 - 0.8 * (1 - highest))
    axes.yaxis.set_major_formatter(lambda saving, _: f"{100 * saving:+.3g} %".replace("+0 ", "0 "))


def _draw_base(axes: Axes) -> None:
    """What savings are counted from."""
    colour = plan_lines([])[_BASE].colour
    axes.axhline(0, color=colour, linewidth=1.2, zorder=1, label=f"{_BASE} (nothing saved)")


def summary_picture(result: SweepResult) -> bytes:
    """A panel for each axis with several values, as PNG.

    It shows the saving of each plan against ``hbm-only`` (grams per output token where there is no
    such saving) at each value of the axis: the median and the range over all other axes.
    """
    spec = result.spec
    measure = _measure(result)
    plan = np.array(result.table["plan"].to_pylist(), object)
    places = np.unravel_index(result.cell, [len(values) for values in spec.axes.values()])
    varied = [
        (name, values, place)
        for (name, values), place in zip(spec.axes.items(), places, strict=True)
        if len(values) > 1 or len(spec) == 1
    ]
    abreast = 2 if len(varied) == 4 else min(len(varied), _MOST_PANELS_ABREAST)
    down = math.ceil(len(varied) / abreast)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(7, 4.2 * abreast), 1.4 + 3.2 * down), layout="constrained")
        if not np.isfinite(measure.values).any():
            figure.text(0.5, 0.5, "No run is valid: see why in the table.", ha="center")
            return drawn(figure, "png")
        panels = figure.subplots(down, abreast, sharey=True, squeeze=False).ravel()
        for axes, (name, values, place) in zip(panels, varied, strict=False):
            if measure.saving:
                _draw_base(axes)
            _draw(axes, name, values, place, plan, measure)
        _scale(panels[0], measure)
        for axes in panels[len(varied) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
        figure.supylabel(measure.label, fontsize=10)
        figure.suptitle(
            f"{spec.path.name}: {len(spec):,} replays (simulated)\n"
            "dot: median over the other axes, bar: from least to most, invalid runs left out",
            fontsize=11,
        )
    return drawn(figure, "png")
