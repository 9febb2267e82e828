"""The JSON of a replay: schema ``greencache.replay/1``, which others rely on.

Fields are only ever added. A number that does not exist is null: everything measured of an
overloaded run, a saving against a plan that is not there or not valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greencache.bench.outcome import Latency
from greencache.bench.replay import Measured, PlanResult, Replay
from greencache.bench.sensitivity import Sensitivity
from greencache.bench.simulation import BIN_S
from greencache.bench.workload_statistics import WorkloadComparison
from greencache.carbon import Scope
from greencache.ledger import COMPONENTS, CarbonReport

if TYPE_CHECKING:
    from greencache.bench.live_result import LiveRun

__all__ = ["SCHEMA", "as_json", "run_summary"]

SCHEMA = "greencache.replay/1"

_UNMEASURED = dict.fromkeys(
    (
        "requests",
        "output_tokens",
        "hit_rate_tokens",
        "hit_rate_tokens_by_tier",
        "ttft_s",
        "tpot_s",
        "slo_attainment",
        "energy_kwh",
        "energy_kwh_by_component",
        "carbon_g",
        "carbon_g_by_scope",
        "sci_g_per_1k_output_tokens",
        "sci_g_per_request",
        "ssd_bytes_written",
        "ssd_bytes_dropped",
        "ssd_bytes_declined",
        "ssd_drives_bound_by_wear",
        "preemptions",
        "stationary",
        "content_growth",
        "prefill_j_per_token",
    )
)


def _summary(latency: Latency | None) -> dict[str, float] | None:
    if latency is None:
        return None
    percentiles = {f"p{percent}": latency.percentile_s(percent) for percent in (50, 90, 99)}
    return {"mean": latency.mean_s, **percentiles}


def _over_time(measured: Measured) -> dict[str, Any]:
    """What changes over a run, warm-up included; null where there was nothing to measure."""

    def rounded(values: NDArray[np.float64]) -> list[float | None]:
        return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]

    return {
        "bin_s": BIN_S,
        "gpu_w": rounded(measured.gpu_w),
        "marginal_prefill_j_per_token": rounded(measured.prefill_j_per_token),
        "used_bytes": {tier: used.tolist() for tier, used in measured.used_bytes.items()},
    }


def _carbon(report: CarbonReport, scope: Scope) -> dict[str, Any]:
    embodied = report.embodied_g[scope]
    return {
        "total": report.total_g(scope),
        "operational": report.total_operational_g,
        "embodied": report.total_embodied_g(scope),
        "by_component": {
            name: {"operational": report.operational_g[name], "embodied": embodied[name]}
            for name in COMPONENTS
        },
    }


def _measured(measured: Measured, scope: Scope) -> dict[str, Any]:
    report, served = measured.carbon, measured.served
    return {
        "requests": served.requests,
        "output_tokens": served.output_tokens,
        "hit_rate_tokens": served.hit_rate_tokens,
        "hit_rate_tokens_by_tier": served.hit_rate_tokens_by_tier,
        "ttft_s": _summary(served.ttft),
        "tpot_s": _summary(served.tpot),
        "slo_attainment": served.slo_attainment,
        "preemptions": served.preemptions,
        "stationary": served.stationary,
        "content_growth": served.content_growth,
        "energy_kwh": report.total_energy_kwh,
        "energy_kwh_by_component": report.energy_kwh,
        "carbon_g": _carbon(report, scope),
        "carbon_g_by_scope": {str(each): _carbon(report, each) for each in Scope},
        "sci_g_per_1k_output_tokens": measured.sci_g_per_1k_output_tokens,
        "sci_g_per_request": measured.grams / served.requests,
        "prefill_j_per_token": {
            "marginal": measured.marginal_prefill_j_per_token,
            "average": measured.average_prefill_j_per_token,
        },
        "ssd_bytes_written": measured.ssd_bytes_written,
        "ssd_bytes_dropped": measured.ssd_bytes_dropped,
        "ssd_bytes_declined": measured.ssd_bytes_declined,
        "ssd_drives_bound_by_wear": report.wear_bound_drives,
    }


def run_summary(replay: Replay, result: PlanResult) -> dict[str, Any]:
    """One run as its entry in ``runs`` is, but for what changes over it."""
    setup = replay.setup
    return {
        "plan": result.plan,
        "policy": str(setup.policy),
        "admission": str(setup.admission),
        "valid": result.valid,
        "invalid_because": result.invalid_because,
        "rejected": replay.rejections.total,
        "rejected_because": {
            "exceeds_model_context": replay.rejections.too_long_for_model,
            "exceeds_hbm": replay.rejections.too_large_for_hbm,
        },
        "warmup_s": setup.warmup_s,
        "embodied_scope": str(setup.scope),
        "capacity_bytes": [
            [since_s, {"dram": sizes.dram_bytes, "ssd": sizes.ssd_bytes}]
            for since_s, sizes in zip(result.sizes.from_s, result.sizes.sizes, strict=True)
        ],
        "resizes": result.sizes.changes_since(setup.warmup_s),
        "decisions": [
            {
                "t_s": decision.now_s,
                "sizes": decision.sizes._asdict(),
                "advised": decision.advised._asdict(),
                "reason": decision.reason,
                "fallback": decision.fallback,
                "expected_grams": decision.grams,
                "expected_attainment": decision.attained,
            }
            for decision in result.decisions
        ],
        **(_UNMEASURED if result.measured is None else _measured(result.measured, setup.scope)),
        "saving_vs_full": replay.saving(result, "full"),
        "saving_vs_hbm_only": replay.saving(result, "hbm-only"),
        "saving_vs_best_static": replay.saving(result, "best-static"),
    }


def _run(replay: Replay, result: PlanResult) -> dict[str, Any]:
    over_time = None if result.measured is None else _over_time(result.measured)
    return {**run_summary(replay, result), "over_time": over_time}


def as_json(
    replay: Replay,
    *,
    wall_s: float,
    sensitivity: Sensitivity | None = None,
    comparison: WorkloadComparison | None = None,
    live: Sequence[LiveRun] | None = None,
) -> dict[str, Any]:
    """Everything about a replay, ready for ``json.dump``.

    Parameters
    ----------
    replay, wall_s:
        What it gave, and how long it all took.
    sensitivity, comparison:
        What else was found about it: how it moves with its factors, and what a composed stream is
        like beside its sources.
    live:
        What the real store did, if it was asked.
    """
    setup, simulated = replay.setup, replay.simulated
    trace, hardware, grid, composed = setup.trace, setup.hardware, setup.grid, setup.composed
    return {
        "schema": SCHEMA,
        "simulated": True,
        "trace": {
            "name": trace.name,
            "requests": len(trace),
            "duration_s": trace.duration_s,
            "input_tokens": int(trace.input_tokens.sum()),
            "output_tokens": int(trace.output_tokens.sum()),
            "block_tokens": trace.block_tokens,
            "has_blocks": trace.has_blocks,
            "mean_rate_per_s": None if trace.duration_s == 0 else trace.mean_rate,
            "skipped_lines": trace.skipped,
            "composed_from": [] if composed is None else composed.composed_from,
            "notes": [] if composed is None else composed.notes,
            "statistics": None if comparison is None else comparison.as_json(),
        },
        "load": None if setup.load is None else dataclasses.asdict(setup.load),
        "grid": {
            "zone": grid.zone,
            "start": grid.start.isoformat(),
            "mean_gco2_per_kwh": setup.mean_gco2_per_kwh,
            "kind": grid.kind,
            "accounting": "average",
            "source": grid.source,
        },
        "model": hardware.model.name,
        "hardware": hardware.name,
        "replicas": setup.replicas,
        "weight_dtype": hardware.weight_dtype,
        "kv_dtype": hardware.layout.dtype,
        "max_batched_tokens": setup.batching.max_batched_tokens,
        "max_running": setup.batching.max_running,
        "block_bytes": hardware.layout.block_bytes,
        "hbm_kv_bytes": hardware.kv_bytes,
        "installed_bytes": {"dram": setup.installed.dram_bytes, "ssd": setup.installed.ssd_bytes},
        "slo": {
            "ttft_s": setup.slo.ttft_s,
            "tpot_s": setup.slo.tpot_s,
            "target": setup.slo.target,
        },
        "boundary": (
            "GPUs, hosts and cache tiers of all engines; operational energy times PUE; embodied by "
            "time, SSD by age or wear. Network, building and end of life are left out."
        ),
        "factors": setup.factors.as_json(),
        "runs": [_run(replay, result) for result in replay.results],
        "live": None if live is None else [each.as_json() for each in live],
        "sensitivity": None if sensitivity is None else sensitivity.as_json(),
        "wall_s": wall_s,
        "simulations": simulated.simulations,
        "block_accesses_per_s": simulated.block_accesses / max(simulated.simulating_s, 1e-9),
    }
