"""What steers a simulated run: a schedule given beforehand, or the controller."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup
from greencache.bench.storage import StorageSetup, block_prices
from greencache.bench.windows import content_bytes, prompts_between, waiting_s, window_of
from greencache.controller.demand import EngineLimits, ServiceModel
from greencache.controller.forecasts import Forecast, Forecaster, Perfect, Perturbed, SeasonalNaive
from greencache.controller.lookout import Lookout, RollingForecast
from greencache.controller.loop import Controller, Decision
from greencache.controller.prices import Prices
from greencache.controller.prospects import ProspectsModel
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.shadow import ShadowCaches, ShadowSizes, StoringRules
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.telemetry import Window
from greencache.errors import InputError
from greencache.quantities import DAY_S, HOUR_S
from greencache.settings import ControlSettings
from greencache.tiers.admission import Admission
from greencache.traces.requests import RequestTrace

__all__ = ["Controlled", "Scheduled"]

_LONGEST_PAST_H = 24 * 7 * 53
"""Hours of the grid's past that a forecast looks at."""


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
        self._rolling = RollingForecast(forecaster, 24 * 7)
        self._memo = _forecasts((self._hours.tobytes(), self._first_s, repr(forecaster)))

    def past(self, window: Window) -> float:
        """As `greencache.controller.lookout.IntensitySource`."""
        middle_s = window.start_s + window.duration_s / 2
        return float(self._hours[max(int((middle_s - self._first_s) / HOUR_S), 0)])

    def forecast(self, now_s: float, steps: int) -> Forecast:
        """As `greencache.controller.lookout.IntensitySource`."""
        # Without any past, the hour that begins is taken to be known.
        origin = max(int((now_s - self._first_s) / HOUR_S), 1)
        edges_s = now_s - self._first_s - origin * HOUR_S + np.arange(steps + 1) * self._interval_s
        edges_h = np.maximum(edges_s / HOUR_S, 0.0)
        hourly = self._hourly(origin, max(math.ceil(edges_h[-1]), 1))
        return replace(
            hourly,
            mean=_means(hourly.mean, edges_h),
            quantiles=np.stack([_means(each, edges_h) for each in hourly.quantiles]),
        )

    def _hourly(self, origin: int, hours: int) -> Forecast:
        known = self._memo.get((origin, hours))
        if known is None:
            history = self._hours[max(origin - _LONGEST_PAST_H, 0) : origin]
            known = self._memo[origin, hours] = self._rolling.forecast(history, hours, origin)
        return known


