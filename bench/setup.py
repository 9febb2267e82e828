"""All that a replay is run with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from greencache.bench.accounting import Installed
from greencache.bench.plans import Plan
from greencache.bench.simulation import BIN_S, Batching, deadline_s
from greencache.bench.storage import StorageSetup
from greencache.bench.workload import LoadPoint
from greencache.carbon import Scope
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.controller.storage_prices import StoragePrices, prices_for
from greencache.factors import Factors
from greencache.quantities import HOUR_S
from greencache.settings import ControlSettings
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy
from greencache.traces.compose import ComposedWorkload
from greencache.traces.grid import GridSeries
from greencache.traces.requests import RequestTrace

__all__ = ["SIMULATED_FACTORS", "ReplaySetup", "control_over", "storage_of"]

_SHORT_S = 12 * HOUR_S
_SHORT_INTERVAL_S = 300.0
"""Between decisions where nothing else is said, in traces that last less than half a day."""

SIMULATED_FACTORS = frozenset(
    {
        "gpu_idle_w",
        "gpu_tdp_w",
        "gpu_prefill_power",
        "gpu_decode_power",
        "ssd_drive_bytes",
        "ssd_read_bytes_per_s",
        "ssd_write_bytes_per_s",
    }
)
"""Factors that the simulation itself depends on; of the others only `value` does."""


@dataclass(frozen=True)
class ReplaySetup:
    """All that a replay is run with.

    Attributes
    ----------
    trace:
        Requests as asked for, before any is rejected.
    hardware, factors, grid, slo:
        The engine, what things cost in carbon, the electricity and the promise to users.
    installed:
        What DRAM and SSD the machine of each replica has.
    policy:
        Eviction policy of every tier.
    scope:
        What embodied carbon is charged for in the headline figures.
    warmup_s:
        Requests that arrive before this fill the caches and are not measured; whole bins.
    batching:
        How the engine fills its steps.
    admission:
        What is stored on SSD.
    replicas:
        How many such engines share the requests.
    load:
        How much is asked, if the trace's own rate was not just taken.
    composed:
        What the trace was composed of, if it was.
    candidates:
        Sizes to choose from, for plans that choose; by default shares of what is installed.
    control:
        How the controller decides.
    """

    trace: RequestTrace
    hardware: ServingHardware
    factors: Factors
    grid: GridSeries
    slo: Slo
    installed: Installed
    policy: Policy
    scope: Scope
    warmup_s: float
    batching: Batching = field(default_factory=Batching)
    admission: Admission = Admission.VALUE
    replicas: int = 1
    load: LoadPoint | None = None
    composed: ComposedWorkload | None = None
    candidates: Candidates | None = None
    control: ControlSettings = field(default_factory=ControlSettings)

    @property
    def sizes_to_try(self) -> Candidates:
        """Sizes that plans choose from."""
        installed = Sizes(self.installed.dram_bytes, self.installed.ssd_bytes)
        return self.candidates or Candidates.of(installed)

    @property
    def sizes_to_control(self) -> Candidates:
        """The same, less what the controller is told to leave as it is."""
        return self.sizes_to_try.fixed(self.control.dram, self.control.ssd)

    @property
    def grid_offset_s(self) -> float:
        """When, on the trace's clock, the grid's first hour begins.

        With a recorded trace that is its first request, with a composed one the measured part.
        """
        return 0.0 if self.composed is None else self.warmup_s

    def gco2_per_kwh(self, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Carbon intensity at times of the trace.

        Before the grid's first hour it is that hour's: nothing is charged for a warm-up. After its
        last hour it is the last one's, in which no more than the last answers can end.
        """
        latest_s = len(self.grid) * HOUR_S - 1.0
        return self.grid.at(np.clip(t_s - self.grid_offset_s, 0.0, latest_s))

    def check_grid(self, admitted: RequestTrace) -> None:
        """Refuse a grid that may end before the run of these requests does.

        Raises
        ------
        InputError
            If it does not reach to the deadline of the last request.
        """
        self.grid.at(np.array([max(deadline_s(admitted) - self.grid_offset_s, 0.0)]))

    @property
    def prices(self) -> StoragePrices:
        """What decides about storing, wear against the mean intensity of the measured part.

        Runs that differ only in grid and factors are the same where these are.
        """
        return prices_for(self.policy, self.admission, self.factors, self.mean_gco2_per_kwh)

    def storage(self, plan: Plan, gco2_per_kwh: float | None = None) -> StorageSetup:
        """The tiers of a plan; wear is weighed against that intensity, or the mean one."""
        if gco2_per_kwh is None:
            prices = self.prices
        else:
            prices = prices_for(self.policy, self.admission, self.factors, gco2_per_kwh)
        return storage_of(plan, self.policy, self.factors, self.admission, prices)

    @cached_property
    def mean_gco2_per_kwh(self) -> float:
        """Carbon intensity over the measured part of the trace, minute by minute."""
        measured_s = np.arange(self.warmup_s, float(self.trace.arrival_s[-1]) + 1.0, BIN_S)
        return float(self.gco2_per_kwh(measured_s).mean())


def storage_of(
    plan: Plan,
    policy: Policy,
    factors: Factors,
    admission: Admission = Admission.ALL,
    prices: StoragePrices | None = None,
) -> StorageSetup:
    """The tiers of a plan; its SSD is as fast as the whole drives that the capacity takes.

    ``prices`` are what `prices_for` says; without them a write costs nothing, nor does a load.
    """
    drives = max(1, factors.drives(plan.ssd_bytes))
    return StorageSetup(
        reuse_hbm=plan.reuse_hbm,
        dram_bytes=plan.dram_bytes,
        ssd_bytes=plan.ssd_bytes,
        policy=policy,
        ssd_read_bytes_per_s=drives * factors.ssd_read_bytes_per_s.value,
        ssd_write_bytes_per_s=drives * factors.ssd_write_bytes_per_s.value,
        admission=admission,
        prices=prices or StoragePrices(),
    )


def control_over(settings: ControlSettings, span_s: float) -> ControlSettings:
    """How the controller decides over a span: in one shorter than half a day more often."""
    if span_s >= _SHORT_S or "interval" in settings.model_fields_set:
        return settings
    update = {"interval": _SHORT_INTERVAL_S}
    if "learn" not in settings.model_fields_set:
        update["learn"] = 2 * _SHORT_INTERVAL_S
    return settings.model_copy(update=update)
