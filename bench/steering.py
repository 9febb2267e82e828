"""What steers a simulated run: a schedule given beforehand, or the controller."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup, storage_of
from greencache.bench.storage import StorageSetup
from greencache.bench.windows import content_bytes, prompts_between, waiting_s, window_of
from greencache.controller.assembly import ControlledEngine, Course, Pilot, forecasters, perturbed
from greencache.controller.forecasts import Forecast, Forecaster, Perfect
from greencache.controller.intensity import LONGEST_PAST_H, REFIT_H, forecast_intervals
from greencache.controller.lookout import RollingForecast
from greencache.controller.loop import Decision, look_s
from greencache.controller.sizes import Sizes
from greencache.controller.storage_prices import StoragePrices
from greencache.controller.telemetry import Window
from greencache.quantities import HOUR_S
from greencache.traces.requests import RequestTrace

__all__ = [
    "Controlled",
    "GridForecast",
    "Scheduled",
    "controlled_engine",
    "earlier_loads",
    "forecasters_of",
    "pilot_of",
    "storage_under",
]

_SEED = 0


@lru_cache(maxsize=64)
def _forecasts(about: tuple[object, ...]) -> dict[tuple[int, int], Forecast]:
    """Forecasts made of a grid so far in this process: many runs ask for the same ones."""
    return {}


class Scheduled:
    """Steers through sizes given beforehand, one for each interval; the last one stays."""

    def __init__(self, setup: ReplaySetup, plan: Plan) -> None:
        self.interval_s = setup.control.interval
        self.largest = Sizes(*(max(each) for each in zip(*plan.schedule, strict=True)))
        self._setup, self._plan = setup, plan

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """What the schedule says of the interval that begins at ``now_s``."""
        schedule = self._plan.schedule
        sizes = schedule[min(round(now_s / self.interval_s), len(schedule) - 1)]
        return self._setup.storage(replace(self._plan, **sizes._asdict()))


class GridForecast:
    """The grid of a replay as its controller may know it: the past, and a forecast.

    Time is the trace's. Before the grid's first hour lies what the series has of the time before.
    The hour that has begun is not known yet.
    """

    def __init__(self, setup: ReplaySetup, forecaster: Forecaster, interval_s: float) -> None:
        grid = setup.grid
        self._interval_s = interval_s
        self._first_s = setup.grid_offset_s - len(grid.earlier_gco2_per_kwh) * HOUR_S
        self._hours = grid.past_and_future
        self._rolling = RollingForecast(forecaster, REFIT_H)
        self._memo = _forecasts((self._hours.tobytes(), self._first_s, repr(forecaster)))

    def past(self, window: Window) -> float:
        """As `greencache.controller.lookout.IntensitySource`."""
        middle_s = window.start_s + window.duration_s / 2
        return float(self._hours[max(int((middle_s - self._first_s) / HOUR_S), 0)])

    def forecast(self, now_s: float, steps: int) -> Forecast:
        """As `greencache.controller.lookout.IntensitySource`."""
        # Without any past, the hour that begins is taken to be known.
        origin = max(int((now_s - self._first_s) / HOUR_S), 1)
        since_s = now_s - self._first_s - origin * HOUR_S
        return forecast_intervals(
            lambda hours: self._hourly(origin, hours), since_s, self._interval_s, steps
        )

    def _hourly(self, origin: int, hours: int) -> Forecast:
        known = self._memo.get((origin, hours))
        if known is None:
            history = self._hours[max(origin - LONGEST_PAST_H, 0) : origin]
            known = self._memo[origin, hours] = self._rolling.forecast(history, hours, origin)
        return known


def _arrivals(trace: RequestTrace, interval_s: float) -> NDArray[np.float64]:
    """Requests that arrive in each interval."""
    counts = np.bincount((trace.arrival_s / interval_s).astype(np.int64))
    return counts.astype(np.float64)


def earlier_loads(setup: ReplaySetup) -> NDArray[np.float64] | None:
    """Requests in each interval before the trace: drawn, as only their rates are known.

    A composed load goes on as if it had been running for ever, and whoever runs a service knows how
    many requests it had. A recorded trace has no time before.
    """
    composed = setup.composed
    if composed is None or composed.earlier_load is None:
        return None
    load, interval_s = composed.earlier_load, setup.control.interval
    intervals = int(len(load.requests_per_s) * load.window_s / interval_s)
    edges = np.arange(len(load.requests_per_s) + 1) * load.window_s
    requests = np.concatenate([[0.0], np.cumsum(load.requests_per_s * load.window_s)])
    ends_s = edges[-1] - np.arange(intervals, -1, -1) * interval_s
    expected = np.diff(np.interp(ends_s, edges, requests))
    return np.asarray(np.random.default_rng(_SEED).poisson(expected), np.float64)


def forecasters_of(
    setup: ReplaySetup, admitted: RequestTrace, plan: Plan
) -> tuple[Forecaster, Forecaster]:
    """What forecasts the intensity and the load."""
    control = setup.control
    if plan.name != "oracle" and control.forecast != "perfect":
        across = setup.grid_offset_s % HOUR_S > 0  # intervals lie across the grid's hours
        return forecasters(control, more_hours=int(across))
    intensity = Perfect(setup.grid.past_and_future)
    load = Perfect(_arrivals(admitted, control.interval))
    return perturbed(intensity, control, 1), perturbed(load, control, 2)


def controlled_engine(setup: ReplaySetup) -> ControlledEngine:
    """What the controller of a replay knows of its engines."""
    return ControlledEngine(
        hardware=setup.hardware,
        factors=setup.factors,
        slo=setup.slo,
        installed=Sizes(setup.installed.dram_bytes, setup.installed.ssd_bytes),
        candidates=setup.sizes_to_control,
        policy=setup.policy,
        admission=setup.admission,
        scope=setup.scope,
        control=setup.control,
        max_batched_tokens=setup.batching.max_batched_tokens,
        replicas=setup.replicas,
        day_start_s=setup.warmup_s,
    )


def pilot_of(setup: ReplaySetup, admitted: RequestTrace, plan: Plan) -> Pilot:
    """What steers a plan."""
    intensity, load = forecasters_of(setup, admitted, plan)
    return Pilot(
        controlled_engine(setup),
        GridForecast(setup, intensity, setup.control.interval),
        load,
        Sizes(plan.dram_bytes, plan.ssd_bytes),
        usual=setup.prices,
        earlier_loads=earlier_loads(setup),
    )


class Controlled:
    """Steers by the controller, which sees what a real one would, look by look."""

    def __init__(self, setup: ReplaySetup, admitted: RequestTrace, plan: Plan) -> None:
        self.interval_s = setup.control.interval / setup.control.looks
        self.decisions: list[Decision] = []
        """All decisions so far."""
        self._setup, self._admitted, self._plan = setup, admitted, plan
        self.largest = Sizes(plan.dram_bytes, plan.ssd_bytes)
        self.pilot = pilot_of(setup, admitted, plan)
        self._storage = setup.storage(plan)
        self._looks = 0

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """Do as the controller decides, at an interval's end and when it looks within one."""
        self._looks += 1
        control = self._setup.control
        interval, look = divmod(self._looks, control.looks)
        now_s = look_s(control, interval, look)
        if look == 0:
            since_s = look_s(control, interval - 1, 0)
            course: Course | None = self._decide(since_s, now_s, engines)
        else:
            course = self.pilot.react(now_s, content_bytes(engines), waiting_s(engines))
        if course is not None:
            decision, prices = course
            self.decisions.append(decision)
            self._storage = storage_under(self._setup, self._plan, decision.sizes, prices)
        return self._storage

    def _decide(self, since_s: float, now_s: float, engines: e.Engine) -> Course:
        """Tell the controller of the interval that ends, and ask it."""
        window = window_of(engines, since_s, now_s, self._setup.slo)
        prompts = prompts_between(self._admitted, engines.requests, since_s, now_s)
        return self.pilot.steer(window, prompts)


def storage_under(
    setup: ReplaySetup, plan: Plan, sizes: Sizes, prices: StoragePrices
) -> StorageSetup:
    """The tiers that a decision makes of a plan's."""
    sized = replace(plan, **sizes._asdict())
    return storage_of(sized, setup.policy, setup.factors, setup.admission, prices)
