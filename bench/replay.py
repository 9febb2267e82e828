"""``greencache replay``: requests through the simulated engine, under several plans side by side.

It has two halves. `simulate_plans` runs the engine, once for every plan and, for ``best-static``,
every size that it chooses from. `value` says what that cost in carbon on a grid, with factors and
in a scope; it takes no time, so one simulation answers for many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greencache.bench.accounting import account
from greencache.bench.outcome import Outcome, Served
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup
from greencache.bench.simulated import Simulated, simulate_plans
from greencache.bench.simulation import BIN_S, Rejections
from greencache.bench.sizes import SizesOverTime
from greencache.carbon import sci_g
from greencache.controller.loop import Decision
from greencache.controller.sizes import Sizes
from greencache.ledger import CarbonReport

__all__ = ["Measured", "PlanResult", "Replay", "run_replay", "value"]


@dataclass(frozen=True)
class Measured:
    """What a run that kept up gave its users, and what that cost."""

    served: Served
    carbon: CarbonReport
    grams: float
    """Operational and embodied, in the replay's scope."""
    sci_g_per_1k_output_tokens: float
    ssd_bytes_written: float
    ssd_bytes_dropped: float
    """Not written because writing lagged."""
    ssd_bytes_declined: float
    """Not written because it was not worth it."""
    used_bytes: dict[str, NDArray[np.float64]]
    """Bytes of KV in DRAM and SSD at the end of each bin, warm-up included, over all replicas."""
    gpu_w: NDArray[np.float64]
    """Mean power of all GPUs in each bin, warm-up included."""
    prefill_j_per_token: NDArray[np.float64]
    """Energy that a prompt token added to what else the GPUs did, in each bin; NaN if there were
    none."""
    marginal_prefill_j_per_token: float
    """The same over the whole measured window."""
    average_prefill_j_per_token: float
    """All energy of the GPUs over all prompt tokens computed in the measured window."""


@dataclass(frozen=True)
class PlanResult:
    """One plan's run over the measured window.

    An overloaded run has only a plan and a reason: no number of it means anything.
    """

    plan: str
    sizes: SizesOverTime
    """What the tiers of each replica could hold, warm-up included."""
    mean_sizes: Sizes
    """The same on average over the measured window."""
    invalid_because: str | None
    measured: Measured | None
    decisions: tuple[Decision, ...] = ()
    """What the controller decided, if it steered the run."""

    @property
    def valid(self) -> bool:
        """Whether the engine kept up and met the SLO."""
        return self.invalid_because is None


@dataclass(frozen=True)
class Replay:
    """What a replay gave."""

    simulated: Simulated
    setup: ReplaySetup
    results: list[PlanResult]

    @property
    def rejections(self) -> Rejections:
        """Requests that the engine cannot serve at all."""
        return self.simulated.rejections

    def result(self, plan: str) -> PlanResult | None:
        """The run of a plan, if it was asked for."""
        return next((result for result in self.results if result.plan == plan), None)

    def saving(self, result: PlanResult, versus: str) -> float | None:
        """Share of grams per output token saved against a plan; None unless both are valid."""
        other = self.result(versus)
        if other is None or not (other.valid and result.valid):
            return None
        return 1 - _sci(result) / _sci(other)


def _sci(result: PlanResult) -> float:
    assert result.measured is not None
    return result.measured.sci_g_per_1k_output_tokens


def _value_one(setup: ReplaySetup, outcome: Outcome) -> PlanResult:
    served, bins = outcome.served, outcome.bins
    unmeasured = PlanResult(
        outcome.plan.name,
        outcome.sizes,
        outcome.sizes.mean(setup.warmup_s, outcome.end_s),
        outcome.invalid_because,
        None,
        outcome.decisions,
    )
    if served is None:
        return unmeasured
    carbon = account(
        bins,
        outcome.end_s,
        setup.hardware,
        setup.factors,
        setup.gco2_per_kwh,
        sizes=outcome.sizes,
        installed=setup.installed,
        replicas=setup.replicas,
        start_s=setup.warmup_s,
    )
    window = bins[int(setup.warmup_s / BIN_S) :]
    computed = max(float(window["prefill_tokens"].sum()), 1.0)
    bins_s = np.minimum(BIN_S, outcome.end_s - np.arange(len(bins)) * BIN_S)
    block_bytes = setup.hardware.layout.block_bytes
    with np.errstate(invalid="ignore"):
        prefill_j_per_token = bins["prefill_j"] / bins["prefill_tokens"]
    measured = Measured(
        served=served,
        carbon=carbon,
        grams=carbon.total_g(setup.scope),
        sci_g_per_1k_output_tokens=sci_g(
            carbon.total_operational_g, carbon.total_embodied_g(setup.scope), served.output_tokens
        ),
        ssd_bytes_written=float(window["written_bytes"].sum()),
        ssd_bytes_dropped=float(window["dropped_bytes"].sum()),
        ssd_bytes_declined=float(window["declined_bytes"].sum()),
        used_bytes={tier: bins[f"{tier}_blocks"] * block_bytes for tier in ("dram", "ssd")},
        gpu_w=bins["gpu_j"] / np.maximum(bins_s, 1e-9),
        prefill_j_per_token=prefill_j_per_token,
        marginal_prefill_j_per_token=float(window["prefill_j"].sum()) / computed,
        average_prefill_j_per_token=float(window["gpu_j"].sum()) / computed,
    )
    return replace(unmeasured, measured=measured)


def _best(setup: ReplaySetup, outcomes: list[Outcome]) -> PlanResult:
    """The valid one with the least grams per output token; the last one's reason if none is."""
    results = [_value_one(setup, outcome) for outcome in outcomes if outcome.valid]
    if results:
        return min(results, key=_sci)
    last = outcomes[-1]
    because = f"none of {len(outcomes)} sizes is valid; at the largest: {last.invalid_because}"
    return replace(_value_one(setup, last), invalid_because=because, measured=None)


def value(simulated: Simulated, setup: ReplaySetup) -> Replay:
    """What simulated plans cost on the grid, with the factors and in the scope of a setup.

    Parameters
    ----------
    simulated:
        What the engine did.
    setup:
        As the one it ran with, but for grid, scope and factors that `SIMULATED_FACTORS` leaves out.
        What was admitted to SSD stays as simulated, by what wear was worth then: a run on another
        grid would admit more or less where `ReplaySetup.prices` differ.
    """
    results = [
        _best(setup, outcomes) if len(outcomes) > 1 else _value_one(setup, outcomes[0])
        for outcomes in simulated.outcomes.values()
    ]
    return Replay(simulated, setup, results)


def run_replay(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    *,
    on_progress: Callable[[str, float], None] | None = None,
    clock: Callable[[], float],
) -> Replay:
    """Run every plan and value it; as `simulate_plans` and `value`."""
    return value(simulate_plans(setup, plans, on_progress=on_progress, clock=clock), setup)
