"""How much better than its target a day is planned, so that it is likely to be kept.

Expected misses are no promise. Requests that come too late come together, behind the same burst, so
a day's misses scatter more than if each were late by itself: with ``M`` of them expected, their
variance is ``k * M``, where ``k`` is 1 if they are independent and about the size of a burst if not
(a compound Poisson count: ``k = E[size**2] / E[size]``). It is learned from what intervals missed
against what plans had expected (`greencache.controller.calibration`).

A day that may still miss ``B`` requests keeps its target with the wanted probability if ``M + z *
sqrt(k * M) <= B``, with ``z`` that quantile of the normal distribution. The left side grows with
``M``, so this is a bound on ``M`` alone, and the plan stays linear::

    sqrt(M) <= (sqrt(z**2 * k + 4 * B) - z * sqrt(k)) / 2
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Days", "planned_targets"]

Floats = NDArray[np.float64]


class Days(NamedTuple):
    """What a plan knows of each day that it covers a part of.

    Attributes
    ----------
    requests_before, missed_before:
        What the day has had so far.
    requests_ahead:
        What is expected of the part that the plan covers.
    share_ahead:
        That part over all of the day that is left.
    """

    requests_before: Floats
    missed_before: Floats
    requests_ahead: Floats
    share_ahead: Floats


def planned_targets(target: float, certainty: float, clumping: float, days: Days) -> Floats:
    """Share of each day's requests to plan for within the SLO, those before now included.

    A day of which the plan covers the first hour need not be certain by that hour alone: its rest
    is taken to bring as much, and to miss as much.

    Parameters
    ----------
    target:
        Share that must be within the SLO.
    certainty:
        Wanted probability that it is; one half and less stand for what is expected.
    clumping:
        Variance of misses over their expectation.
    days:
        The days.

    Returns
    -------
    ndarray
        ``target`` for days without requests, and for those that have missed too many already.
    """
    left = days.requests_ahead / days.share_ahead
    may_miss = (1 - target) * (days.requests_before + left) - days.missed_before
    spread = max(NormalDist().inv_cdf(certainty), 0.0) * math.sqrt(clumping)
    expected = ((np.sqrt(spread**2 + 4 * np.maximum(may_miss, 0.0)) - spread) / 2) ** 2
    requests = days.requests_before + days.requests_ahead
    missed = days.missed_before + expected * days.share_ahead
    possible = (may_miss > 0) & (left > 0)
    return np.asarray(
        1 - np.divide(missed, requests, out=np.full(len(left), 1 - target), where=possible)
    )
