"""What steers a simulated run: a schedule given beforehand, or the controller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.plans import Plan
from greencache.bench.setup import ReplaySetup, storage_of
from greencache.bench.simulation import StorageSetup
from greencache.bench.windows import window_of
from greencache.controller.loop import Controller, Decision
from greencache.controller.sizes import Sizes
from greencache.traces.requests import RequestTrace

__all__ = ["Controlled", "Scheduled"]


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
        return _storage(self._setup, self._plan, sizes)
