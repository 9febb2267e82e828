"""Plans tier sizes over the coming hours: the fewest grams that keep the SLO.

`plan` finds the best plan, or says by how much the one that it found may be off; `plan_ilp` solves
the same as an integer program. Both raise `InfeasibleError` where no plan keeps the SLO: then
`affordable` comes as close as is worth it, and `relaxed` asks for no more than that, so that the
hours that can be planned still are. The formulation is in ``docs/planner.md``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greencache.controller.plan_ilp import plan_ilp
from greencache.controller.plan_labels import close_gap
from greencache.controller.plan_network import lay_out
from greencache.controller.plan_prices import search_prices
from greencache.controller.plan_problem import Instance, Plan
from greencache.errors import InfeasibleError, InputError

__all__ = ["Instance", "Plan", "affordable", "plan", "plan_ilp", "relaxed", "with_lateness"]

MOST_LABELS = 10_000
"""Partial plans kept an interval. Days of serving need a few hundred (`planner_speed`); where grams
and attainment are drawn at random, more keep a plan from being proven the best."""


def plan(instance: Instance, *, gap: float = 0.0, most_labels: int = MOST_LABELS) -> Plan:
    """The plan of fewest grams that holds every floor and meets every day's target.

    Parameters
    ----------
    instance:
        What is planned.
    gap:
        Share of its grams that the plan may be above the best one; 0 for the best one itself.
    most_labels:
        Partial plans kept an interval at most. With more than that the plan may not be the best;
        its ``gap`` says by how much it may be off.

    Raises
    ------
    InfeasibleError
        If no plan holds an interval's floor or meets a day's target.
    """
    if not 0 <= gap < 1 or most_labels < 1:
        raise InputError("a plan's gap is at least 0 and below 1, and one label is kept at least")
    network = lay_out(instance)
    priced = search_prices(network, instance.start_node)
    closed = close_gap(network, instance.start_node, priced, gap=gap, most_labels=most_labels)
    return Plan.of(
        instance,
        network.choice[closed.path].astype(np.int64),
        "decomposition",
        lower_bound=closed.bound,
        prices=priced.prices,
    )


def with_lateness(instance: Instance, g_per_request: float) -> Instance:
    """``instance`` with ``g_per_request`` more grams for each request that is expected late."""
    late = instance.requests[:, None, None] - instance.attained
    return replace(instance, grams=instance.grams + g_per_request * late)


def affordable(instance: Instance, g_per_request: float) -> Plan:
    """The plan that serves in time what is worth it, whatever floors and targets say.

    It has the fewest grams, with ``g_per_request`` more for each late request and for each that a
    floor lacks. It exists whether or not the SLO can be kept.

    Parameters
    ----------
    instance:
        What is planned.
    g_per_request:
        Grams that one request more within the SLO may cost; with 0 the plan is the cheapest.

    Raises
    ------
    InputError
        If in some interval no choice can be taken.
    """
    lacking = np.maximum(instance.floor_needs[:, None, None] - instance.floored, 0.0)
    grams = with_lateness(instance, g_per_request).grams + g_per_request * lacking
    try:
        best = plan(replace(instance, grams=grams, target=0.0, floor=0.0))
    except InfeasibleError:
        raise InputError(
            "no choice can be taken: grams are infinite for all of an interval"
        ) from None
    return Plan.of(instance, best.choices, "affordable", lower_bound=-np.inf)


def relaxed(instance: Instance, g_per_request: float) -> Instance:
    """``instance`` with floors and targets that `affordable` misses lowered to what it has.

    Always feasible. What is let go would cost more than ``g_per_request`` for each request.
    """
    best = affordable(instance, g_per_request)
    wanted = np.broadcast_to(instance.target, len(instance.days))
    target = np.minimum(wanted, _share(best.day_attained, instance.day_requests))
    floor = np.minimum(
        np.broadcast_to(instance.floor, len(instance.day)),
        _share(instance.floored_by(best), instance.requests),
    )
    return replace(instance, target=target, floor=floor)


def _share(attained: NDArray[np.float64], requests: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share attained; of no requests, all."""
    share = np.divide(attained, requests, out=np.ones_like(requests), where=requests > 0)
    return np.clip(share, 0.0, 1.0)
