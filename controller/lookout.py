"""What is to be expected at each size, hour by hour: forecasts, reuse and models put together.

`Lookout` is fed what happened, an interval at a time, and asked for a `View` of the coming ones. It
learns the reuse at every size from the prompts (`greencache.controller.shadow`), corrects its
models by what they said of the interval that passed (`greencache.controller.calibration`), and
forecasts load from telemetry.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.controller.calibration import Calibration
from greencache.controller.forecasts import Fitted, Forecast, Forecaster
from greencache.controller.planner import Instance
from greencache.controller.prompts import Prompts
from greencache.controller.prospects import Expected, Outlook, ProspectsModel
from greencache.controller.risk import Days, planned_targets
from greencache.controller.served import needs_storage, served_g_per_byte
from greencache.controller.shadow import ShadowCaches, StoringRules
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Telemetry, Window
from greencache.errors import InputError, PlanningError
from greencache.quantities import DAY_S
from greencache.settings import ControlSettings

__all__ = ["IntensitySource", "Lookout", "RollingForecast", "View", "learned_from"]

Floats = NDArray[np.float64]

_SCENARIOS = (np.arange(8) + 0.5) / 8
"""Quantiles of the load's forecast that stand for its distribution."""


class View(NamedTuple):
    """What is expected of the coming intervals.

    Attributes
    ----------
    instance:
        What each choice of sizes costs and gives; choices in the order of `Candidates.pairs`.
    gco2_per_kwh:
        Expected carbon intensity in each interval.
    hit_rates:
        Prompt tokens found in any tier per prompt token, by DRAM and SSD size.
    target:
        Share of each day's requests that is promised; the instance's is higher, to be sure of it.
    notices:
        What was wrong with the input, and what was taken instead.
    """

    instance: Instance
    gco2_per_kwh: NDArray[np.float64]
    hit_rates: NDArray[np.float64]
    target: float
    notices: tuple[str, ...] = ()


class IntensitySource(Protocol):
    """Where the carbon intensity of the grid is known from."""

    def past(self, window: Window) -> float:
        """Mean intensity of an interval that has passed, in gCO2e/kWh."""

    def forecast(self, now_s: float, steps: int) -> Forecast:
        """Intensity of the intervals that begin at ``now_s``."""


