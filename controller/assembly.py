"""Puts a controller together for an engine, and takes it through an interval.

`ControlledEngine` says what is served, on what, promised how and paid how. From it a `Pilot` makes
the models and the control loop. The replay makes one from a scenario (`greencache.bench.steering`)
and the daemon from settings (`greencache.service.control`): what decides is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.demand import EngineLimits, ServiceModel
from greencache.controller.forecasts import Forecaster, Perturbed, SeasonalNaive
from greencache.controller.lookout import IntensitySource, Lookout
from greencache.controller.loop import Controller, Decision
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, parse_hardware, serving_hardware
from greencache.controller.prices import Prices
from greencache.controller.prompts import Prompts
from greencache.controller.prospects import ProspectsModel
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.shadow import BUDGET_BLOCKS, ShadowCaches, ShadowSizes, StoringRules
from greencache.controller.shape_forecasts import ShapeAndLevel
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.controller.storage_prices import (
    StoragePrices,
    block_costs,
    block_prices,
    g_per_joule,
    load_flops,
    prices_for,
)
from greencache.controller.telemetry import Window
from greencache.errors import InputError
from greencache.factors import Factors
from greencache.quantities import DAY_S, HOUR_S
from greencache.settings import ControlSettings, Settings
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy
from greencache.tiers.rules import CacheRules

__all__ = ["ControlledEngine", "Course", "Pilot", "forecasters", "perturbed"]


@dataclass(frozen=True)
class ControlledEngine:
    """What a controller has to know of the engines whose tiers it sizes.

    Attributes
    ----------
    hardware, factors, slo:
        One engine, what things cost in carbon, and the promise to users.
    installed:
        DRAM and SSD of the machine of each engine.
    candidates:
        Sizes to choose from.
    policy, admission:
        What the tiers evict, and what is stored on SSD.
    scope:
        What embodied carbon is charged for.
    control:
        How to decide.
    max_batched_tokens:
        Tokens of an engine's step.
    replicas:
        Engines that share the load, each with such tiers.
    day_start_s:
        When a day of the SLO begins, on the clock of the windows.
    shadow_blocks:
        Blocks in all shadow caches together.
    """

    hardware: ServingHardware
    factors: Factors
    slo: Slo
    installed: Sizes
    candidates: Candidates
    policy: Policy
    admission: Admission
    scope: Scope = Scope.ATTRIBUTABLE
    control: ControlSettings = field(default_factory=ControlSettings)
    max_batched_tokens: int = 2048
    replicas: int = 1
    day_start_s: float = 0.0
    shadow_blocks: int = BUDGET_BLOCKS

    @classmethod
    def of(
        cls, settings: Settings, block_bytes: int, installed: Sizes, *, least_dram_bytes: int = 0
    ) -> ControlledEngine:
        """The engine that settings name.

        Parameters
        ----------
        settings:
            All of them.
        block_bytes:
            Bytes of a block of its KV, all shards together.
        installed:
            What the tiers may have.
        least_dram_bytes:
            DRAM is not made smaller than this.

        Raises
        ------
        InputError
            If something is unknown, or the model's KV has no blocks of that size.
        """
        engine = settings.engine
        catalog, model = Catalog.load(settings.catalog), find_model(engine.model)
        gpus, gpu_name = parse_hardware(engine.hardware)
        factors = Factors.of(catalog, catalog.part("gpu", gpu_name), settings.carbon.factors)
        token_bytes = model.kv_layout(engine.kv_dtype, block_tokens=1, ranks=gpus).block_bytes
        if block_bytes < token_bytes or block_bytes % token_bytes:
            raise InputError(
                f"blocks of {block_bytes:,} bytes are no whole tokens of {engine.model} with KV in "
                f"{engine.kv_dtype}, of {token_bytes:,} bytes each: set GREENCACHE_ENGINE__MODEL "
                "and GREENCACHE_ENGINE__KV_DTYPE to what the engine serves"
            )
        hardware = serving_hardware(
            catalog,
            model,
            engine.hardware,
            weight_dtype=engine.weight_dtype,
            kv_dtype=engine.kv_dtype,
            block_tokens=block_bytes // token_bytes,
            factors=factors,
        )
        control = settings.control
        candidates = Candidates.of(installed).fixed(control.dram, control.ssd)
        return cls(
            hardware=hardware,
            factors=factors,
            slo=Slo(settings.slo.ttft, settings.slo.tpot, settings.slo.target),
            installed=installed,
            candidates=candidates.at_least(least_dram_bytes).in_blocks(block_bytes),
            policy=Policy.parse(settings.storage.policy),
            admission=Admission.parse(settings.storage.admission),
            scope=settings.carbon.scope,
            control=control,
            max_batched_tokens=engine.max_batched_tokens,
        )

    def prices(self, gco2_per_kwh: float) -> StoragePrices:
        """What storing costs at such an intensity."""
        return prices_for(self.policy, self.admission, self.factors, gco2_per_kwh)

    def storing(self, prices: StoragePrices) -> StoringRules:
        """What decides about storing on SSD."""
        return StoringRules(
            by_value=self.admission is Admission.VALUE,
            prices=block_prices(self.hardware, prices),
            endurance_per_s=prices.endurance_per_s,
        )

    def rules(self, prices: StoragePrices) -> CacheRules:
        """What decides in a cache of such an engine."""
        by_value = self.admission is Admission.VALUE
        return CacheRules(
            policy=self.policy,
            prices=block_prices(self.hardware, prices) if by_value else None,
            endurance_per_s=prices.endurance_per_s,
            **block_costs(self.hardware, load_flops(self.hardware, prices)),
        )

    def shadow(self, storing: StoringRules) -> ShadowCaches:
        """Miniature caches of all candidate sizes."""
        block_bytes = self.hardware.layout.block_bytes
        return ShadowCaches(
            ShadowSizes(
                self.replicas * int(self.hardware.kv_bytes // block_bytes),
                tuple(self.replicas * (size // block_bytes) for size in self.candidates.dram_bytes),
                tuple(self.replicas * (size // block_bytes) for size in self.candidates.ssd_bytes),
            ),
            self.hardware.layout.block_tokens,
            self.policy,
            cost_base=storing.prices.compute_j,
            cost_per_depth=storing.prices.compute_j_per_depth,
            load_cost=storing.prices.load_j,
            storing=storing,
            budget_blocks=self.shadow_blocks,
        )

    def prospects(self, *, selective: bool) -> ProspectsModel:
        """What sizes cost and give; ``selective`` where not all is written to SSD."""
        prices = Prices(
            self.factors,
            self.hardware.gpus,
            self.installed.dram_bytes,
            self.installed.ssd_bytes,
            self.scope,
            replicas=self.replicas,
        )
        read_bytes_per_s = self.factors.ssd_read_bytes_per_s.value
        sizes = self.candidates
        service = ServiceModel(
            self.hardware,
            EngineLimits(
                self.slo.ttft_s, self.slo.tpot_s, self.max_batched_tokens, self.control.interval
            ),
            np.array([prices.drives(size) * read_bytes_per_s for size in sizes.ssd_bytes]),
            self.replicas,
        )
        return ProspectsModel(
            service,
            prices,
            np.array(sizes.dram_bytes, np.float64),
            np.array(sizes.ssd_bytes, np.float64),
            selective=selective,
            fill=self.control.fill,
        )


def perturbed(forecaster: Forecaster, control: ControlSettings, seed: int) -> Forecaster:
    """The same with the errors that the settings put into it on purpose, if they do."""
    if control.forecast_bias == 0 and control.forecast_noise == 0:
        return forecaster
    return Perturbed(forecaster, control.forecast_bias, control.forecast_noise, seed)


def forecasters(control: ControlSettings, *, more_hours: int = 0) -> tuple[Forecaster, Forecaster]:
    """What forecasts the intensity, hour by hour, and the load, interval by interval.

    Parameters
    ----------
    control:
        How to decide.
    more_hours:
        Hours beyond the horizon for which the intensity is asked.

    Raises
    ------
    InputError
        If forecasts are to be perfect: nobody can.
    """
    period = max(round(DAY_S / control.interval), 1)
    if control.forecast == "perfect":
        raise InputError(
            "GREENCACHE_CONTROL__FORECAST=perfect: only a replay knows what comes; use model"
        )
    if control.forecast == "naive":
        intensity: Forecaster = SeasonalNaive()
        load: Forecaster = SeasonalNaive(period)
    else:
        hours = math.ceil(control.horizon * control.interval / HOUR_S) + more_hours
        intensity, load = LaggedRegression(horizon=max(hours, 24)), ShapeAndLevel(period)
    return perturbed(intensity, control, 1), perturbed(load, control, 2)


class Course(NamedTuple):
    """What holds from now on: the decision, and what storing on SSD costs."""

    decision: Decision
    prices: StoragePrices


class Pilot:
    """Takes the controller of an engine from interval to interval.

    Parameters
    ----------
    engine:
        What is controlled.
    intensity:
        The grid.
    load:
        Forecasts the load.
    sizes:
        What holds at first.
    usual:
        What storing costs where nothing is known of the grid.
    earlier_loads:
        As for `greencache.controller.telemetry.Telemetry`.
    decided_before:
        As for `greencache.controller.loop.Controller`.
    """

    def __init__(
        self,
        engine: ControlledEngine,
        intensity: IntensitySource,
        load: Forecaster,
        sizes: Sizes,
        *,
        usual: StoragePrices,
        earlier_loads: NDArray[np.float64] | None = None,
        decided_before: bool = False,
    ) -> None:
        self.engine, self._intensity, self._usual = engine, intensity, usual
        storing = engine.storing(usual)
        self.lookout = Lookout(
            engine.shadow(storing),
            engine.prospects(selective=storing.by_value),
            intensity,
            load,
            engine.control,
            target=engine.slo.target,
            day_start_s=engine.day_start_s,
        )
        self.controller = Controller(
            self.lookout,
            engine.candidates,
            engine.control,
            sizes,
            earlier_loads=earlier_loads,
            decided_before=decided_before,
        )

    def steer(self, window: Window, prompts: Prompts) -> Course:
        """Learn of an interval that has passed, and decide on the next."""
        self.lookout.see(window, prompts)
        self.controller.observe(window)
        return self._course(self.controller.decide(window.end_s))

    def react(self, now_s: float, content_bytes: float, backlog_s: float) -> Course | None:
        """Look within an interval: as `greencache.controller.loop.Controller.react`."""
        decision = self.controller.react(now_s, content_bytes, backlog_s)
        return None if decision is None else self._course(decision)

    def _course(self, decision: Decision) -> Course:
        prices = self._prices(decision.now_s)
        self.lookout.follow(decision.sizes, self.engine.storing(prices))
        return Course(decision, prices)

    def _prices(self, now_s: float) -> StoragePrices:
        """What a write's wear is weighed against: the intensity that is expected."""
        try:
            ahead = self._intensity.forecast(now_s, self.engine.control.horizon)
        except InputError:
            return self._usual
        gco2_per_kwh = float(ahead.mean.mean())
        prices = self.engine.prices(gco2_per_kwh)
        served_g = self.lookout.served_g_per_byte
        return replace(
            prices, served_j_per_byte=served_g / g_per_joule(self.engine.factors, gco2_per_kwh)
        )
