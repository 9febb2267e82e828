"""Limits on latency by rule: what full caching keeps on every day.

Some hardware cannot keep the usual limits: four L40s compute a 70B model's prompt of 12,000 tokens
in 4 s. So that no limit is chosen for its result, it is found before any plan is compared. At load
0.8, with everything installed, LRU and every block written, it is

1. for TPOT the least of `TPOT_LIMITS_S` that enough requests meet on every measured day;
2. for TTFT the least of `TTFT_LIMITS_S` with which enough requests meet both on every day. Is there
   none, step 1 goes on with the next limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench.outcome import latencies_s
from greencache.bench.plans import parse_plans
from greencache.bench.setup import ReplaySetup, storage_of
from greencache.bench.simulated import prepare
from greencache.bench.simulation import simulate
from greencache.controller.slo import Slo
from greencache.errors import InputError
from greencache.quantities import DAY_S

__all__ = ["LOAD_FRACTION", "TPOT_LIMITS_S", "TTFT_LIMITS_S", "full_keeps", "least_kept"]

LOAD_FRACTION = 0.8
"""The highest load of the experiments."""
SEED = 1
TTFT_LIMITS_S = (2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TPOT_LIMITS_S = (0.2, 0.3, 0.5, 1.0, 2.0)


def least_kept(
    day: NDArray[np.int64],
    ttft_s: NDArray[np.float64],
    tpot_s: NDArray[np.float64],
    target: float,
) -> Slo | None:
    """The limits that the rule gives; None if no limits are kept.

    Parameters
    ----------
    day:
        Which measured day each request belongs to.
    ttft_s, tpot_s:
        Latencies of each; TPOT NaN where there is none.
    target:
        Share of requests that must meet them on each day.
    """
    days = np.unique(day)

    def kept_every_day(meets: NDArray[np.bool_]) -> bool:
        return all(meets[day == each].mean() >= target for each in days)

    for tpot_limit_s in TPOT_LIMITS_S:
        meets_tpot = ~(tpot_s > tpot_limit_s)
        if not kept_every_day(meets_tpot):
            continue
        for ttft_limit_s in TTFT_LIMITS_S:
            if kept_every_day(meets_tpot & (ttft_s <= ttft_limit_s)):
                return Slo(ttft_limit_s, tpot_limit_s, target)
    return None


def full_keeps(setup: ReplaySetup) -> Slo:
    """The limits for a workload, from its replay at `LOAD_FRACTION`.

    Raises
    ------
    InputError
        If full caching does not keep up, or keeps not even the widest limits.
    """
    admitted, _ = prepare(setup)
    (full,) = parse_plans("full", setup.installed)
    run = simulate(
        admitted,
        setup.hardware,
        storage_of(full, setup.policy, setup.factors),
        batching=setup.batching,
        replicas=setup.replicas,
    )
    if run.overloaded is not None:
        raise InputError(f"{setup.trace.name}: no limits, because full caching is {run.overloaded}")
    requests = run.requests[run.requests["arrival_s"] >= setup.warmup_s]
    day = ((requests["arrival_s"] - setup.warmup_s) // DAY_S).astype(np.int64)
    slo = least_kept(day, *latencies_s(requests), setup.slo.target)
    if slo is None:
        raise InputError(f"{setup.trace.name}: full caching keeps none of the limits")
    return slo