class RollingForecast:
    """A forecaster that is fitted anew now and then, and rolled on in between.

    Parameters
    ----------
    forecaster:
        What forecasts.
    refit_every:
        Steps after which it is fitted anew.
    """

    def __init__(self, forecaster: Forecaster, refit_every: int = 24) -> None:
        self._forecaster, self._refit_every = forecaster, refit_every
        self._fitted: Fitted | None = None
        self._fitted_at = self._fitted_to = 0

    def forecast(self, history: NDArray[np.float64], steps: int, origin: int) -> Forecast:
        """As `greencache.controller.forecasts.Fitted.forecast`."""
        # A short history is soon another one: what was fitted to six hours is not kept for a day.
        due = min(self._refit_every, max(self._fitted_to // 4, 1))
        if self._fitted is None or origin - self._fitted_at >= due:
            self._fitted = self._forecaster.fit(history, origin)
            self._fitted_at, self._fitted_to = origin, len(history)
        return self._fitted.forecast(history, steps, origin)


class Lookout:
    """Looks ahead for the controller.

    Parameters
    ----------
    shadow:
        Miniature caches of all candidate sizes; of several engines, so many times as large, since
        they see the requests of all.
    model:
        Makes the planner's instance of reuse and forecasts.
    intensity:
        The grid.
    load:
        Forecasts the load from telemetry.
    settings:
        How to decide.
    target:
        Share of a day's requests that must be within the SLO.
    day_start_s:
        When a day of the SLO begins.
    """

    def __init__(
        self,
        shadow: ShadowCaches,
        model: ProspectsModel,
        intensity: IntensitySource,
        load: Forecaster,
        settings: ControlSettings,
        *,
        target: float,
        day_start_s: float = 0.0,
    ) -> None:
        self.calibration = Calibration()
        self.shadow, self._model, self._intensity = shadow, model, intensity
        self._load = RollingForecast(load, round(DAY_S / settings.interval) or 1)
        self._settings, self._day_start_s = settings, day_start_s
        self._target = target
        self._replicas = model.service.replicas
        self._content_bytes = self._backlog_s = 0.0
        self._planned = np.full(len(model.choices), np.nan)
        """Share in time that the coming interval should have, by choice."""
        self._chosen = 0
        self.served_g_per_byte = 0.0
        """What KV found on SSD saves in DRAM, where the SLO needs one of them; else 0."""

    def see(self, window: Window, prompts: Prompts) -> None:
        """Learn from an interval that has passed, and from the prompts that arrived in it."""
        profile = self.shadow.profile()
        content_bytes = window.used_bytes["ssd"]
        if len(profile.sample.gaps) and window.arrivals:
            expected = self._model.expected(
                profile,
                float(window.arrivals),
                self._intensity.past(window),
                dram_bytes=window.capacity_bytes["dram"],
                content_bytes=(self._content_bytes + content_bytes) / 2,
                ssd_bytes=window.capacity_bytes["ssd"],
                backlog_s=self._backlog_s,
                calibration=self.calibration,
            )
            self.calibration = learned_from(self.calibration, expected, window)
        self.calibration = self.calibration.with_misses(
            float(self._planned[self._chosen]), window.attainment, window.finished
        )
        self._content_bytes, self._backlog_s = content_bytes, window.backlog_s
        self.shadow.observe(prompts, window.end_s)
        self.shadow.hold(self._replicas * window.held_blocks, window.end_s)
        self.shadow.end_interval(window.start_s, window.duration_s)

    def node(self, content_bytes: float, backlog_s: float) -> int:
        """The state of views' instances that tiers and queue are in."""
        return self._model.node(content_bytes, backlog_s)

    def follow(self, sizes: Sizes, storing: StoringRules) -> None:
        """Take note of the sizes that hold from now on, and of what decides about storing."""
        self._chosen = self._model.choice(sizes.dram_bytes, sizes.ssd_bytes)
        self.shadow.follow(storing)

    def _targets(
        self, requests: Floats, day: NDArray[np.int64], before: Floats, now_s: float
    ) -> Floats:
        """What to plan for of each day: ``requests`` and ``day`` by interval, ``before`` by day."""
        ahead_s = np.bincount(day - day[0]) * self._settings.interval
        left_s = np.full(len(ahead_s), DAY_S)
        left_s[0] -= (now_s - self._day_start_s) % DAY_S
        days = Days(
            requests_before=before[:, 0],
            missed_before=before[:, 0] - before[:, 1],
            requests_ahead=np.bincount(day - day[0], requests).astype(np.float64),
            share_ahead=np.minimum(ahead_s / left_s, 1.0),
        )
        return planned_targets(
            self._target, self._settings.certainty, self.calibration.clumping, days
        )

    def view(self, telemetry: Telemetry, now_s: float) -> View | None:
        """What is to be expected from ``now_s`` on; None before any request was seen.

        Raises
        ------
        PlanningError
            If there is nothing to forecast from.
        """
        profile, latest = self.shadow.profile(), telemetry.latest
        if latest is None or len(profile.sample.gaps) == 0:
            return None
        steps = self._settings.horizon
        origin = round(now_s / self._settings.interval)
        try:
            intensity = self._intensity.forecast(now_s, steps)
            load = self._load.forecast(telemetry.loads(), steps, origin)
        except InputError as fault:
            raise PlanningError(f"no forecast: {fault}") from None
        prospects = self._model.instance(
            profile,
            Outlook(
                load.mean,
                load.quantile(_SCENARIOS),
                load.quantile(self._settings.load_quantile),
                intensity.mean,
            ),
            content_bytes=latest.used_bytes["ssd"],
            backlog_s=latest.backlog_s,
            calibration=self.calibration,
        )
        begins_s = now_s + np.arange(steps) * self._settings.interval
        day = np.floor((begins_s - self._day_start_s) / DAY_S).astype(np.int64)
        days = np.unique(day)
        before = np.zeros((len(days), 2))
        for window in telemetry.windows[-round(DAY_S / self._settings.interval) :]:
            if np.floor((window.start_s - self._day_start_s) / DAY_S) == days[0]:
                before[0] += window.finished, window.within_slo
        instance = Instance(
            grams=prospects.grams,
            attained=prospects.attained,
            requests=prospects.requests,
            next_node=prospects.next_node.astype(np.int32),
            start_node=prospects.start_node,
            target=self._targets(prospects.requests, day, before, now_s),
            floor=self._settings.floor,
            day=day,
            requests_before=before[:, 0],
            attained_before=before[:, 1],
            withstood=prospects.withstood,
        )
        self.served_g_per_byte = 0.0
        if needs_storage(instance):
            requests, gco2_per_kwh = float(load.mean.mean()), float(intensity.mean.mean())
            self.served_g_per_byte = served_g_per_byte(self._model, profile, requests, gco2_per_kwh)
        first, expected = prospects.attained[0, prospects.start_node], prospects.requests[0]
        # Where no request is expected, no share of them is.
        self._planned = first / expected if expected > 0 else np.full(len(first), np.nan)
        notices = []
        if intensity.filled:
            notices.append("intensity: values of its past are missing or no numbers, and filled in")
        if load.filled:
            notices.append("load: intervals without telemetry are filled in")
        hit_rates = profile.found.sum(axis=-1)
        return View(instance, intensity.mean, hit_rates, self._target, tuple(notices))


def learned_from(calibration: Calibration, expected: Expected, window: Window) -> Calibration:
    """Corrections after an interval that has passed, and what they said of it."""
    return calibration.with_prompts(
        expected.prefill_s, window.prefill_s, expected.prefill_j, window.prefill_j
    ).with_attainment(expected.attainment, window.attainment, window.finished)
