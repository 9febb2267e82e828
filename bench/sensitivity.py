"""How a replay's result moves over the published range of each factor, and between the scopes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from greencache.bench.plans import Plan
from greencache.bench.replay import Replay, value
from greencache.bench.setup import SIMULATED_FACTORS
from greencache.bench.simulated import simulate_plans
from greencache.carbon import Scope
from greencache.catalog import Quantity
from greencache.factors import Factors

__all__ = ["VARYING", "Bound", "Sensitivity", "cheapest", "sci_g", "sensitivity_of"]

VARYING = "sensitivity"
"""What progress calls it."""


def sci_g(replay: Replay, plan: str) -> float | None:
    """Grams per 1,000 output tokens of a plan; None where it is not valid."""
    result = replay.result(plan)
    if result is None or result.measured is None or not result.valid:
        return None
    return result.measured.sci_g_per_1k_output_tokens


def cheapest(replay: Replay) -> str | None:
    """The valid plan with the least grams per output token, the first among equals."""
    costs = {
        result.plan: cost
        for result in replay.results
        if (cost := sci_g(replay, result.plan)) is not None
    }
    return min(costs, key=costs.__getitem__) if costs else None


@dataclass(frozen=True)
class Bound:
    """A replay with one thing changed.

    Attributes
    ----------
    name:
        The factor, or ``scope``.
    at:
        ``low`` or ``high``, or the scope's name.
    factor_value:
        What the factor was set to; None for a scope.
    replay:
        All plans under it.
    """

    name: str
    at: str
    factor_value: float | None
    replay: Replay

    def as_json(self) -> dict[str, Any]:
        """The bound as results write it."""
        return {
            "factor": self.name,
            "at": self.at,
            "value": self.factor_value,
            "cheapest": cheapest(self.replay),
            "runs": [
                {
                    "plan": result.plan,
                    "valid": result.valid,
                    "dram_bytes": result.mean_sizes.dram_bytes,
                    "ssd_bytes": result.mean_sizes.ssd_bytes,
                    "sci_g_per_1k_output_tokens": sci_g(self.replay, result.plan),
                    "saving_vs_hbm_only": self.replay.saving(result, "hbm-only"),
                }
                for result in self.replay.results
            ],
        }


@dataclass(frozen=True)
class Sensitivity:
    """A replay, and the same with each factor at the ends of its range and in the other scope."""

    base: Replay
    bounds: list[Bound]

    @property
    def names(self) -> list[str]:
        """What was varied, the largest swing of any plan's grams first."""
        names = {bound.name for bound in self.bounds}
        return sorted(names, key=lambda name: (-self.swing(name), name))

    def swing(self, name: str) -> float:
        """By how much of its grams per output token the plan that it moves most is moved."""
        return max((abs(share) for _, share in self._shares(name)), default=0.0)

    def _shares(self, name: str) -> Iterator[tuple[str, float]]:
        for bound in self.of(name):
            for result in bound.replay.results:
                base, moved = sci_g(self.base, result.plan), sci_g(bound.replay, result.plan)
                if base is not None and moved is not None:
                    yield result.plan, moved / base - 1

    def of(self, name: str) -> list[Bound]:
        """Low and high of a factor, or the scopes."""
        return [bound for bound in self.bounds if bound.name == name]

    def as_json(self) -> list[dict[str, Any]]:
        """All bounds, the largest swing first."""
        return [bound.as_json() for name in self.names for bound in self.of(name)]


def _with(factors: Factors, name: str, to: float) -> Factors:
    quantity: Quantity = getattr(factors, name)
    changed: Factors = replace(factors, **{name: replace(quantity, value=to)})
    return changed


def _variations(factors: Factors) -> list[tuple[str, str, float]]:
    """Every end of every range: a factor's name, which end, and its value."""
    varied = []
    for each in fields(factors):
        quantity: Quantity = getattr(factors, each.name)
        for at, end in (("low", quantity.low), ("high", quantity.high)):
            if quantity.low < quantity.high and end != quantity.value:
                varied.append((each.name, at, end))
    return varied


def sensitivity_of(
    replay: Replay,
    plans: Sequence[Plan],
    *,
    threads: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
    clock: Callable[[], float],
) -> Sensitivity:
    """Value a replay again with each factor at both ends of its range, and in both scopes.

    Factors that the simulation depends on (power of GPUs, bandwidth of drives) are simulated again;
    the others take no time. Ends at which a GPU would draw as much idle as at work are left out.

    Parameters
    ----------
    replay, plans:
        What was run, and what it was asked to run.
    threads, on_progress, clock:
        As for `simulate_plans`.
    """
    setup = replay.setup
    bounds = [
        Bound("scope", str(scope), None, value(replay.simulated, replace(setup, scope=scope)))
        for scope in Scope
        if scope is not setup.scope
    ]
    varied = _variations(setup.factors)
    for done, (name, at, end) in enumerate(varied):
        factors = _with(setup.factors, name, end)
        if factors.gpu_tdp_w.value <= factors.gpu_idle_w.value:
            continue
        other = replace(setup, factors=factors)
        simulated = replay.simulated
        if name in SIMULATED_FACTORS:
            other = replace(other, hardware=setup.hardware.powered_by(factors))
            simulated = simulate_plans(other, plans, threads=threads, clock=clock)
        bounds.append(Bound(name, at, end, value(simulated, other)))
        if on_progress is not None:
            on_progress(VARYING, (done + 1) / len(varied))
    return Sensitivity(replay, bounds)
