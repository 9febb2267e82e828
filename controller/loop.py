"""The control loop: once an interval, from what was seen to the sizes that hold next.

`Controller` is told what happened (`observe`) and asked what to do (`decide`), and within the
interval whether more is needed (`react`). It does no I/O and reads no clock, so the replay and the
daemon run the same one. A decision is the first step of a plan over the coming day, made anew each
interval: a receding horizon.

Fallbacks, each said once and counted:

``learning``
    Nothing is known at first: the largest sizes hold until enough intervals have passed; after a
    restart those that were decided before it.
``infeasible``
    No sizes keep the SLO: the plan asks for as much of it as is worth its carbon, and for least
    carbon then.
``decomposition``
    The integer program's solver is missing, failed or ran out of time: the planner's own
    decomposition, which gives the same plan.
``last plan``
    No plan could be made: what the last one said of this interval.
``largest``
    Nor is there a last one that reaches so far: the largest sizes, which are the safe ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.controller.explain import Facts, explain, explain_growth
from greencache.controller.lookout import View
from greencache.controller.planner import (
    Instance,
    Plan,
    affordable,
    plan,
    plan_ilp,
    relaxed,
    with_lateness,
)
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.telemetry import Telemetry, Window
from greencache.errors import InfeasibleError, PlanningError, SolverError
from greencache.settings import ControlSettings

__all__ = ["Controller", "Decision", "Lookouts", "look_s"]


def look_s(settings: ControlSettings, interval: int, look: int) -> float:
    """When the controller looks.

    Parameters
    ----------
    settings:
        How long intervals are, and how often it looks in each.
    interval, look:
        Which interval since the clock's zero, and which of its looks; it decides at number 0.
    """
    return interval * settings.interval + look * settings.interval / settings.looks


class Lookouts(Protocol):
    """What looks ahead for the controller: `greencache.controller.lookout.Lookout`."""

    def view(self, telemetry: Telemetry, now_s: float) -> View | None:
        """What is to be expected from ``now_s`` on; None if nothing is known yet."""

    def node(self, content_bytes: float, backlog_s: float) -> int:
        """The state of the views' instances that tiers and queue are in."""


@dataclass(frozen=True)
class Decision:
    """What the controller decided at one moment.

    Attributes
    ----------
    now_s:
        When.
    before, sizes:
        Sizes until now, and from now on.
    advised:
        What it would have done, if it may only advise; else ``sizes``.
    reason:
        Why, in one line.
    fallback:
        Which fallback was taken, None if none.
    grams, attained:
        What the plan expects of its whole horizon: gCO2e, and share of requests within the SLO;
        None without a plan.
    notices:
        What is to be said for the first time: bad input, fallbacks.
    """

    now_s: float
    before: Sizes
    sizes: Sizes
    advised: Sizes
    reason: str
    fallback: str | None = None
    grams: float | None = None
    attained: float | None = None
    notices: tuple[str, ...] = ()


