"""Small instances of a planner's problem, and their best plan by trying all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from greencache.controller.planner import Instance

__all__ = ["brute_force", "instances", "least_value"]


class Tried(NamedTuple):
    """A sequence of choices that can be taken."""

    grams: float
    attained: NDArray[np.float64]


def sequences(instance: Instance) -> Iterator[Tried]:
    """All of them."""
    intervals, _, choices = instance.shape
    for taken in itertools.product(range(choices), repeat=intervals):
        node, grams = instance.start_node, 0.0
        attained = []
        for t, k in enumerate(taken):
            grams += instance.grams[t, node, k]
            attained.append(instance.attained[t, node, k])
            node = instance.next_node[t, node, k]
        if np.isfinite(grams):
            yield Tried(grams, np.array(attained))


def least_value(instance: Instance, g_per_request: float) -> float:
    """Fewest grams, with requests in time and what floors lack at a price."""
    floors = instance.floor * instance.requests
    return min(
        grams + g_per_request * float((np.maximum(floors - attained, 0.0) - attained).sum())
        for grams, attained in sequences(instance)
    )


def brute_force(instance: Instance) -> float:
    """Fewest grams that keep the SLO; infinite where none does."""
    return min(
        (grams for grams, attained in sequences(instance) if _kept(instance, attained)),
        default=np.inf,
    )


def _kept(instance: Instance, attained: NDArray[np.float64]) -> bool:
    if (attained < instance.floor * instance.requests - 1e-6).any():
        return False
    for place, day in enumerate(sorted(set(instance.day.tolist()))):

        def of(given: object, place: int = place) -> float:
            values = np.atleast_1d(np.asarray(given, np.float64))
            return float(values[place if len(values) > 1 else 0])

        asked = instance.requests[instance.day == day].sum() + of(instance.requests_before)
        had = attained[instance.day == day].sum() + of(instance.attained_before)
        if had < of(instance.target) * asked - 1e-6:
            return False
    return True


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Whole requests, shares in eighths, grams whole or not: sums are exact, or ties are rare."""
    intervals = draw(st.integers(1, 5))
    nodes = draw(st.integers(1, 4))
    choices = draw(st.integers(1, 4))
    days = draw(st.integers(1, min(3, intervals)))
    draws = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (intervals, nodes, choices)
    borders = np.sort(draws.choice(np.arange(1, intervals), days - 1, replace=False))
    day = 7 + np.searchsorted(borders, np.arange(intervals), side="right")
    requests = draws.integers(0, 33, intervals).astype(np.float64)
    share = draws.integers(0, 9, shape) / 8
    dear = draw(st.sampled_from([0.0, 1.0, 4.0]))
    grams = draws.integers(0, 30, shape).astype(np.float64) + np.floor(
        dear * share * requests[:, None, None]
    )
    if draw(st.booleans()):
        grams += draws.random(shape)
    grams[draws.random(shape) < draw(st.sampled_from([0.0, 0.2]))] = np.inf
    before = draws.integers(0, 20, days).astype(np.float64)
    return Instance(
        grams=grams,
        attained=np.floor(share * requests[:, None, None]),
        requests=requests,
        next_node=draws.integers(0, nodes, shape).astype(np.int32),
        start_node=int(draws.integers(nodes)),
        target=draw(st.integers(0, 8)) / 8,
        floor=draw(st.sampled_from([0.0, 0.0, 0.125, 0.5])),
        day=day.astype(np.int64),
        requests_before=before,
        attained_before=np.floor(before * draws.random(days)),
    )
