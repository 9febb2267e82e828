"""What is planned and what a plan is: intervals, nodes, choices, grams and attainment."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError

__all__ = ["TOLERANCE", "Instance", "Plan"]

TOLERANCE = 1e-9
"""By what share of the requests of its day or interval a plan may miss a need: rounding only."""


@dataclass(frozen=True, eq=False)
class Instance:
    """Intervals to plan, with what each choice costs and gives in each of them.

    A *choice* is a pair of DRAM and SSD sizes. A *node* is what one interval hands to the next: how
    much the SSD tier holds, and how much work waits. Where two choices are as good, the first is
    taken, so smaller sizes come first.

    Attributes
    ----------
    grams:
        gCO2e if interval ``t`` begins in node ``n`` and choice ``k`` is taken, ``[T, N, K]``;
        infinite where that choice cannot be taken.
    attained:
        Expected requests of that interval within the SLO, ``[T, N, K]``.
    requests:
        Expected requests, ``[T]``.
    next_node:
        Node in which the following interval begins, ``[T, N, K]``.
    start_node:
        Node in which the first interval begins.
    target:
        Share of each day's requests to be within the SLO; one number, or one a day.
    floor:
        The same for each interval; one number, or one an interval.
    day:
        Day of each interval, ``[T]``, ascending. A horizon of 24 h spans two days unless it begins
        at midnight.
    requests_before, attained_before:
        What each day of the horizon has had before it, in the order of the days; nothing if left
        out.
    withstood:
        Requests within the SLO that floors are held against, ``[T, N, K]``: those at a load that
        each interval should withstand, higher than the expected one. ``attained`` if left out.

    Raises
    ------
    InputError
        If shapes do not fit, days do not ascend, a node does not exist, or a number is not one.
    """

    grams: NDArray[np.float64]
    attained: NDArray[np.float64]
    requests: NDArray[np.float64]
    next_node: NDArray[np.int32]
    start_node: int
    target: float | NDArray[np.float64]
    floor: float | NDArray[np.float64]
    day: NDArray[np.int64]
    requests_before: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    attained_before: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    withstood: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = self.grams.shape
        if len(shape) != 3 or 0 in shape:
            raise InputError("an instance needs an interval, a node and a choice at least")
        if not self.attained.shape == self.next_node.shape == self.floored.shape == shape:
            raise InputError("grams, attained, next_node and withstood need the same shape")
        if self.requests.shape != shape[:1] or self.day.shape != shape[:1]:
            raise InputError(f"requests and day need one entry for each of {shape[0]} intervals")
        if (np.diff(self.day) < 0).any():
            raise InputError("the days of an instance's intervals ascend")
        nodes = shape[1]
        if self.next_node.min() < 0 or self.next_node.max() >= nodes:
            raise InputError(f"next_node names one of {nodes} nodes, counted from 0")
        if not 0 <= self.start_node < nodes:
            raise InputError(f"start_node names one of {nodes} nodes, counted from 0")
        if not (self.grams > -np.inf).all():
            raise InputError("grams are numbers, infinite where a choice cannot be taken")
        given = (self.requests, self.requests_before, self.attained_before, self.attained)
        if not all(np.isfinite(values).all() and np.min(values) >= 0 for values in given):
            raise InputError("requests and attained are finite numbers, 0 or more")
        for name, share in (("target", self.target), ("floor", self.floor)):
            if not np.isfinite(share).all() or np.min(share) < 0 or np.max(share) > 1:
                raise InputError(f"{name} is a share from 0 to 1")
        days = len(self.days)
        for given_by_day in (self.target, self.requests_before, self.attained_before):
            if np.size(given_by_day) not in (1, days):
                raise InputError(f"what is given by day needs one entry for each of {days} days")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Intervals, nodes and choices."""
        intervals, nodes, choices = self.grams.shape
        return intervals, nodes, choices

    @property
    def floored(self) -> NDArray[np.float64]:
        """What floors are held against, ``[T, N, K]``."""
        return self.attained if self.withstood is None else self.withstood

    @cached_property
    def days(self) -> NDArray[np.int64]:
        """The days of the horizon."""
        return np.unique(self.day)

    @cached_property
    def day_index(self) -> NDArray[np.int64]:
        """Place of each interval's day among `days`, ``[T]``."""
        return np.searchsorted(self.days, self.day)

    @cached_property
    def day_requests(self) -> NDArray[np.float64]:
        """Requests of each day, those before the horizon included."""
        return self.by_day(self.requests) + self.requests_before

    @cached_property
    def day_needs(self) -> NDArray[np.float64]:
        """Requests within the SLO that each day still needs, less `TOLERANCE`."""
        slack = TOLERANCE * np.maximum(self.day_requests, 1.0)
        needs: NDArray[np.float64] = self.target * self.day_requests - self.attained_before - slack
        return needs

    @cached_property
    def floor_needs(self) -> NDArray[np.float64]:
        """Requests within the SLO that each interval needs, less `TOLERANCE`."""
        slack = TOLERANCE * np.maximum(self.requests, 1.0)
        needs: NDArray[np.float64] = self.floor * self.requests - slack
        return needs

    def by_day(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum by day of values by interval."""
        return np.bincount(self.day_index, values, len(self.days)).astype(np.float64)

    def met_by(self, plan: Plan) -> bool:
        """Whether ``plan`` can be taken, holds every floor and meets every day's target."""
        floor_slack = TOLERANCE * np.maximum(self.requests, 1.0)
        day_slack = TOLERANCE * np.maximum(self.day_requests, 1.0)
        had = plan.day_attained - self.attained_before
        return (
            bool(np.isfinite(plan.grams))
            and bool((self.floored_by(plan) >= self.floor_needs - floor_slack).all())
            and bool((had >= self.day_needs - day_slack).all())
        )

    def floored_by(self, plan: Plan) -> NDArray[np.float64]:
        """What floors are held against, of the choices of ``plan``, ``[T]``."""
        return self.floored[np.arange(len(plan.choices)), plan.nodes[:-1], plan.choices]

    def follow(self, choices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Nodes in which the intervals begin if ``choices`` are taken; one more than intervals."""
        nodes = np.empty(len(choices) + 1, np.int64)
        nodes[0] = self.start_node
        for t, choice in enumerate(choices):
            nodes[t + 1] = self.next_node[t, nodes[t], choice]
        return nodes


@dataclass(frozen=True, eq=False)
class Plan:
    """A choice for each interval.

    Attributes
    ----------
    choices:
        Choice taken in each interval, ``[T]``.
    nodes:
        Node in which each interval begins, and the one after the last, ``[T + 1]``.
    grams:
        gCO2e of all intervals.
    lower_bound:
        What no plan that meets the needs can be below, in gCO2e.
    attained:
        Requests within the SLO in each interval, ``[T]``.
    day_attained:
        The same by day, with what the day had before the horizon.
    prices:
        gCO2e that one more request within the SLO would cost, by day; 0 where the cheapest plan
        meets the target anyway, and where the solver does not tell.
    solver:
        What found it.
    """

    choices: NDArray[np.int64]
    nodes: NDArray[np.int64]
    grams: float
    lower_bound: float
    attained: NDArray[np.float64]
    day_attained: NDArray[np.float64]
    prices: NDArray[np.float64]
    solver: str

    @property
    def gap(self) -> float:
        """By how much of its grams the plan may be above the best one; 0 if it is the best."""
        if self.lower_bound >= self.grams:
            return 0.0
        return (self.grams - self.lower_bound) / max(abs(self.grams), np.finfo(np.float64).tiny)

    @classmethod
    def of(
        cls,
        instance: Instance,
        choices: NDArray[np.int64],
        solver: str,
        lower_bound: float,
        prices: NDArray[np.float64] | None = None,
    ) -> Plan:
        """The plan that takes ``choices``, as ``solver`` found it."""
        nodes = instance.follow(choices)
        intervals = np.arange(len(choices))
        attained = instance.attained[intervals, nodes[:-1], choices]
        return cls(
            choices=choices,
            nodes=nodes,
            grams=float(instance.grams[intervals, nodes[:-1], choices].sum()),
            lower_bound=lower_bound,
            attained=attained,
            day_attained=instance.by_day(attained) + instance.attained_before,
            prices=np.zeros(len(instance.days)) if prices is None else prices,
            solver=solver,
        )
