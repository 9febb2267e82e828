"""Plans tier sizes over the coming hours: the fewest grams that keep the SLO.

`plan` finds the best plan, or says by how much the one that it found may be off; `plan_ilp` solves
the same as an integer program. Both raise `InfeasibleError` where no plan keeps the SLO: then
`most_attained` comes as close as can be, and `relaxed` asks for no more than that, so that the
hours that can be planned still are. The formulation is in ``docs/planner.md``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.plan_ilp import plan_ilp
from greencache.controller.plan_labels import close_gap
from greencache.controller.plan_network import lay_out
from greencache.controller.plan_prices import search_prices
from greencache.controller.plan_problem import Instance, Plan
from greencache.errors import InputError

__all__ = ["Instance", "Plan", "most_attained", "plan", "plan_ilp", "relaxed"]

MOST_LABELS = 10_000
"""Partial plans kept an interval. Days of serving need a few hundred (`planner_speed`); where grams
and attainment are drawn at random, more keep a plan from being proven the best."""

MISSED, ATTAINED, GRAMS = range(3)
"""What `most_attained` compares plans by: requests short of floors, in time, and gCO2e."""


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


def most_attained(instance: Instance) -> Plan:
    """The plan that misses floors by the least, then attains the most, then has the fewest grams.

    It exists whether or not the SLO can be kept, and its lower bound is its grams: nothing was
    traded. Targets are not looked at.

    Raises
    ------
    InputError
        If in some interval no choice can be taken.
    """
    intervals, nodes, _ = instance.shape
    choice = np.zeros((intervals, nodes), np.int64)
    ahead = np.zeros((intervals + 1, nodes, 3))
    _serve_most(
        np.ascontiguousarray(instance.grams, np.float64),
        np.ascontiguousarray(instance.attained, np.float64),
        np.ascontiguousarray(instance.floored, np.float64),
        np.ascontiguousarray(instance.next_node, np.int32),
        instance.floor_needs,
        ahead,
        choice,
    )
    if ahead[0, instance.start_node, MISSED] == np.inf:
        raise InputError("no choice can be taken: grams are infinite for all of an interval")
    taken = np.empty(intervals, np.int64)
    node = instance.start_node
    for t in range(intervals):
        taken[t] = choice[t, node]
        node = instance.next_node[t, node, taken[t]]
    grams = float(ahead[0, instance.start_node, GRAMS])
    return Plan.of(instance, taken, "most attained", lower_bound=grams)


def relaxed(instance: Instance) -> Instance:
    """``instance`` with floors and targets that `most_attained` misses lowered to what it has.

    Always feasible, and the same where `most_attained` misses nothing.
    """
    best = most_attained(instance)
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


@kernel
def _serve_most(
    grams: NDArray[np.float64],
    attained: NDArray[np.float64],
    floored: NDArray[np.float64],
    next_node: NDArray[np.int32],
    floors: NDArray[np.float64],
    ahead: NDArray[np.float64],
    choice: NDArray[np.int64],
) -> None:
    """Fill, for each interval and node, the best choice and what is ahead with it."""
    intervals, nodes, choices = grams.shape
    for t in range(intervals - 1, -1, -1):
        for n in range(nodes):
            best = ahead[t, n]
            best[MISSED] = np.inf
            for k in range(choices):
                if grams[t, n, k] == np.inf:
                    continue
                after = ahead[t + 1, next_node[t, n, k]]
                missed = after[MISSED] + max(floors[t] - floored[t, n, k], 0.0)
                if missed > best[MISSED] or missed == np.inf:
                    continue
                has = after[ATTAINED] + attained[t, n, k]
                costs = after[GRAMS] + grams[t, n, k]
                if missed == best[MISSED] and (
                    has < best[ATTAINED] or (has == best[ATTAINED] and costs >= best[GRAMS])
                ):
                    continue
                best[MISSED], best[ATTAINED], best[GRAMS] = missed, has, costs
                choice[t, n] = k
