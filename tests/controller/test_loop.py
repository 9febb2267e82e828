"""The control loop: what it does with a view of the coming hours, and without one."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from greencache.controller.lookout import View
from greencache.controller.loop import Controller, Decision
from greencache.controller.planner import Instance
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.telemetry import Spread, Telemetry, Window
from greencache.errors import PlanningError
from greencache.quantities import HOUR_S, TB
from greencache.settings import ControlSettings

CANDIDATES = Candidates((0,), (0, TB, 2 * TB))
LARGEST = Sizes(0, 2 * TB)
PROMPT = ControlSettings(learn=HOUR_S, horizon=2, hysteresis=0.01)


def window(hour: int) -> Window:
    nothing = Spread.of(np.zeros(0))
    return Window(
        start_s=hour * HOUR_S,
        duration_s=HOUR_S,
        arrivals=10,
        prompt_tokens=1000,
        output_tokens=100,
        hit_tokens={},
        finished=10,
        within_slo=10,
        ttft=nothing,
        tpot=nothing,
        busy_s=1.0,
        gpu_j=1.0,
        prefill_tokens=1.0,
        prefill_s=1.0,
        prefill_j=1.0,
        read_bytes=0.0,
        written_bytes=0.0,
        declined_bytes=0.0,
        held_blocks=0.0,
        backlog_s=0.0,
    )


def view_of(
    grams: list[list[float]],
    attained: list[list[float]] | None = None,
    *,
    floor: float = 0.0,
    notices: tuple[str, ...] = (),
) -> View:
    """Hours by sizes; no state is carried over."""
    costs = np.array(grams, float)[:, None, :]
    met = np.full(costs.shape, 10.0) if attained is None else np.array(attained, float)[:, None, :]
    hours = len(costs)
    instance = Instance(
        grams=costs,
        attained=met,
        requests=np.full(hours, 10.0),
        next_node=np.zeros(costs.shape, np.int32),
        start_node=0,
        target=0.9,
        floor=floor,
        day=np.zeros(hours, np.int64),
    )
    hits = np.array([[0.1, 0.3, 0.301]])
    return View(instance, np.array([30.0] * (hours - 1) + [60.0]), hits, 0.9, notices)


class Foreseen:
    """Says what it was given, view after view; where that is an error, raises it."""

    def __init__(self, *views: View | PlanningError | None) -> None:
        self.views = list(views)

    def view(self, telemetry: Telemetry, now_s: float) -> View | None:
        said = self.views.pop(0)
        if isinstance(said, PlanningError):
            raise said
        return said

    def node(self, content_bytes: float, backlog_s: float) -> int:
        return int(backlog_s > 60)


def decisions(
    *views: View | PlanningError | None, settings: ControlSettings = PROMPT
) -> tuple[Controller, list[Decision]]:
    controller = Controller(Foreseen(*views), CANDIDATES, settings, LARGEST)
    made = []
    for hour in range(len(views)):
        controller.observe(window(hour))
        made.append(controller.decide((hour + 1) * HOUR_S))
    return controller, made


def test_it_takes_the_first_step_of_the_cheapest_plan_and_says_why() -> None:
    _, (decision,) = decisions(view_of([[5, 3, 4], [5, 3, 4]]))
    assert decision.sizes == Sizes(0, TB)
    assert decision.before == LARGEST
    assert decision.fallback is None
    assert decision.grams == 6.0
    assert decision.reason == (
        "SSD 2 TB to 1 TB: intensity 30 g/kWh for 1 h, then 60, reuse curve flat past 1 TB of SSD, "
        "SLO slack 10 points, saves 25.00% against no change"
    )


def test_what_saves_too_little_is_left_as_it_is() -> None:
    _, (decision,) = decisions(view_of([[5, 3.99, 4], [5, 3.99, 4]]))
    assert decision.sizes == LARGEST
    assert "too little" in decision.reason


def test_what_would_miss_the_slo_is_changed_for_however_little() -> None:
    short = [[10.0, 10.0, 7.0], [10.0, 10.0, 7.0]]
    _, (decision,) = decisions(view_of([[5, 4.01, 4], [5, 4.01, 4]], short))
    assert decision.sizes == Sizes(0, TB)
    assert "not sure enough" in decision.reason


def test_slack_is_told_against_what_is_promised() -> None:
    view = view_of([[5, 3, 4]] * 2, [[9.2] * 3] * 2)
    sure = replace(view.instance, target=0.95)  # more is planned for than was promised
    _, (decision,) = decisions(view._replace(instance=sure))
    assert decision.fallback == "infeasible"
    assert "SLO slack 2 points" in decision.reason


def test_it_learns_before_it_decides() -> None:
    slow = ControlSettings(learn=3 * HOUR_S, horizon=2)
    _, made = decisions(None, None, view_of([[1, 3, 4]] * 2), settings=slow)
    assert [decision.fallback for decision in made[:2]] == ["learning", "learning"]
    assert made[1].sizes == LARGEST


def test_nothing_seen_yet_is_learning_too() -> None:
    _, (decision,) = decisions(None)
    assert (decision.fallback, decision.sizes) == ("learning", LARGEST)


def test_an_slo_that_cannot_be_kept_is_kept_as_far_as_is_worth_it() -> None:
    """A request costs 0.1 g, so one in time may cost 0.5: 3 for a gram, but no half for 7 more."""
    view = view_of([[1, 2, 9]] * 2, [[5.0, 8.0, 8.5]] * 2, floor=0.9)
    controller, (decision, again) = decisions(view, view)
    assert decision.fallback == "infeasible"
    assert decision.sizes == Sizes(0, TB)
    assert len(decision.notices) == 1, "said the first time"
    assert again.notices == ()
    assert controller.fallbacks["infeasible"] == 2
    at_any_price = PROMPT.model_copy(update={"late_price": 1e3})
    assert decisions(view, settings=at_any_price)[1][0].sizes == LARGEST


def test_what_keeps_the_slo_anyway_is_still_worth_something() -> None:
    """A request costs 0.3 g, so one less late is worth 0.15: that pays for 0.1 g, not for 1."""
    worth_it = view_of([[3.0, 3.1, 9.0]] * 2, [[9.2, 9.95, 10.0]] * 2)
    _, (decision,) = decisions(worth_it)
    assert (decision.sizes, decision.grams) == (Sizes(0, TB), 6.2)
    dearer = view_of([[3.0, 4.0, 9.0]] * 2, [[9.2, 9.95, 10.0]] * 2)
    assert decisions(dearer)[1][0].sizes == Sizes(0, 0)
    carbon_alone = PROMPT.model_copy(update={"spare_price": 0.0})
    assert decisions(worth_it, settings=carbon_alone)[1][0].sizes == Sizes(0, 0)


def test_a_change_that_costs_carbon_says_what_for() -> None:
    small = view_of([[2.0, 3.0, 9.0]] * 2)
    better = view_of([[2.0, 2.05, 9.0]] * 2, [[9.1, 10.0, 10.0]] * 2)
    _, made = decisions(small, better)
    assert [each.sizes for each in made] == [Sizes(0, 0), Sizes(0, TB)]
    assert made[1].reason.endswith("costs 2.50% against no change for 2 requests less late")


def test_without_a_plan_the_last_one_holds_and_then_the_largest_size() -> None:
    fault = PlanningError("the solver is gone")
    controller, made = decisions(view_of([[5, 3, 4], [1, 3, 4]]), fault, fault)
    assert [each.fallback for each in made] == [None, "last plan", "largest"]
    assert [each.sizes for each in made] == [Sizes(0, TB), Sizes(0, 0), LARGEST]
    assert "the solver is gone" in made[1].reason
    assert controller.fallbacks == {"last plan": 1, "largest": 1}


def test_an_adviser_changes_nothing() -> None:
    advising = PROMPT.model_copy(update={"dry_run": True})
    controller, (decision,) = decisions(view_of([[5, 3, 4]] * 2), settings=advising)
    assert decision.advised == Sizes(0, TB)
    assert decision.sizes == controller.sizes == LARGEST
    assert decision.reason.startswith("SSD 2 TB to 1 TB")


def queued_view() -> View:
    """An hour in which small sizes do, unless work waits when it begins."""
    made = view_of([[1.0, 2.0, 3.0]])
    instance = replace(
        made.instance,
        grams=np.repeat(made.instance.grams, 2, axis=1),
        attained=np.array([[[10.0, 10.0, 10.0], [5.0, 9.5, 9.6]]]),
        next_node=np.zeros((1, 2, 3), np.int32),
    )
    return made._replace(instance=instance)


def test_it_grows_within_an_hour_in_which_work_piles_up() -> None:
    controller, (made,) = decisions(queued_view())
    assert made.sizes == Sizes(0, 0)
    assert controller.react(HOUR_S + 600, 0.0, 0.0) is None, "nothing waits"
    assert controller.react(HOUR_S + 600, 0.0, 30.0) is None, "the same state"
    reacted = controller.react(HOUR_S + 1200, 0.0, 120.0)
    assert reacted is not None
    assert (reacted.before, reacted.sizes) == (Sizes(0, 0), Sizes(0, TB))
    assert reacted.reason == "SSD 0 to 1 TB: waiting work grew from 0 to 120 s"
    assert controller.sizes == Sizes(0, TB)
    assert controller.react(HOUR_S + 1800, 0.0, 30.0) is None, "shrinking waits for the hour's end"
    assert controller.sizes == Sizes(0, TB)


def test_it_does_not_react_before_it_has_planned_nor_when_it_may_only_advise() -> None:
    learning, _ = decisions(None)
    assert learning.react(600.0, 0.0, 120.0) is None
    adviser, _ = decisions(queued_view(), settings=PROMPT.model_copy(update={"dry_run": True}))
    assert adviser.react(HOUR_S + 600, 0.0, 120.0) is None
    assert adviser.sizes == LARGEST


def test_it_does_not_react_by_a_plan_of_another_interval() -> None:
    slept, _ = decisions(queued_view())
    assert slept.react(2 * HOUR_S, 0.0, 120.0) is None, "the interval is over"
    failing, made = decisions(queued_view(), PlanningError("the solver is gone"))
    assert made[1].fallback == "largest"
    assert failing.react(2 * HOUR_S + 600, 0.0, 120.0) is None


def test_a_notice_is_given_once_and_counted() -> None:
    bad = view_of([[5, 3, 4]] * 2, notices=("intensity: 3 values filled in",))
    controller, (first, second) = decisions(bad, bad)
    assert first.notices == ("intensity: 3 values filled in",)
    assert second.notices == ()
    assert controller.fallbacks["intensity"] == 2


@pytest.mark.parametrize("day_had", [(90.0, 90.0), (90.0, 79.0)])
def test_a_bad_morning_is_made_up_for(day_had: tuple[float, float]) -> None:
    seen = view_of([[5, 3, 4], [5, 3, 4]], [[10, 9, 8], [10, 9, 8]])
    requests, attained = np.array([day_had[0]]), np.array([day_had[1]])
    instance = seen.instance
    known = Instance(
        instance.grams,
        instance.attained,
        instance.requests,
        instance.next_node,
        0,
        0.9,
        0.0,
        instance.day,
        requests,
        attained,
    )
    _, (decision,) = decisions(seen._replace(instance=known))
    assert decision.sizes == (Sizes(0, TB) if attained > 80 else Sizes(0, 0))


def hard_view(seed: int) -> View:
    """One that presolving alone does not solve: states that matter, and a target that binds."""
    generator = np.random.default_rng(seed)
    shape = (24, 60, 3)
    instance = Instance(
        grams=generator.uniform(1, 2, shape),
        attained=generator.uniform(5, 10, shape),
        requests=np.full(24, 10.0),
        next_node=generator.integers(0, 60, shape).astype(np.int32),
        start_node=0,
        target=0.8,
        floor=0.0,
        day=np.zeros(24, np.int64),
    )
    return View(instance, np.full(24, 30.0), np.zeros((1, 3)), 0.9)


def test_an_integer_program_gives_the_same_decision() -> None:
    view = view_of([[5, 3, 4], [5, 3, 4]])
    _, (own,) = decisions(view)
    _, (solved,) = decisions(view, settings=PROMPT.model_copy(update={"solver": "ilp"}))
    assert solved == own


@pytest.mark.parametrize("missing", [True, False])
def test_a_solver_that_is_missing_or_too_slow_is_said_once(
    monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    update = {"solver": "ilp", "solver_time": 10.0 if missing else 1e-9}
    if missing:
        monkeypatch.setitem(sys.modules, "highspy", None)
    views = [hard_view(seed) for seed in range(2)]
    controller, made = decisions(*views, settings=PROMPT.model_copy(update=update))
    _, own = decisions(*views)
    assert [each.sizes for each in made] == [each.sizes for each in own]
    assert [each.fallback for each in made] == ["decomposition"] * 2
    assert [len(each.notices) for each in made] == [1, 0]
    assert controller.fallbacks["decomposition"] == 2
