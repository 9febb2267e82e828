"""One row of an experiment: a run in a cell, what it gave, as JSON holds it.

A number that does not exist is null. A run that failed has an ``error`` and nothing measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from greencache.bench.experiments.spec import Cell, RunSpec
from greencache.bench.outcome import TIERS
from greencache.bench.replay import Measured, PlanResult, Replay
from greencache.bench.results import run_summary
from greencache.quantities import HOUR_S

__all__ = ["Row", "failed_row", "hourly", "row_of"]

Row: TypeAlias = dict[str, Any]

_STORES = ("dram", "ssd")


class _Step(NamedTuple):
    """Capacity from a time of the trace on, in bytes for each replica."""

    start_s: float
    dram: float
    ssd: float


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _axes(cell: Cell, name: str, run: RunSpec) -> Row:
    return {
        **cell._asdict(),
        "run": name,
        "plan": run.plan,
        "policy": run.policy,
        "admission": run.admission,
        "control": dict(run.control),
    }


def failed_row(cell: Cell, name: str, run: RunSpec, reason: str) -> Row:
    """The row of a run that could not be made."""
    return {**_axes(cell, name, run), "valid": False, "invalid_because": None, "error": reason}


def _steps(said: dict[str, Any], start_s: float, end_s: float) -> list[tuple[_Step, float]]:
    """Capacities from ``start_s`` to ``end_s``, each with how many seconds it lasted."""
    steps = [_Step(t_s, sizes["dram"], sizes["ssd"]) for t_s, sizes in said["capacity_bytes"]]
    edges_s = [*(step.start_s for step in steps), math.inf]
    lasted = [
        (step, max(0.0, min(edges_s[i + 1], end_s) - max(step.start_s, start_s)))
        for i, step in enumerate(steps)
    ]
    return [(step, seconds) for step, seconds in lasted if seconds > 0]


def _capacity(said: dict[str, Any], start_s: float, end_s: float) -> Row:
    """Mean, least and most capacity of each tier while measured, and how often it changed."""
    steps = _steps(said, start_s, end_s)
    row: Row = {}
    for tier in _STORES:
        sizes = np.array([getattr(step, tier) for step, _ in steps])
        least, most = float(sizes.min()), float(sizes.max())
        mean = float(np.average(sizes, weights=[seconds for _, seconds in steps]))
        row[f"{tier}_bytes_mean"] = min(max(mean, least), most)  # whatever is rounded on the way
        row[f"{tier}_bytes_min"] = least
        row[f"{tier}_bytes_max"] = most
    pairs = itertools.pairwise(steps)
    row["resizes"] = sum(before[1:] != after[1:] for (before, _), (after, _) in pairs)
    return row


def _by_day(attainment: NDArray[np.float64]) -> Row:
    return {
        "slo_attainment_by_day": [_number(value) for value in attainment],
        "slo_attainment_worst_day": _number(float(np.nanmin(attainment))),
    }


def _measured(measured: Measured, said: dict[str, Any]) -> Row:
    served = measured.served
    per_1k = 1000 / served.output_tokens if served.output_tokens else math.nan
    carbon = said["carbon_g"]
    return {
        "requests": served.requests,
        "output_tokens": served.output_tokens,
        "slo_attainment": served.slo_attainment,
        **_by_day(served.slo_attainment_by_day),
        "sci_g_per_1k_output_tokens": _number(measured.sci_g_per_1k_output_tokens),
        "operational_g_per_1k_output_tokens": _number(carbon["operational"] * per_1k),
        "embodied_g_per_1k_output_tokens": _number(carbon["embodied"] * per_1k),
        "hit_rate_tokens": served.hit_rate_tokens,
        **{f"hit_rate_tokens_{tier}": served.hit_rate_tokens_by_tier[tier] for tier in TIERS},
        "ttft_p50_s": said["ttft_s"]["p50"],
        "ttft_p90_s": said["ttft_s"]["p90"],
        "tpot_p90_s": (said["tpot_s"] or {}).get("p90"),
        "ssd_bytes_written": measured.ssd_bytes_written,
        "ssd_drives_bound_by_wear": said["ssd_drives_bound_by_wear"],
        "stationary": served.stationary,
    }


def row_of(cell: Cell, name: str, run: RunSpec, replay: Replay, result: PlanResult) -> Row:
    """What a run gave."""
    setup = replay.setup
    said = run_summary(replay, result)
    row: Row = {
        **_axes(cell, name, run),
        "valid": result.valid,
        "invalid_because": result.invalid_because,
        "error": None,
        "rejected": replay.rejections.total,
        "mean_rate_per_s": setup.load and setup.load.mean_rate,
        "saturation_rate_per_s": setup.load and setup.load.saturation_rate,
        "mean_gco2_per_kwh": setup.mean_gco2_per_kwh,
        **_capacity(said, setup.warmup_s, setup.trace.duration_s),
    }
    if result.measured is not None:
        row |= _measured(result.measured, said)
    return row


def _each_hour(values: NDArray[np.float64], first_bin: int) -> list[float | None]:
    """Means over the hours since the warm-up, of values by the minute."""
    measured = values[first_bin:]
    hours = -(-len(measured) // 60)
    return [_number(float(np.mean(measured[60 * h : 60 * (h + 1)]))) for h in range(hours)]


def hourly(replay: Replay, result: PlanResult) -> dict[str, Sequence[float | None]] | None:
    """A run hour by hour since the warm-up; None if it was overloaded.

    Capacity is that in the middle of the hour, attainment null where no request arrived.
    """
    if result.measured is None:
        return None
    setup, measured = replay.setup, result.measured
    served = measured.served
    hours = len(served.requests_by_hour)
    middle_s = setup.warmup_s + (np.arange(hours, dtype=np.float64) + 0.5) * HOUR_S
    steps = _steps(run_summary(replay, result), 0.0, math.inf)
    place = np.searchsorted([step.start_s for step, _ in steps], middle_s, side="right") - 1
    first_bin = int(setup.warmup_s // 60)
    with np.errstate(invalid="ignore"):
        attainment = served.kept_by_hour / served.requests_by_hour
    return {
        "gco2_per_kwh": setup.gco2_per_kwh(middle_s).tolist(),
        "requests": served.requests_by_hour.tolist(),
        "slo_attainment": [_number(value) for value in attainment],
        **{f"{t}_bytes": [float(getattr(steps[i][0], t)) for i in place] for t in _STORES},
        **{
            f"{t}_used_bytes": _each_hour(measured.used_bytes[t], first_bin)[:hours]
            for t in _STORES
        },
    }
