"""What to replay, as users say it, and how that becomes something to run.

The command line and a sweep's file say the same things by the same names; both end here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from greencache.bench.accounting import Installed
from greencache.bench.grids import find_grid
from greencache.bench.plans import Plan, parse_plans
from greencache.bench.setup import ReplaySetup, control_over, storage_of
from greencache.bench.simulation import BIN_S, Batching
from greencache.bench.storage import StorageSetup
from greencache.bench.workload import (
    LoadPoint,
    busiest_hour_rate,
    busiest_hour_share,
    saturation_of_trace,
    saturation_of_workload,
    warmup_hours,
)
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, parse_hardware, serving_hardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.controller.storage_prices import StoragePrices, prices_for
from greencache.errors import InputError, UnknownNameError
from greencache.factors import Factors
from greencache.quantities import HOUR_S, parse_bytes, parse_s
from greencache.settings import Settings, SloSettings
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy
from greencache.traces.compose import ComposedWorkload, compose
from greencache.traces.grid import GridSeries
from greencache.traces.loads import find_load
from greencache.traces.mooncake import MOONCAKE_BLOCK_TOKENS
from greencache.traces.requests import RequestTrace
from greencache.traces.source import TraceSource

__all__ = [
    "DEFAULT_PLANS",
    "PRICED_BY",
    "SATURATING",
    "CarbonSide",
    "Scenario",
    "build",
    "carbon_side",
    "likely_prices",
]

DEFAULT_PLANS = "none,hbm-only,full,best-static"
SATURATING = "saturation"
"""What progress calls the search for the load that saturates."""

_DEFAULT_LOAD = "m-large"
_DEFAULT_FRACTION = 0.6
_DEFAULT_HOURS = 24.0
_MOST_HOURS = 24.0 * 366
_MOST_REPLICAS = 1024
_DEFAULT_WARMUP_SHARE = 1 / 6
_DOCUMENT_TTFT_S = 15.0
"""Promised where documents are asked about and nothing else is said: their prompts are long."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to replay; None where a setting or a default holds. Named as on the command line.

    Texts hold quantities with their units, as ``16TB`` or ``10min``.
    """

    trace: Path | None = None
    format: str | None = None
    block_tokens: int | None = None
    skip_bad: bool = False
    workload: str | None = None
    load: str | None = None
    load_fraction: float | None = None
    mean_rate: float | None = None
    hours: float | None = None
    warmup_hours: float | None = None
    seed: int | None = None
    replicas: int = 1
    plans: str = DEFAULT_PLANS
    policy: str | None = None
    admission: str | None = None
    model: str | None = None
    hardware: str | None = None
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    dram: str | None = None
    ssd: str | None = None
    dram_step: str | None = None
    ssd_step: str | None = None
    ssd_kg_per_tb: float | None = None
    grid: str | None = None
    grid_start: str | None = None
    warmup: str | None = None
    slo_ttft: str | None = None
    slo_tpot: str | None = None
    scope: str | None = None
    factors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def option_names(cls) -> list[str]:
        """What a scenario can say."""
        return [each.name for each in fields(cls)]

    @property
    def source(self) -> TraceSource:
        """The trace that is named, or the default one.

        Raises
        ------
        UnknownNameError
            If it is neither one that ships nor a file.
        """
        return TraceSource.of(self.trace, self.format, self.block_tokens, self.skip_bad)


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise UnknownNameError("scope", text, [scope.value for scope in Scope]) from None


def _limit_s(name: str, option: str | None, setting_s: float) -> float:
    limit_s = setting_s if option is None else parse_s(option)
    if limit_s <= 0:
        raise InputError(f"{name} must be more than 0, not {option}")
    return limit_s


def _slo(scenario: Scenario, setting: SloSettings) -> Slo:
    ttft_s = setting.ttft
    if scenario.workload == "document" and "ttft" not in setting.model_fields_set:
        ttft_s = _DOCUMENT_TTFT_S
    return Slo(
        _limit_s("--slo-ttft", scenario.slo_ttft, ttft_s),
        _limit_s("--slo-tpot", scenario.slo_tpot, setting.tpot),
        setting.target,
    )


def _refuse(scenario: Scenario, names: tuple[str, ...], reason: str) -> None:
    given = [name for name in names if getattr(scenario, name) is not None]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} {reason}")


def _check(scenario: Scenario) -> None:
    """Refuse what does not go together, before anything is read."""
    if scenario.load_fraction is not None and scenario.mean_rate is not None:
        raise InputError("give --load-fraction or --mean-rate, not both")
    if scenario.load_fraction is not None and not 0 < scenario.load_fraction <= 2:
        raise InputError(
            f"--load-fraction is more than 0 and at most 2, not {scenario.load_fraction:g}"
        )
    if scenario.hours is not None and not 0 < scenario.hours <= _MOST_HOURS:
        raise InputError(
            f"--hours is more than 0 and at most {_MOST_HOURS:g}, not {scenario.hours:g}"
        )
    if scenario.warmup_hours is not None and not 0 <= scenario.warmup_hours <= _MOST_HOURS:
        raise InputError(
            f"--warmup-hours lies in 0..{_MOST_HOURS:g}, not {scenario.warmup_hours:g}"
        )
    if not 1 <= scenario.replicas <= _MOST_REPLICAS:
        raise InputError(f"--replicas lies in 1..{_MOST_REPLICAS}, not {scenario.replicas}")
    if scenario.workload is None:
        of_workloads = ("load", "hours", "warmup_hours", "seed")
        _refuse(scenario, of_workloads, "is for composed workloads; name one with --workload")
    else:
        if scenario.trace is not None:
            raise InputError(f"give a trace ({scenario.trace}) or --workload, not both")
        if scenario.skip_bad:
            raise InputError("--skip-bad is for traces")
        _refuse(scenario, ("format",), "is for traces")
        _refuse(scenario, ("warmup",), "is for traces; a workload takes --warmup-hours")


class _Builder:
    """Puts a replay together, step by step, each from those before it."""

    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        on_progress: Callable[[str, float], None] | None,
    ) -> None:
        _check(scenario)
        engine, storage = settings.engine, settings.storage
        self.scenario, self.settings = scenario, settings
        self.on_progress = on_progress
        # Cheap checks first: a mistyped name should not wait for a trace to be read.
        self.policy = Policy.parse(scenario.policy or storage.policy)
        self.admission = Admission.parse(scenario.admission or storage.admission)
        self.scope = settings.carbon.scope if scenario.scope is None else _scope(scenario.scope)
        self.slo = _slo(scenario, settings.slo)
        self.model = find_model(engine.model if scenario.model is None else scenario.model)
        self.installed = Installed(
            storage.dram if scenario.dram is None else parse_bytes(scenario.dram),
            storage.ssd if scenario.ssd is None else parse_bytes(scenario.ssd),
        )
        self.candidates = Candidates.of(
            Sizes(self.installed.dram_bytes, self.installed.ssd_bytes),
            dram_step_bytes=None if scenario.dram_step is None else parse_bytes(scenario.dram_step),
            ssd_step_bytes=None if scenario.ssd_step is None else parse_bytes(scenario.ssd_step),
        )
        self.plans = parse_plans(scenario.plans, self.installed)
        self.batching = Batching(engine.max_batched_tokens, engine.max_running)
        self.catalog = Catalog.load(settings.catalog)
        chosen = {**settings.carbon.factors, **scenario.factors}
        if scenario.ssd_kg_per_tb is not None:
            chosen["ssd_kg_per_tb"] = scenario.ssd_kg_per_tb
        self.hardware_name = engine.hardware if scenario.hardware is None else scenario.hardware
        _, gpu_name = parse_hardware(self.hardware_name)
        self.factors = Factors.of(self.catalog, self.catalog.part("gpu", gpu_name), chosen)
        self.grid = find_grid(
            settings.grid.zone if scenario.grid is None else scenario.grid,
            settings.grid.start if scenario.grid_start is None else scenario.grid_start,
        )

    def _hardware(self, block_tokens: int) -> ServingHardware:
        scenario, engine = self.scenario, self.settings.engine
        return serving_hardware(
            self.catalog,
            self.model,
            self.hardware_name,
            weight_dtype=scenario.weight_dtype or engine.weight_dtype,
            kv_dtype=scenario.kv_dtype or engine.kv_dtype,
            block_tokens=block_tokens,
            factors=self.factors,
        )

    @property
    def _full(self) -> StorageSetup:
        """Everything installed, whose saturation load fractions refer to.

        All is written: a load must not depend on the grid that it is valued on.
        """
        full = Plan(
            "full", dram_bytes=self.installed.dram_bytes, ssd_bytes=self.installed.ssd_bytes
        )
        return storage_of(full, self.policy, self.factors)

    def _saturating(self, share: float) -> None:
        if self.on_progress is not None:
            self.on_progress(SATURATING, share)

    def of_trace(self) -> ReplaySetup:
        scenario = self.scenario
        trace = scenario.source.read()
        hardware = self._hardware(trace.block_tokens)
        saturation = None
        rate = scenario.mean_rate
        if scenario.load_fraction is not None:
            saturation = saturation_of_trace(
                trace, hardware, self._full, self.batching, scenario.replicas, self._saturating
            )
            rate = scenario.load_fraction * saturation
            stretched = trace.at_mean_rate(rate)
            rate *= stretched.mean_rate / busiest_hour_rate(stretched)
        if rate is not None:
            trace = trace.at_mean_rate(rate)
        point = None
        if trace.duration_s:
            busiest = busiest_hour_rate(trace)
            point = LoadPoint(trace.mean_rate, busiest, saturation, scenario.load_fraction)
        return self._setup(trace, hardware, self._warmup_s(trace), point, None)

    def _warmup_s(self, trace: RequestTrace) -> float:
        text = self.scenario.warmup
        share_s = trace.duration_s * _DEFAULT_WARMUP_SHARE
        asked_s = share_s if text is None else parse_s(text)
        if text is not None and asked_s > trace.duration_s:
            raise InputError(f"--warmup {text} is longer than the trace ({trace.duration_s:.0f} s)")
        return asked_s // BIN_S * BIN_S

    def of_workload(self, workload: str) -> ReplaySetup:
        scenario = self.scenario
        load = find_load(scenario.load or _DEFAULT_LOAD)
        hours = _DEFAULT_HOURS if scenario.hours is None else scenario.hours
        seed = scenario.seed or 0
        hardware = self._hardware(scenario.block_tokens or MOONCAKE_BLOCK_TOKENS)
        peak = busiest_hour_share(load, hours)
        fraction = saturation = None
        rate = scenario.mean_rate
        if rate is None:
            fraction = scenario.load_fraction or _DEFAULT_FRACTION
            saturation = saturation_of_workload(
                workload,
                scenario.block_tokens,
                hardware,
                self._full,
                self.batching,
                scenario.replicas,
                seed,
                self._saturating,
            )
            rate = fraction * saturation / peak
        if scenario.warmup_hours is not None:
            warmup = scenario.warmup_hours * HOUR_S // BIN_S * BIN_S / HOUR_S
        else:
            largest_bytes = max(plan.largest_tier_bytes for plan in self.plans)
            warmup = warmup_hours(
                workload,
                rate,
                scenario.replicas * largest_bytes,
                hardware.layout.block_bytes,
                scenario.block_tokens,
            )
        composed = compose(
            workload,
            load,
            hours=hours,
            warmup_hours=warmup,
            mean_rate=rate,
            seed=seed,
            block_tokens=scenario.block_tokens,
        )
        point = LoadPoint(rate, rate * peak, saturation, fraction)
        return self._setup(composed.trace, hardware, composed.warmup_s, point, composed)

    def _setup(
        self,
        trace: RequestTrace,
        hardware: ServingHardware,
        warmup_s: float,
        load: LoadPoint | None,
        composed: ComposedWorkload | None,
    ) -> ReplaySetup:
        return ReplaySetup(
            trace=trace,
            hardware=hardware,
            factors=self.factors,
            grid=self.grid,
            slo=self.slo,
            installed=self.installed,
            policy=self.policy,
            admission=self.admission,
            scope=self.scope,
            warmup_s=warmup_s,
            batching=self.batching,
            replicas=self.scenario.replicas,
            load=load,
            composed=composed,
            candidates=self.candidates,
            control=control_over(self.settings.control, trace.duration_s),
        )


def build(
    scenario: Scenario,
    settings: Settings,
    *,
    on_progress: Callable[[str, float], None] | None = None,
) -> tuple[ReplaySetup, list[Plan]]:
    """Read, compose and look up all that a scenario names.

    Parameters
    ----------
    scenario:
        What to replay.
    settings:
        What holds where the scenario says nothing.
    on_progress:
        Called with `SATURATING` and a share while the load that saturates is searched for.

    Raises
    ------
    InputError
        If anything that it names cannot be used; the text says what to do.
    """
    builder = _Builder(scenario, settings, on_progress)
    if scenario.workload is None:
        return builder.of_trace(), builder.plans
    return builder.of_workload(scenario.workload), builder.plans


@dataclass(frozen=True, slots=True)
class CarbonSide:
    """What only `greencache.bench.replay.value` asks for: how grams are counted, not what is run.

    Of the factors, those in `SIMULATED_FACTORS` are run with.
    """

    factors: Factors
    grid: GridSeries
    scope: Scope

    def of(self, setup: ReplaySetup) -> ReplaySetup:
        """The same replay, its grams counted this way."""
        return replace(setup, factors=self.factors, grid=self.grid, scope=self.scope)


def carbon_side(scenario: Scenario, settings: Settings) -> CarbonSide:
    """The carbon side of what `build` makes, without reading or composing a trace.

    Raises
    ------
    InputError
        If the scenario is refused before its trace is read.
    """
    builder = _Builder(scenario, settings, None)
    return CarbonSide(builder.factors, builder.grid, builder.scope)


PRICED_BY = (
    "policy",
    "admission",
    "hardware",
    "factors",
    "ssd_kg_per_tb",
    "grid",
    "grid_start",
    "workload",
    "hours",
)
"""What `likely_prices` look at."""


def likely_prices(scenario: Scenario, settings: Settings) -> StoragePrices:
    """`ReplaySetup.prices` of what `build` makes, without reading a trace: likely, not sure.

    The grid is taken as it is on average over the hours of a workload, or over the first hour.

    Raises
    ------
    InputError
        If the scenario is refused before its trace is read.
    """
    builder = _Builder(replace(scenario, plans="hbm-only"), settings, None)
    hours = 1.0
    if scenario.workload is not None:
        hours = _DEFAULT_HOURS if scenario.hours is None else scenario.hours
    at_s = np.arange(0.0, min(hours, len(builder.grid)) * HOUR_S, BIN_S)
    mean = float(builder.grid.at(at_s).mean())
    return prices_for(builder.policy, builder.admission, builder.factors, mean)
