"""The arcs that a plan can be made of, and the most that can be attained from each node.

A plan is a path: an arc leads from node to node by one choice in one interval. Left out are arcs
from nodes that are not reached, arcs below the floor of their interval, *dominated* arcs (another
one leads from the same node to the same next node with no more grams and no less attained), and
arcs after which some day's target is out of reach whatever follows. None of them is needed by a
best plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.controller.plan_problem import Instance
from greencache.errors import InfeasibleError

__all__ = ["Network", "ends_day", "lay_out"]

NONE = -1


class Network(NamedTuple):
    """Arcs by the interval and node that they leave.

    Attributes
    ----------
    first, degree:
        Where the arcs of each interval and node lie, and how many they are, ``[T, N]``.
    grams, attained, next_node, choice:
        Of each arc.
    most:
        Most requests within the SLO from the beginning of an interval in a node until its day's
        end, with later days' targets met, ``[T + 1, N]``; minus infinity where a day's target
        cannot be met or nothing leads there.
    day:
        Place of each interval's day, ``[T]``.
    needs:
        Requests within the SLO that each day needs.
    """

    first: NDArray[np.int64]
    degree: NDArray[np.int32]
    grams: NDArray[np.float64]
    attained: NDArray[np.float64]
    next_node: NDArray[np.int32]
    choice: NDArray[np.int32]
    most: NDArray[np.float64]
    day: NDArray[np.int64]
    needs: NDArray[np.float64]


@subroutine
def ends_day(day: NDArray[np.int64], t: int) -> bool:
    """Whether interval ``t`` is the last of its day in the horizon."""
    return t + 1 == len(day) or day[t + 1] != day[t]


def lay_out(instance: Instance) -> Network:
    """The arcs that can be part of a best plan.

    Raises
    ------
    InfeasibleError
        If no plan holds an interval's floor or meets a day's target.
    """
    intervals, nodes, choices = instance.shape
    arcs = instance.grams.size
    network = Network(
        first=np.zeros((intervals, nodes), np.int64),
        degree=np.zeros((intervals, nodes), np.int32),
        grams=np.empty(arcs),
        attained=np.empty(arcs),
        next_node=np.empty(arcs, np.int32),
        choice=np.empty(arcs, np.int32),
        most=np.full((intervals + 1, nodes), -np.inf),
        day=instance.day_index,
        needs=instance.day_needs,
    )
    holds = instance.floored >= instance.floor_needs[:, None, None]
    reached = np.zeros((intervals + 1, nodes), np.bool_)
    reached[0, instance.start_node] = True
    stuck = _collect(
        np.where(holds, instance.grams, np.inf),
        np.ascontiguousarray(instance.attained, np.float64),
        np.ascontiguousarray(instance.next_node, np.int32),
        network,
        reached,
        np.full(nodes, NONE, np.int64),
        np.empty(choices, np.int64),
    )
    if stuck != NONE:
        raise _floor_missed(instance, stuck, reached[stuck])
    short = _look_ahead(network)
    if short != NONE:
        begin = int(np.flatnonzero(network.day == short)[0])
        raise _target_missed(instance, short, float(network.most[begin].max()))
    return network


def _floor_missed(instance: Instance, interval: int, reached: NDArray[np.bool_]) -> InfeasibleError:
    usable = np.isfinite(instance.grams[interval]) & reached[:, None]
    floor = np.broadcast_to(instance.floor, instance.requests.shape)[interval]
    return InfeasibleError(
        needed=float(floor * instance.requests[interval]),
        attainable=float(instance.floored[interval][usable].max()) if usable.any() else None,
        interval=interval,
    )


def _target_missed(instance: Instance, place: int, attainable: float) -> InfeasibleError:
    day_shape = instance.days.shape
    target = np.broadcast_to(instance.target, day_shape)[place]
    had = np.broadcast_to(instance.attained_before, day_shape)[place]
    return InfeasibleError(
        needed=float(target * instance.day_requests[place]),
        attainable=attainable + float(had),
        day=int(instance.days[place]),
    )


@subroutine
def _move(network: Network, source: int, to: int) -> None:
    network.grams[to] = network.grams[source]
    network.attained[to] = network.attained[source]
    network.next_node[to] = network.next_node[source]
    network.choice[to] = network.choice[source]


@kernel
def _collect(
    grams: NDArray[np.float64],
    attained: NDArray[np.float64],
    next_node: NDArray[np.int32],
    network: Network,
    reached: NDArray[np.bool_],
    head: NDArray[np.int64],
    link: NDArray[np.int64],
) -> int:
    """Fill the arcs; the interval in which there are none, or `NONE`.

    ``head`` holds, for each next node, the last arc of the node at hand that leads there; ``link``
    the one before it, by place within the node.
    """
    intervals, nodes, choices = grams.shape
    end = 0
    for t in range(intervals):
        before = end
        for n in range(nodes):
            if not reached[t, n]:
                continue
            first = end
            for k in range(choices):
                g, a, m = grams[t, n, k], attained[t, n, k], next_node[t, n, k]
                if g == np.inf:
                    continue
                other = head[m]
                while other != NONE:
                    if network.grams[other] <= g and network.attained[other] >= a:
                        break
                    other = link[other - first]
                if other != NONE:
                    continue
                other = head[m]
                while other != NONE:
                    if g <= network.grams[other] and a >= network.attained[other]:
                        network.grams[other] = np.inf
                    other = link[other - first]
                network.grams[end] = g
                network.attained[end] = a
                network.next_node[end] = m
                network.choice[end] = k
                link[end - first] = head[m]
                head[m] = end
                end += 1
            kept = first
            for at in range(first, end):
                m = network.next_node[at]
                head[m] = NONE
                reached[t + 1, m] = True
                if network.grams[at] < np.inf:
                    _move(network, at, kept)
                    kept += 1
            end = kept
            network.first[t, n] = first
            network.degree[t, n] = end - first
        if end == before:
            return t
    return NONE


@kernel
def _look_ahead(network: Network) -> int:
    """Fill ``most`` and drop arcs that lead nowhere; the place of the day that cannot be met."""
    intervals, nodes = network.degree.shape
    most = network.most
    most[intervals] = 0.0
    for t in range(intervals - 1, -1, -1):
        day_ends = ends_day(network.day, t)
        day_begins = t == 0 or network.day[t - 1] != network.day[t]
        need = network.needs[network.day[t]]
        met = False
        for n in range(nodes):
            first = network.first[t, n]
            kept = first
            for at in range(first, first + network.degree[t, n]):
                ahead = most[t + 1, network.next_node[at]]
                if ahead == -np.inf:
                    continue
                if day_ends:
                    ahead = 0.0
                most[t, n] = max(most[t, n], network.attained[at] + ahead)
                _move(network, at, kept)
                kept += 1
            network.degree[t, n] = kept - first
            met = met or most[t, n] >= need
        if day_begins:
            if not met:
                return int(network.day[t])
            for n in range(nodes):
                if most[t, n] < need:
                    most[t, n] = -np.inf
                    network.degree[t, n] = 0
    return NONE
