"""The best plan, exactly: paths grown interval by interval, without those that cannot be best.

A *label* is a path from the start: the node it leads to, its grams, and what its day has attained
so far. It is dropped

- if its day's target is out of reach from there,
- if another label of that node has no more grams and no less attained (Aneja, Aggarwal and Nair,
  Networks 13(2), 1983); at a day's begin nothing is attained yet, so one label a node is left,
- if it cannot become better than the best plan known: its grams and the least that is still to
  come, at any of the prices tried, are no less.

Only the day at hand counts in a label, since days follow one another: so it has two numbers however
many days there are. If more than a set number of labels remain, those that promise most are kept,
and the least promise of the others is what the bound on all plans falls to.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.plan_network import Network, ends_day
from greencache.controller.plan_prices import Potentials, Priced, complete

__all__ = ["Closed", "close_gap"]

_ROUNDING = 1e-12
"""Of the grams: a label that promises less than this to save is as good as one that saves none."""

_COMPLETED = 64
"""Labels of an interval that are completed to plans at most, in search of a better one; one in so
many is, since completing takes about as long as growing so many."""


class Closed(NamedTuple):
    """A path, its grams, and a bound on all paths; equal if the path is the best."""

    path: NDArray[np.int64]
    grams: float
    bound: float


class _Labels(NamedTuple):
    """Labels of one interval; ``parent`` is a place among those of the interval before."""

    node: NDArray[np.int32]
    grams: NDArray[np.float64]
    attained: NDArray[np.float64]
    promise: NDArray[np.float64]
    """Least grams of a plan that begins so."""
    parent: NDArray[np.int32]
    arc: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> _Labels:
        return _Labels._make(column[places] for column in self)


def _room(labels: int) -> _Labels:
    return _Labels(
        np.empty(labels, np.int32),
        np.empty(labels),
        np.empty(labels),
        np.empty(labels),
        np.empty(labels, np.int32),
        np.empty(labels, np.int64),
    )


@kernel
def _grow(
    network: Network,
    potentials: Potentials,
    to_need: NDArray[np.float64],
    t: int,
    labels: _Labels,
    cutoff: float,
    grown: _Labels,
    dropped: NDArray[np.float64],
) -> int:
    """Fill ``grown`` with what follows ``labels``; how many those are.

    ``to_need`` is, for each price and day, what all needs from that day on are worth.
    ``dropped[0]`` falls to the least promise of what is left out because of ``cutoff`` or for want
    of room.
    """
    end = 0
    day = network.day[t]
    day_ends = ends_day(network.day, t)
    tried = len(potentials.prices)
    for i in range(len(labels.node)):
        n = labels.node[i]
        first = network.first[t, n]
        for at in range(first, first + network.degree[t, n]):
            m = network.next_node[at]
            grams = labels.grams[i] + network.grams[at]
            attained = labels.attained[i] + network.attained[at]
            most = attained if day_ends else attained + network.most[t + 1, m]
            if most < network.needs[day]:
                continue
            promise = -np.inf
            for p in range(tried):
                ahead = potentials.ahead[p, t + 1, m] - potentials.rounding[p]
                if day_ends:
                    ahead += to_need[p, day + 1]
                else:
                    ahead += to_need[p, day] - potentials.prices[p, day] * attained
                promise = max(promise, grams + ahead)
                if promise >= cutoff:
                    break
            if promise >= cutoff or end == len(grown.node):
                dropped[0] = min(dropped[0], promise)
                continue
            grown.node[end] = m
            grown.grams[end] = grams
            grown.attained[end] = 0.0 if day_ends else attained
            grown.promise[end] = promise
            grown.parent[end] = i
            grown.arc[end] = at
            end += 1
    return end


@kernel
def _undominated(
    node: NDArray[np.int32],
    attained: NDArray[np.float64],
    order: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> int:
    """Fill ``kept`` with labels that no other dominates; ``order`` is by node, then by grams."""
    end = 0
    before = -1
    most = 0.0
    for i in order:
        if node[i] != before or attained[i] > most:
            kept[end] = i
            end += 1
            before = node[i]
            most = attained[i]
    return end


def close_gap(
    network: Network, start: int, priced: Priced, *, gap: float, most_labels: int
) -> Closed:
    """The best path, or one proven to be within ``gap`` (a share of its grams) of it.

    Parameters
    ----------
    network, start:
        The arcs, and the node in which the first interval begins.
    priced:
        The best path known so far and the potentials that labels are judged by.
    gap:
        0 for the best path itself.
    most_labels:
        How many labels of an interval are kept at most; with more than that left, the gap that is
        proven may be larger.
    """
    path, grams = priced.path, priced.grams
    dropped = np.array([np.inf])
    potentials = priced.potentials
    rounding = _ROUNDING * abs(grams) + float(potentials.rounding[0])
    days = len(network.needs)
    # What the needs from each day on are worth, with an entry for after the last.
    worth = potentials.prices * network.needs
    to_need = np.zeros((len(worth), days + 1))
    to_need[:, :days] = np.cumsum(worth[:, ::-1], axis=1)[:, ::-1]
    labels = _room(1)
    labels.node[0], labels.grams[0], labels.attained[0] = start, 0.0, 0.0
    labels.promise[0] = priced.bound
    room = _room(8 * most_labels)
    trail: list[_Labels] = []
    intervals = len(network.day)
    for t in range(intervals):
        cutoff = grams - max(gap * abs(grams), rounding)
        end = _grow(network, potentials, to_need, t, labels, cutoff, room, dropped)
        grown = _Labels._make(column[:end] for column in room)
        order = np.lexsort((-grown.attained, grown.grams, grown.node))
        kept = np.empty(end, np.int64)
        kept = kept[: _undominated(grown.node, grown.attained, order, kept)]
        if len(kept) > most_labels:
            parts = np.argpartition(grown.promise[kept], most_labels)
            dropped[0] = min(dropped[0], grown.promise[kept[parts[most_labels:]]].min())
            kept = np.sort(kept[parts[:most_labels]])
        labels = grown.take(kept)
        trail.append(labels)
        if not len(kept):
            break
        made = _finish(network, priced, trail)
        made_grams = float(network.grams[made].sum())
        if made_grams < grams:
            path, grams = made, made_grams
    bound = max(float(dropped[0]), priced.bound)
    return Closed(path, grams, grams if bound >= grams - rounding else bound)


@kernel
def _complete_all(
    network: Network,
    prices: NDArray[np.float64],
    ahead: NDArray[np.float64],
    begin: int,
    labels: _Labels,
    chosen: NDArray[np.int64],
    path: NDArray[np.int64],
    best: NDArray[np.int64],
) -> int:
    """Complete each of ``chosen`` as looks cheapest; that of fewest grams, its end in ``best``."""
    found = -1
    least = np.inf
    for i in chosen:
        complete(network, prices, ahead, begin, labels.node[i], labels.attained[i], path)
        grams = labels.grams[i]
        for t in range(begin, len(path)):
            grams += network.grams[path[t]]
        if grams < least:
            found = i
            least = grams
            for t in range(begin, len(path)):
                best[t] = path[t]
    return found


def _finish(network: Network, priced: Priced, trail: list[_Labels]) -> NDArray[np.int64]:
    """The best path through one of the labels that promise most, completed as looks cheapest."""
    labels = trail[-1]
    chosen = np.arange(len(labels.node))
    count = min(_COMPLETED, 1 + len(chosen) // _COMPLETED)
    if len(chosen) > count:
        chosen = np.argpartition(labels.promise, count)[:count]
    potentials = priced.potentials
    best = np.empty(len(network.day), np.int64)
    place = _complete_all(
        network,
        potentials.prices[0],
        potentials.ahead[0],
        len(trail),
        labels,
        chosen,
        np.empty_like(best),
        best,
    )
    for t in range(len(trail) - 1, -1, -1):
        best[t] = trail[t].arc[place]
        place = int(trail[t].parent[place])
    return best
