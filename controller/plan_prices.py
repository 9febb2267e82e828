"""Lagrangian relaxation of the days' targets: a bound on every plan, and good plans.

A price is put on each request within the SLO, one for each day, and the target is dropped. What is
left is a shortest path, which dynamic programming finds at once::

    bound(prices) = min over paths (grams - sum over days price * attained) + sum price * need

is below the grams of every plan that meets the needs, whatever the prices, and is concave in them.
The best price of a day, the others fixed, is found as the slope between a path that falls short and
one that does not (Handler and Zang, Networks 10(4), 1980); days take turns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.plan_network import Network, ends_day

__all__ = ["Potentials", "Priced", "complete", "search_prices"]

ROUNDS = 4
"""How often days take turns."""

STEPS = 40
"""Slopes tried for one day at a time; the search ends by itself after a few."""

KEPT = 8
"""Potentials handed on: the last ones tried, whose prices are near the best."""

RAISES = (1e-6, 1e-2)
"""Shares by which the best prices are raised in the end. At the best prices paths that fall short
are as good as others; just above them those that meet all needs are preferred."""

CLOSE = 1e-12
"""Relative difference at which two bounds are the same."""


class Potentials(NamedTuple):
    """What is still to come from each node, at several prices.

    Attributes
    ----------
    prices:
        gCO2e for a request within the SLO, ``[M, D]``.
    ahead:
        Least grams less priced attainment from the beginning of an interval in a node,
        ``[M, T + 1, N]``.
    rounding:
        By how much sums of so many grams may be wrong, ``[M]``.
    """

    prices: NDArray[np.float64]
    ahead: NDArray[np.float64]
    rounding: NDArray[np.float64]


class Priced(NamedTuple):
    """What the search found.

    Attributes
    ----------
    path:
        Arc of each interval: the best plan met on the way that meets all needs.
    grams:
        Its grams.
    bound:
        Highest bound found.
    prices:
        The prices that give it.
    potentials:
        Those of the best prices, then of the last ones tried.
    """

    path: NDArray[np.int64]
    grams: float
    bound: float
    prices: NDArray[np.float64]
    potentials: Potentials


@kernel
def _look_back(
    network: Network,
    prices: NDArray[np.float64],
    start: int,
    ahead: NDArray[np.float64],
    path: NDArray[np.int64],
) -> None:
    """Fill ``ahead`` and the ``path`` of least grams less priced attainment."""
    intervals, nodes = network.degree.shape
    ahead[intervals] = 0.0
    for t in range(intervals - 1, -1, -1):
        price = prices[network.day[t]]
        for n in range(nodes):
            least = np.inf
            first = network.first[t, n]
            for at in range(first, first + network.degree[t, n]):
                value = network.grams[at] - price * network.attained[at]
                least = min(least, value + ahead[t + 1, network.next_node[at]])
            ahead[t, n] = least
    n = start
    for t in range(intervals):
        price = prices[network.day[t]]
        first = network.first[t, n]
        path[t] = first
        for at in range(first, first + network.degree[t, n]):
            value = network.grams[at] - price * network.attained[at]
            if value + ahead[t + 1, network.next_node[at]] == ahead[t, n]:
                path[t] = at
                break
        n = network.next_node[path[t]]


@kernel
def complete(
    network: Network,
    prices: NDArray[np.float64],
    ahead: NDArray[np.float64],
    begin: int,
    start: int,
    had: float,
    path: NDArray[np.int64],
) -> None:
    """Fill ``path`` from interval ``begin`` on: what looks cheapest and leaves all needs in reach.

    ``had`` requests of that day were within the SLO already, in the horizon. Where rounding alone
    leaves no arc in reach, the one that attains the most is taken.
    """
    n = start
    for t in range(begin, len(path)):
        day = network.day[t]
        day_ends = ends_day(network.day, t)
        least = np.inf
        greatest = -np.inf
        first = network.first[t, n]
        for at in range(first, first + network.degree[t, n]):
            m = network.next_node[at]
            most = had + network.attained[at]
            if not day_ends:
                most += network.most[t + 1, m]
            value = network.grams[at] - prices[day] * network.attained[at] + ahead[t + 1, m]
            if most >= network.needs[day] and value < least:
                least = value
                path[t] = at
            elif least == np.inf and most > greatest:
                greatest = most
                path[t] = at
        had = 0.0 if day_ends else had + network.attained[path[t]]
        n = network.next_node[path[t]]


class _Search:
    """Paths tried so far."""

    def __init__(self, network: Network, start: int) -> None:
        self.network = network
        self.start = start
        self.days = len(network.needs)
        self.prices = np.zeros(self.days)
        self.grams = np.inf
        self.bound = -np.inf
        self.path = np.zeros(len(network.day), np.int64)
        self.best_prices = self.prices
        self.tried: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def _note(self, path: NDArray[np.int64], grams: float) -> None:
        if grams < self.grams:
            self.path, self.grams = path, grams

    def rounding(self, prices: NDArray[np.float64]) -> float:
        """By how much a bound may be too high because numbers have 53 bits."""
        terms = len(self.network.day) + self.days
        return float(np.finfo(np.float64).eps * terms * (prices @ np.abs(self.network.needs)))

    def try_prices(self, prices: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Grams, and by how much each day falls short, of the best path at ``prices``."""
        network = self.network
        ahead = np.empty_like(network.most)
        path = np.empty(len(network.day), np.int64)
        _look_back(network, prices, self.start, ahead, path)
        grams = float(network.grams[path].sum())
        short = network.needs - np.bincount(network.day, network.attained[path], self.days)
        self.tried.append((prices, ahead))
        bound = float(ahead[0, self.start] + prices @ network.needs) - self.rounding(prices)
        if bound > self.bound:
            self.bound, self.best_prices = bound, prices
        if (short <= 0).all():
            self._note(path, grams)
        else:
            made = np.empty_like(path)
            complete(network, prices, ahead, 0, self.start, 0.0, made)
            self._note(made, float(network.grams[made].sum()))
        return grams, short

    def turn(self, day: int) -> None:
        """Find the best price of one day, the others as they are."""
        others = self.prices.copy()
        others[day] = 0.0

        def at(price: float) -> tuple[float, float]:
            prices = others.copy()
            prices[day] = price
            grams, short = self.try_prices(prices)
            return grams + float(others @ short), float(short[day])

        low, low_short = at(0.0)
        if low_short <= 0:
            self.prices = others
            return
        price = self.prices[day] or self._first_guess(day)
        high, high_short = at(price)
        for _ in range(STEPS):
            if high_short <= 0:
                break
            low, low_short = high, high_short
            price *= 2
            high, high_short = at(price)
        if high_short > 0:  # no price is high enough for rounding: labels decide alone
            self.prices = others
            return
        for _ in range(STEPS):
            price = (high - low) / (low_short - high_short)
            expected = low + price * low_short
            value, short = at(price)
            found = value + price * short
            if found >= expected - CLOSE * max(abs(expected), abs(low)):
                break
            if short > 0:
                low, low_short = value, short
            else:
                high, high_short = value, short
        self.prices = others
        self.prices[day] = price

    def _first_guess(self, day: int) -> float:
        """A price at which a request within the SLO is worth what the day's requests cost."""
        network = self.network
        spent = np.bincount(network.day, network.grams[self.path], self.days)[day]
        had = np.bincount(network.day, network.attained[self.path], self.days)[day]
        return float(abs(spent) / max(had, 1.0)) or 1.0


def search_prices(network: Network, start: int) -> Priced:
    """Prices that bound all plans closely, and the best plan met while searching them."""
    search = _Search(network, start)
    _, short = search.try_prices(search.prices)
    if (short > 0).any():
        for _ in range(ROUNDS):
            before = search.bound
            for day in range(search.days):
                search.turn(day)
            if search.days == 1 or search.bound <= before + CLOSE * abs(before):
                break
        for raise_by in RAISES:
            search.try_prices(search.best_prices * (1 + raise_by))
    kept = search.tried[-KEPT:]
    best = next(pair for pair in search.tried if pair[0] is search.best_prices)
    kept = [best, *(pair for pair in kept if pair is not best)]
    potentials = Potentials(
        np.array([prices for prices, _ in kept]),
        np.array([ahead for _, ahead in kept]),
        np.array([search.rounding(prices) for prices, _ in kept]),
    )
    return Priced(search.path, search.grams, search.bound, search.best_prices, potentials)
