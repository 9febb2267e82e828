"""Plans against the integer program and against trying all sequences of choices."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings, strategies as st

from greencache.bench.planner_cases import serving_days, tightened
from greencache.controller.plan_network import lay_out
from greencache.controller.planner import (
    Instance,
    Plan,
    affordable,
    plan,
    plan_ilp,
    relaxed,
)
from greencache.errors import InfeasibleError, InputError, PlanningError, SolverError
from tests.controller.plans import brute_force, instances, least_value


def one_day(grams: object, attained: object, *, target: float, floor: float = 0.0) -> Instance:
    """Intervals of 10 requests, one node, and for each choice its grams and what it attains."""
    costs = np.array(grams, np.float64)[:, None, :]
    return Instance(
        grams=costs,
        attained=np.array(attained, np.float64)[:, None, :],
        requests=np.full(len(costs), 10.0),
        next_node=np.zeros(costs.shape, np.int32),
        start_node=0,
        target=target,
        floor=floor,
        day=np.zeros(len(costs), np.int64),
    )


def check(instance: Instance, made: Plan) -> None:
    """A plan is what it says: a path, its grams, and the SLO kept."""
    node, grams = instance.start_node, 0.0
    for t, choice in enumerate(made.choices):
        assert made.nodes[t] == node
        grams += instance.grams[t, node, choice]
        assert made.attained[t] == instance.attained[t, node, choice]
        node = instance.next_node[t, node, choice]
    assert made.nodes[-1] == node
    assert made.grams == pytest.approx(grams)
    assert instance.met_by(made)


@given(instances())
@settings(max_examples=300)
def test_a_plan_is_the_best_of_all_sequences(instance: Instance) -> None:
    best = brute_force(instance)
    if best == np.inf:
        event("infeasible")
        with pytest.raises(InfeasibleError) as told:
            plan(instance)
        fault = told.value
        assert fault.attainable is None or fault.attainable < fault.needed
        assert (fault.day is None) != (fault.interval is None)
        return
    made = plan(instance)
    event("feasible, with a price" if made.prices.any() else "feasible, target slack")
    check(instance, made)
    assert made.grams == pytest.approx(best, rel=1e-12)
    assert made.lower_bound == pytest.approx(best, rel=1e-11)
    assert made.gap == pytest.approx(0.0)


@given(instances())
@settings(max_examples=100)
def test_the_integer_program_finds_the_same(instance: Instance) -> None:
    best = brute_force(instance)
    if best == np.inf:
        with pytest.raises(InfeasibleError):
            plan_ilp(instance)
        return
    made = plan_ilp(instance)
    check(instance, made)
    assert made.grams == pytest.approx(best, rel=1e-12)
    assert made.lower_bound == pytest.approx(best, abs=1e-6)


@given(instances())
@settings(max_examples=100)
def test_with_too_few_labels_the_bound_still_holds(instance: Instance) -> None:
    best = brute_force(instance)
    if best == np.inf:
        return
    few = plan(instance, most_labels=1)
    near = plan(instance, gap=0.25)
    for made in (few, near):
        check(instance, made)
        assert made.lower_bound <= best + 1e-9
        assert made.grams >= best - 1e-9
    assert near.gap <= 0.25


@given(instances(), st.sampled_from([0.0, 0.5, 3.0, 1e4]))
@settings(max_examples=200)
def test_what_cannot_be_kept_is_relaxed_to_what_is_worth_it(
    instance: Instance, g_per_request: float
) -> None:
    try:
        worth = affordable(instance, g_per_request)
    except InputError:
        assert brute_force(replace(instance, floor=0.0, target=0.0)) == np.inf
        return
    lacking = np.maximum(instance.floor * instance.requests - worth.attained, 0.0)
    value = worth.grams + g_per_request * (lacking - worth.attained).sum()
    assert value == pytest.approx(least_value(instance, g_per_request), rel=1e-6, abs=1e-6)
    easier = relaxed(instance, g_per_request)
    made = plan(easier)
    check(easier, made)
    assert made.grams <= worth.grams + 1e-9
    assert (np.asarray(easier.target) <= instance.target).all()
    assert (np.asarray(easier.floor) <= instance.floor).all()
    if instance.met_by(worth):
        assert made.grams == pytest.approx(plan(instance).grams), "nothing was relaxed"


def test_the_last_request_in_time_is_not_bought_at_any_price() -> None:
    """Nine of ten cannot be had: 6 more cost 12 g, and one more than that another 50."""
    instance = one_day([[1, 13, 63]] * 2, [[1, 7, 8]] * 2, target=0.9)
    assert plan(relaxed(instance, 1.0)).choices.tolist() == [0, 0]
    assert plan(relaxed(instance, 5.0)).choices.tolist() == [1, 1]
    assert plan(relaxed(instance, 51.0)).choices.tolist() == [2, 2]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_hours_of_serving_are_planned_as_the_integer_program_does(share: float) -> None:
    """Three hours before midnight and three after, with a target that binds in both days."""
    instance = tightened(serving_days(3, intervals=6, first_hour=21), share)
    made, program = plan(instance), plan_ilp(instance)
    check(instance, made)
    assert made.prices.max() > 0
    assert made.grams == pytest.approx(program.grams, rel=1e-12)
    assert made.lower_bound == made.grams


def test_a_day_with_a_deficit_is_made_up_for() -> None:
    """Two of ten were in time before; eight of ten now give ten of twenty."""
    instance = one_day([[1, 2, 9]], [[2, 8, 10]], target=0.5)
    assert plan(instance).grams == 2
    behind = replace(instance, requests_before=np.array([10.0]), attained_before=np.array([2.0]))
    assert plan(behind).grams == 2
    further = replace(behind, attained_before=np.array([1.0]))
    assert plan(further).grams == 9
    ahead = replace(behind, attained_before=np.array([10.0]))
    made = plan(ahead)
    assert made.grams == 1
    assert made.day_attained == 12
    assert made.prices == 0


def test_the_price_is_what_one_more_request_costs() -> None:
    """From 20 of 40 on, each further request costs 3 g in whichever interval it is served."""
    served = [[0, 5, 10]] * 4
    instance = one_day([[0, 15, 30]] * 4, served, target=0.5)
    made = plan(instance)
    assert made.grams == 60
    assert made.prices == pytest.approx(3)
    assert plan(replace(instance, target=0.625)).grams == 75


def test_a_node_reached_now_pays_later() -> None:
    """A warm tier costs 5 g to fill and saves 3 g in each of three hours after."""
    grams = np.empty((4, 2, 2))
    grams[:, 0] = [10, 15]  # cold: leave it, or fill it
    grams[:, 1] = [10, 7]  # warm: let go, or keep
    next_node = np.broadcast_to(np.array([0, 1], np.int32), (4, 2, 2))
    instance = Instance(
        grams=grams,
        attained=np.full((4, 2, 2), 10.0),
        requests=np.full(4, 10.0),
        next_node=np.ascontiguousarray(next_node),
        start_node=0,
        target=0.9,
        floor=0.0,
        day=np.zeros(4, np.int64),
    )
    assert plan(instance).choices.tolist() == [1, 1, 1, 1]
    assert plan(instance).nodes.tolist() == [0, 1, 1, 1, 1]
    short = replace(
        instance,
        grams=grams[:2],
        attained=instance.attained[:2],
        requests=instance.requests[:2],
        next_node=instance.next_node[:2],
        day=instance.day[:2],
    )
    assert plan(short).choices.tolist() == [0, 0], "too short to pay"


def test_an_infeasible_floor_names_its_interval() -> None:
    instance = one_day([[1, 2], [1, 2], [1, 2]], [[9, 10], [1, 3], [9, 10]], target=0.5, floor=0.4)
    with pytest.raises(InfeasibleError, match=r"interval 1: 4 requests .* 3 can be") as told:
        plan(instance)
    assert (told.value.interval, told.value.day) == (1, None)
    assert told.value.needed == pytest.approx(4)
    assert told.value.attainable == 3
    made = plan(relaxed(instance, 100.0))
    assert made.choices.tolist() == [0, 1, 0], "only the hour that cannot be kept is served at most"


def test_an_infeasible_target_names_its_day() -> None:
    instance = one_day([[1, 2]] * 4, [[5, 9]] * 4, target=0.95)
    instance = replace(instance, day=np.array([3, 3, 4, 4]), target=np.array([0.5, 0.95]))
    with pytest.raises(InfeasibleError, match=r"day 4: 19 requests .* 18 can be") as told:
        plan(instance)
    assert (told.value.interval, told.value.day) == (None, 4)
    assert (told.value.needed, told.value.attainable) == pytest.approx((19, 18))
    assert plan(relaxed(instance, 100.0)).choices.tolist() == [0, 0, 1, 1]
    assert issubclass(InfeasibleError, PlanningError)


def test_hours_without_traffic_need_nothing() -> None:
    instance = one_day([[1, 2]] * 2, [[0, 0]] * 2, target=0.9, floor=0.5)
    idle = replace(instance, requests=np.zeros(2))
    made = plan(idle)
    assert made.choices.tolist() == [0, 0]
    assert made.prices == 0
    assert plan(relaxed(idle, 100.0)).grams == made.grams


def test_the_first_of_equal_choices_is_taken() -> None:
    instance = one_day([[2, 2, 2]] * 3, [[5, 5, 5]] * 3, target=0.5)
    assert plan(instance).choices.tolist() == [0, 0, 0]
    assert affordable(instance, 1.0).choices.tolist() == [0, 0, 0]


def test_dominated_arcs_are_left_out() -> None:
    """Of three choices to the same node the second costs more and attains less than the first."""
    network = lay_out(one_day([[2, 3, 5]], [[5, 4, 8]], target=0.1))
    assert network.choice[: network.degree.sum()].tolist() == [0, 2]


def test_a_solver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = one_day([[1, 2]], [[5, 9]], target=0.9)
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(SolverError, match="pip install pulp highspy"):
        plan_ilp(instance)
    assert plan(instance).grams == 2


def test_a_solver_out_of_time_says_so() -> None:
    instance = tightened(serving_days(3, intervals=8, first_hour=20), 0.9)
    with pytest.raises(SolverError, match="no plan within 1e-06 s"):
        plan_ilp(instance, time_limit_s=1e-6)
    assert plan(instance).gap == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grams": np.full((1, 1, 2), np.nan)}, "grams are numbers"),
        ({"grams": np.zeros((1, 2))}, "a node and a choice"),
        ({"attained": np.zeros((1, 1, 3))}, "same shape"),
        ({"attained": np.full((1, 1, 2), np.inf)}, "finite"),
        ({"requests": np.array([-1.0])}, "0 or more"),
        ({"requests": np.zeros(2)}, "each of 1 intervals"),
        ({"next_node": np.ones((1, 1, 2), np.int32)}, "one of 1 nodes"),
        ({"start_node": 1}, "one of 1 nodes"),
        ({"target": 1.1}, "target is a share"),
        ({"floor": float("nan")}, "floor is a share"),
        ({"requests_before": np.zeros(2)}, "each of 1 days"),
    ],
)
def test_what_is_no_instance_is_refused(changes: dict[str, object], said: str) -> None:
    instance = one_day([[1, 2]], [[5, 9]], target=0.9)
    with pytest.raises(InputError, match=said):
        replace(instance, **changes)  # type: ignore[arg-type]


def test_days_must_ascend() -> None:
    instance = one_day([[1, 2]] * 2, [[5, 9]] * 2, target=0.9)
    with pytest.raises(InputError, match="ascend"):
        replace(instance, day=np.array([1, 0]))