def _means(hourly: NDArray[np.float64], edges_h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over intervals between edges in hours; one without length has its hour's value."""
    sums = np.interp(edges_h, np.arange(len(hourly) + 1), np.append(0.0, np.cumsum(hourly)))
    width_h = np.diff(edges_h)
    at_edge = hourly[np.minimum(edges_h[:-1].astype(np.int64), len(hourly) - 1)]
    means = np.divide(np.diff(sums), width_h, out=at_edge.copy(), where=width_h > 0)
    return np.asarray(means)


def _perturbed(forecaster: Forecaster, settings: ControlSettings, seed: int) -> Forecaster:
    if settings.forecast_bias == 0 and settings.forecast_noise == 0:
        return forecaster
    return Perturbed(forecaster, settings.forecast_bias, settings.forecast_noise, seed)


def _arrivals(trace: RequestTrace, interval_s: float) -> NDArray[np.float64]:
    """Requests that arrive in each interval."""
    counts = np.bincount((trace.arrival_s / interval_s).astype(np.int64))
    return counts.astype(np.float64)


def _earlier_loads(setup: ReplaySetup) -> NDArray[np.float64] | None:
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


def _forecasters(
    setup: ReplaySetup, admitted: RequestTrace, kind: str
) -> tuple[Forecaster, Forecaster]:
    """What forecasts the intensity and the load."""
    settings = setup.control
    period = max(round(DAY_S / settings.interval), 1)
    if kind == "perfect":
        intensity: Forecaster = Perfect(setup.grid.past_and_future)
        load: Forecaster = Perfect(_arrivals(admitted, settings.interval))
    elif kind == "naive":
        intensity, load = SeasonalNaive(), SeasonalNaive(period)
    else:
        intensity, load = LaggedRegression(), ShapeAndLevel(period)
    return _perturbed(intensity, settings, 1), _perturbed(load, settings, 2)


def _lookout(
    setup: ReplaySetup,
    admitted: RequestTrace,
    candidates: Candidates,
    intensity: GridForecast,
    load: Forecaster,
) -> Lookout:
    hardware, factors, settings = setup.hardware, setup.factors, setup.control
    block_bytes = hardware.layout.block_bytes
    storing = _storing_rules(setup, setup.storage(Plan("largest")))
    shadow = ShadowCaches(
        ShadowSizes(
            setup.replicas * int(hardware.kv_bytes // block_bytes),
            tuple(setup.replicas * (size // block_bytes) for size in candidates.dram_bytes),
            tuple(setup.replicas * (size // block_bytes) for size in candidates.ssd_bytes),
        ),
        admitted.block_tokens,
        setup.policy,
        cost_base=storing.prices.compute_j,
        cost_per_depth=storing.prices.compute_j_per_depth,
        load_cost=storing.prices.load_j,
        storing=storing,
    )
    prices = Prices(
        factors,
        hardware.gpus,
        setup.installed.dram_bytes,
        setup.installed.ssd_bytes,
        setup.scope,
        replicas=setup.replicas,
    )
    read_bytes_per_s = factors.ssd_read_bytes_per_s.value
    service = ServiceModel(
        hardware,
        EngineLimits(
            setup.slo.ttft_s,
            setup.slo.tpot_s,
            setup.batching.max_batched_tokens,
            settings.interval,
        ),
        np.array([prices.drives(size) * read_bytes_per_s for size in candidates.ssd_bytes]),
        setup.replicas,
    )
    model = ProspectsModel(
        service,
        prices,
        np.array(candidates.dram_bytes, np.float64),
        np.array(candidates.ssd_bytes, np.float64),
        selective=storing.by_value,
        fill=settings.fill,
    )
    return Lookout(
        shadow,
        model,
        intensity,
        load,
        settings,
        target=setup.slo.target,
        day_start_s=setup.warmup_s,
    )


def _storing_rules(setup: ReplaySetup, storage: StorageSetup) -> StoringRules:
    return StoringRules(
        by_value=storage.admission is Admission.VALUE,
        prices=block_prices(setup.hardware, storage.prices),
        endurance_per_s=storage.prices.endurance_per_s,
    )


class Controlled:
    """Steers by the controller, which sees what a real one would, an interval at a time."""

    def __init__(self, setup: ReplaySetup, admitted: RequestTrace, plan: Plan) -> None:
        self.interval_s = setup.control.interval / setup.control.looks
        self.decisions: list[Decision] = []
        """All decisions so far."""
        self._setup, self._admitted, self._plan = setup, admitted, plan
        candidates = setup.sizes_to_control
        self.largest = Sizes(plan.dram_bytes, plan.ssd_bytes)
        self._storage = setup.storage(plan)
        self._looks = 0
        kind = "perfect" if plan.name == "oracle" else setup.control.forecast
        intensity, load = _forecasters(setup, admitted, kind)
        self._intensity = GridForecast(setup, intensity, setup.control.interval)
        self.lookout = _lookout(setup, admitted, candidates, self._intensity, load)
        self.controller = Controller(
            self.lookout,
            candidates,
            setup.control,
            self.largest,
            earlier_loads=_earlier_loads(setup),
        )

    def _expected_gco2_per_kwh(self, now_s: float) -> float | None:
        """What a write's wear is weighed against; None if nothing is known."""
        try:
            ahead = self._intensity.forecast(now_s, self._setup.control.horizon)
        except InputError:
            return None
        return float(ahead.mean.mean())

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """Do as the controller decides, at an interval's end and when it looks within one."""
        self._looks += 1
        if self._looks % self._setup.control.looks == 0:
            decision: Decision | None = self._decide(now_s, engines)
        else:
            decision = self.controller.react(now_s, content_bytes(engines), waiting_s(engines))
        if decision is None:
            return self._storage
        self.decisions.append(decision)
        plan = replace(self._plan, **decision.sizes._asdict())
        self._storage = self._setup.storage(plan, self._expected_gco2_per_kwh(now_s))
        self.lookout.follow(decision.sizes, _storing_rules(self._setup, self._storage))
        return self._storage

    def _decide(self, now_s: float, engines: e.Engine) -> Decision:
        """Tell the controller of the interval that ends, and ask it."""
        since_s = now_s - self._setup.control.interval
        window = window_of(engines, since_s, now_s, self._setup.slo)
        self.lookout.see(window, prompts_between(self._admitted, engines.requests, since_s, now_s))
        self.controller.observe(window)
        return self.controller.decide(now_s)
