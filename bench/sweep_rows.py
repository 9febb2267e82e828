"""The rows of a sweep: one for each plan of each cell, of fixed columns and types.

A number that does not exist is null. A cell that failed is one row with an ``error`` and no plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from greencache.bench.outcome import TIERS
from greencache.bench.replay import PlanResult, Replay
from greencache.bench.results import run_summary

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "Row", "arrow_type", "failed_row", "rows_of"]

Row: TypeAlias = dict[str, Any]

_LATENCIES = ("mean", "p50", "p90", "p99")

COLUMNS: Mapping[str, type] = {
    "plan": str,
    "policy": str,
    "admission": str,
    "model": str,
    "hardware": str,
    "replicas": int,
    "trace": str,
    "grid_zone": str,
    "grid_begins": str,
    "mean_gco2_per_kwh": float,
    "mean_rate_per_s": float,
    "saturation_rate_per_s": float,
    "embodied_scope": str,
    "dram_bytes": int,
    "ssd_bytes": int,
    "valid": bool,
    "invalid_because": str,
    "error": str,
    "requests": int,
    "rejected": int,
    "output_tokens": int,
    "hit_rate_tokens": float,
    **{f"hit_rate_tokens_{tier}": float for tier in TIERS},
    **{f"ttft_{each}_s": float for each in _LATENCIES},
    **{f"tpot_{each}_s": float for each in _LATENCIES},
    "slo_attainment": float,
    "energy_kwh": float,
    "operational_g": float,
    "embodied_g": float,
    "carbon_g": float,
    "sci_g_per_1k_output_tokens": float,
    "saving_vs_full": float,
    "saving_vs_hbm_only": float,
    "saving_vs_best_static": float,
    "ssd_bytes_written": float,
    "preemptions": int,
    "stationary": bool,
    "marginal_prefill_j_per_token": float,
}
"""Every column of a row and its type; the axes' own stand before them."""


def arrow_type(kind: type) -> pa.DataType:
    """The type in a Parquet file of what is a ``kind`` in Python."""
    import pyarrow as pa

    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]


def _existing(value: float | None) -> float | None:
    """A number, or None for one that is none."""
    return None if value is None or not math.isfinite(value) else value


def _row(replay: Replay, result: PlanResult) -> Row:
    setup = replay.setup
    said = run_summary(replay, result)
    row: Row = dict.fromkeys(COLUMNS)
    row |= {name: said[name] for name in COLUMNS if name in said}
    row |= {
        "model": setup.hardware.model.name,
        "hardware": setup.hardware.name,
        "replicas": setup.replicas,
        "trace": setup.trace.name,
        "grid_zone": setup.grid.zone,
        "grid_begins": setup.grid.start.isoformat(),
        "mean_gco2_per_kwh": setup.mean_gco2_per_kwh,
        "dram_bytes": result.mean_sizes.dram_bytes,
        "ssd_bytes": result.mean_sizes.ssd_bytes,
    }
    if setup.load is not None:
        row["mean_rate_per_s"] = _existing(setup.load.mean_rate)
        row["saturation_rate_per_s"] = _existing(setup.load.saturation_rate)
    if result.measured is not None:
        by_tier, carbon = said["hit_rate_tokens_by_tier"], said["carbon_g"]
        row |= {f"hit_rate_tokens_{tier}": by_tier[tier] for tier in TIERS}
        for latency in ("ttft", "tpot"):
            for each, seconds in (said[f"{latency}_s"] or {}).items():
                row[f"{latency}_{each}_s"] = seconds
        row |= {
            "carbon_g": carbon["total"],
            "operational_g": carbon["operational"],
            "embodied_g": carbon["embodied"],
            "marginal_prefill_j_per_token": said["prefill_j_per_token"]["marginal"],
        }
    return row


def rows_of(replay: Replay) -> list[Row]:
    """One row for each plan, in their order."""
    return [_row(replay, result) for result in replay.results]


def failed_row(reason: str) -> Row:
    """The row of a cell that could not be run."""
    return {**dict.fromkeys(COLUMNS), "valid": False, "error": reason}