class Controller:
    """Sizes the tiers.

    Parameters
    ----------
    lookout:
        What looks ahead.
    candidates:
        Sizes to choose from.
    settings:
        How to decide.
    sizes:
        What holds at first. The largest candidates are taken to be the safe ones.
    earlier_loads:
        As for `greencache.controller.telemetry.Telemetry`.
    decided_before:
        Whether ``sizes`` were decided by another controller that knew what there was to know: then
        they hold while this one learns, instead of the largest.
    """

    def __init__(
        self,
        lookout: Lookouts,
        candidates: Candidates,
        settings: ControlSettings,
        sizes: Sizes,
        *,
        earlier_loads: NDArray[np.float64] | None = None,
        decided_before: bool = False,
    ) -> None:
        self.telemetry = Telemetry(settings.interval, earlier_loads=earlier_loads)
        self.sizes = sizes
        self.fallbacks: Counter[str] = Counter()
        """How often each fallback was taken, and each notice given."""
        self._lookout, self._settings = lookout, settings
        self._candidates = candidates
        self._choices = candidates.pairs()
        self._safe = candidates.largest
        self._last_plan: list[Sizes] = []
        self._decided_before = decided_before
        self._observed_s = 0.0
        self._instance: Instance | None = None
        """What the present interval was planned with; None if it was not planned."""

    def observe(self, window: Window) -> None:
        """Take note of an interval that has passed."""
        self.telemetry.add(window)
        self._observed_s += window.duration_s

    def decide(self, now_s: float) -> Decision:
        """Choose the sizes that hold from ``now_s`` on."""
        view, self._instance = None, None
        try:
            if self._observed_s >= self._settings.learn:
                view = self._lookout.view(self.telemetry, now_s)
            if view is None:
                return self._learning(now_s)
            made, fallback, fault = self._plan(view.instance)
        except PlanningError as without:
            return self._without_plan(now_s, without, () if view is None else view.notices)
        self._instance = view.instance
        planned = [self._choices[choice] for choice in made.choices]
        self._last_plan = planned[1:]
        kept = self._keeping(view.instance)
        sizes, because = planned[0], None
        if kept is not None and sizes != self.sizes and self._alike(view.instance, kept, made):
            sizes, because = self.sizes, "the present sizes: a change would save too little"
        requests = float(view.instance.requests.sum())
        attained = float(made.attained.sum()) / requests if requests else 1.0
        facts = Facts(
            view.gco2_per_kwh,
            self._settings.interval,
            self._candidates.ssd_bytes,
            view.hit_rates[self._candidates.dram_bytes.index(sizes.dram_bytes)],
            attained,
            view.target,
            None if kept is None else kept.grams - made.grams,
            None if kept is None else kept.grams,
            0.0 if kept is None else float((made.attained - kept.attained).sum()),
        )
        reason = explain(facts, self.sizes, sizes, because)
        return self._decided(
            now_s,
            sizes,
            reason,
            fallback,
            made.grams,
            attained,
            fault=fault,
            notices=view.notices,
        )

    def _learning(self, now_s: float) -> Decision:
        if self._decided_before:
            reason = "learning at the sizes that were decided before a restart"
            return self._decided(now_s, self.sizes, reason, "learning")
        return self._decided(now_s, self._safe, "learning at the largest sizes", "learning")

    def react(self, now_s: float, content_bytes: float, backlog_s: float) -> Decision | None:
        """Look within an interval whether it goes worse than it began, and if so, grow.

        Requests that are late are late behind the same burst, which an hourly look finds when it
        is over. The interval's plan is made again from the state that it is in by now. Only what
        that plan has larger is taken: what is to shrink waits for the next `decide`.

        Parameters
        ----------
        now_s:
            When.
        content_bytes, backlog_s:
            What an engine's SSD holds, and the work that waits for it in seconds.

        Returns
        -------
        Decision
            None if nothing changes: no more waits than did at first, the interval was not planned,
            or it is over.
        """
        latest, instance = self.telemetry.latest, self._instance
        if latest is None or instance is None or backlog_s <= latest.backlog_s:
            return None
        if now_s >= latest.end_s + self._settings.interval:
            return None  # whoever asks slept through its end
        node = self._lookout.node(content_bytes, backlog_s)
        made, fallback, fault = self._plan(replace(instance, start_node=node))
        planned = self._choices[made.choices[0]]
        sizes = Sizes(*(max(each) for each in zip(planned, self.sizes, strict=True)))
        if sizes == self.sizes:
            return None
        reason = explain_growth(self.sizes, sizes, latest.backlog_s, backlog_s)
        return self._decided(now_s, sizes, reason, fallback, fault=fault)

    def _plan(self, instance: Instance) -> tuple[Plan, str | None, str | None]:
        """A plan, the fallback it took, and what there is to say of that beside its reason."""
        g_per_request = _least_g_per_request(instance)
        priced = with_lateness(instance, self._settings.spare_price * g_per_request)
        try:
            made, fallback, fault = self._solve(priced)
        except InfeasibleError:
            let_go = relaxed(instance, self._settings.late_price * g_per_request)
            eased = replace(priced, target=let_go.target, floor=let_go.floor)
            made, fallback, fault = plan(eased, gap=_GAP), "infeasible", None
        return Plan.of(instance, made.choices, made.solver, -np.inf), fallback, fault

    def _solve(self, instance: Instance) -> tuple[Plan, str | None, str | None]:
        if self._settings.solver == "ilp":
            try:
                limit_s = self._settings.solver_time
                return plan_ilp(instance, time_limit_s=limit_s, gap=_GAP), None, None
            except SolverError as fault:
                return plan(instance, gap=_GAP), "decomposition", str(fault)
        return plan(instance, gap=_GAP), None, None

    def _keeping(self, instance: Instance) -> Plan | None:
        """The present sizes over the horizon; None if they would miss the SLO."""
        if self.sizes not in self._choices:
            return None
        choices = np.full(len(instance.requests), self._choices.index(self.sizes))
        kept = Plan.of(instance, choices, "kept", -np.inf)
        return kept if instance.met_by(kept) else None

    def _alike(self, instance: Instance, kept: Plan, made: Plan) -> bool:
        """Whether a change saves too little, requests less late counted as what they are worth."""
        less_late = float((made.attained - kept.attained).sum())
        worth = self._settings.spare_price * _least_g_per_request(instance) * less_late
        return kept.grams - made.grams + worth < self._settings.hysteresis * kept.grams

    def _without_plan(
        self, now_s: float, fault: PlanningError, notices: tuple[str, ...]
    ) -> Decision:
        if self._last_plan:
            sizes, self._last_plan = self._last_plan[0], self._last_plan[1:]
            return self._decided(
                now_s, sizes, f"as the last plan said: {fault}", "last plan", notices=notices
            )
        return self._decided(
            now_s, self._safe, f"the largest sizes: {fault}", "largest", notices=notices
        )

    def _decided(
        self,
        now_s: float,
        advised: Sizes,
        reason: str,
        fallback: str | None,
        grams: float | None = None,
        attained: float | None = None,
        *,
        fault: str | None = None,
        notices: tuple[str, ...] = (),
    ) -> Decision:
        before = self.sizes
        if not self._settings.dry_run:
            self.sizes = advised
        said = list(notices)
        if fallback not in (None, "learning"):
            said.append(f"{fallback}: {fault or reason}")
        new = []
        for notice in said:
            kind = notice.partition(":")[0]
            if not self.fallbacks[kind]:
                new.append(notice)
            self.fallbacks[kind] += 1
        return Decision(
            now_s, before, self.sizes, advised, reason, fallback, grams, attained, tuple(new)
        )


def _least_g_per_request(instance: Instance) -> float:
    """Grams of the cheapest sizes, whatever they serve in time, over requests."""
    return affordable(instance, 0.0).grams / max(float(instance.requests.sum()), 1.0)


_GAP = 1e-5
"""By how much of its grams a plan may be above the best: less than any figure in it is known by."""
