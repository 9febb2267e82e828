"""What one simulated plan gave, before anything is said of carbon.

A simulation knows nothing of the grid and little of carbon factors, so the same outcome is valued
again for every grid, factor and scope (`greencache.bench.replay.value`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.bench.plans import Plan
from greencache.bench.simulation import BIN_S, SimulatedRun
from greencache.bench.sizes import SizesOverTime
from greencache.controller.loop import Decision
from greencache.controller.slo import Slo
from greencache.quantities import HOUR_S

__all__ = [
    "STEADY_GROWTH",
    "TIERS",
    "Latency",
    "Outcome",
    "Served",
    "latencies_s",
    "outcome_of",
]

TIERS = ("hbm", "dram", "ssd")

STEADY_GROWTH = 0.05
"""A tier is stationary if its content grew by no more than this share of its capacity while
measured: what it evicts then makes up for what it stores."""

_HOURS_OF_A_DAY = 24

_QUANTILES = np.linspace(0.0, 1.0, 1001)


@dataclass(frozen=True)
class Latency:
    """A latency over all measured requests: its mean, and its quantiles in steps of 0.1 %."""

    mean_s: float
    quantiles_s: NDArray[np.float64] = field(repr=False)

    @classmethod
    def of(cls, values_s: NDArray[np.float64]) -> Latency | None:
        """Summarise latencies; None if there are none."""
        if len(values_s) == 0:
            return None
        return cls(float(values_s.mean()), np.quantile(values_s, _QUANTILES))

    def percentile_s(self, percent: float) -> float:
        """The latency that so many percent of requests see at most; whole tenths of a percent."""
        return float(self.quantiles_s[round(percent * 10)])


@dataclass(frozen=True)
class Served:
    """What users of a run saw after the warm-up.

    Attributes
    ----------
    requests, output_tokens:
        How much was asked and answered.
    hit_rate_tokens_by_tier:
        Prompt tokens found in each tier, over all prompt tokens.
    ttft, tpot:
        Latencies; TPOT of requests with two output tokens or more, None if there is none.
    slo_attainment:
        Share of requests that met both limits.
    requests_by_hour, kept_by_hour:
        How many arrived in each hour since the warm-up, and how many of these met both limits.
    preemptions:
        How often a request gave up its place in HBM.
    content_growth:
        For DRAM and SSD, by which share of its capacity the content grew; None without capacity.
    """

    requests: int
    output_tokens: int
    hit_rate_tokens_by_tier: dict[str, float]
    ttft: Latency
    tpot: Latency | None
    slo_attainment: float
    preemptions: int
    content_growth: dict[str, float | None]
    requests_by_hour: NDArray[np.int64] = field(repr=False)
    kept_by_hour: NDArray[np.int64] = field(repr=False)

    @property
    def hit_rate_tokens(self) -> float:
        """Prompt tokens found in any tier, over all prompt tokens."""
        return sum(self.hit_rate_tokens_by_tier.values())

    @property
    def slo_attainment_by_day(self) -> NDArray[np.float64]:
        """Share of requests that met both limits, of each day since the warm-up; NaN for none."""
        starts = np.arange(0, len(self.requests_by_hour), _HOURS_OF_A_DAY)
        kept = np.add.reduceat(self.kept_by_hour, starts)
        requests = np.add.reduceat(self.requests_by_hour, starts)
        share = np.full(len(starts), np.nan)
        np.divide(kept, requests, out=share, where=requests > 0)
        return share

    @property
    def stationary(self) -> bool:
        """Whether the caches were warm: none of them was still filling up."""
        growths = self.content_growth.values()
        return all(growth is None or growth <= STEADY_GROWTH for growth in growths)


@dataclass(frozen=True)
class Outcome:
    """One plan's run. An overloaded one has served nothing that can be measured.

    Attributes
    ----------
    plan:
        What it was to do.
    sizes:
        What it could use, on each replica.
    invalid_because:
        Why the run is no result to compare, None if it is one.
    served:
        None if the engine could not keep up: then no number means anything.
    bins, end_s:
        Energy and traffic over the whole run, warm-up included, as in `SimulatedRun`.
    """

    plan: Plan
    sizes: SizesOverTime
    invalid_because: str | None
    served: Served | None
    bins: NDArray[np.void] = field(repr=False)
    end_s: float
    decisions: tuple[Decision, ...] = ()
    """What the controller decided, if it steered the run."""

    @property
    def valid(self) -> bool:
        """Whether the engine kept up and met the SLO."""
        return self.invalid_because is None


def _growth(
    bins: NDArray[np.void], warmup_s: float, capacity_blocks: dict[str, int]
) -> dict[str, float | None]:
    warmed = int(warmup_s / BIN_S)
    growth: dict[str, float | None] = {}
    for tier, capacity in capacity_blocks.items():
        used = bins[f"{tier}_blocks"]
        before = used[warmed - 1] if warmed else 0.0
        growth[tier] = float(used[-1] - before) / capacity if capacity else None
    return growth


def latencies_s(requests: NDArray[np.void]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """TTFT and TPOT of finished requests (`SimulatedRun.requests`); TPOT is NaN for one token."""
    ttft_s = requests["first_token_s"] - requests["arrival_s"]
    later = requests["output_tokens"] - 1
    decoding_s = requests["finish_s"] - requests["first_token_s"]
    tpot_s = np.divide(decoding_s, later, out=np.full(len(later), np.nan), where=later > 0)
    return ttft_s, tpot_s


def outcome_of(
    run: SimulatedRun,
    plan: Plan,
    slo: Slo,
    *,
    warmup_s: float,
    block_tokens: int,
    capacity_blocks: dict[str, int],
) -> Outcome:
    """Measure a run from ``warmup_s`` on.

    Parameters
    ----------
    run, plan, slo:
        What ran, and what it was to achieve.
    warmup_s:
        Requests that arrive before are not measured; whole bins.
    block_tokens:
        Tokens to a block.
    capacity_blocks:
        Blocks that DRAM and SSD can hold, over all replicas.
    """
    if run.overloaded is not None:
        return Outcome(plan, run.sizes, run.overloaded, None, run.bins, run.end_s)
    requests = run.requests[run.requests["arrival_s"] >= warmup_s]
    ttft_s, tpot_s = latencies_s(requests)
    kept = slo.kept(ttft_s, tpot_s)
    hour = ((requests["arrival_s"] - warmup_s) // HOUR_S).astype(np.int64)
    attainment = float(kept.mean())
    ttft = Latency.of(ttft_s)
    assert ttft is not None
    share = block_tokens / requests["input_tokens"].sum()
    served = Served(
        requests=len(requests),
        output_tokens=int(requests["output_tokens"].sum()),
        hit_rate_tokens_by_tier={
            tier: float(requests[f"{tier}_blocks"].sum(dtype=np.int64) * share) for tier in TIERS
        },
        ttft=ttft,
        tpot=Latency.of(tpot_s[~np.isnan(tpot_s)]),
        slo_attainment=attainment,
        preemptions=int(requests["preemptions"].sum()),
        content_growth=_growth(run.bins, warmup_s, capacity_blocks),
        requests_by_hour=np.bincount(hour),
        kept_by_hour=np.bincount(hour[kept], minlength=int(hour.max()) + 1),
    )
    missed = None
    if attainment < slo.target:
        missed = (
            f"SLO missed: {attainment:.1%} of requests within TTFT {slo.ttft_s:g} s and TPOT "
            f"{slo.tpot_s:g} s, target {slo.target:.0%}"
        )
    return Outcome(plan, run.sizes, missed, served, run.bins, run.end_s)
