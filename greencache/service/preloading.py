"""What decides about sizes and admission is compiled and imported before it is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from greencache.controller.assembly import ControlledEngine, Pilot, forecasters
from greencache.controller.intensity import IntensityBook
from greencache.controller.models import find_model
from greencache.controller.naming import BlockNames
from greencache.controller.performance import parse_hardware
from greencache.controller.prompts import Prompts
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Window
from greencache.quantities import DAY_S, HOUR_S
from greencache.settings import ControlSettings, Settings
from greencache.tiers import Policy, TierIndex
from greencache.tiers.admission import Prices
from greencache.tiers.learning import Learner

__all__ = ["load_admission", "load_models", "named_engine"]

_BLOCK_TOKENS = 16


def load_admission() -> None:
    """Call what a learning cache calls on the event loop, so that no client waits for compiling."""
    for ranks in (False, True):
        learner = Learner(Prices(1.0, 0.1, 0.1, 0.1, 0.1), endurance_per_s=1e-5, ranks=ranks)
        policy = Policy.CARBON if ranks else Policy.LRU
        tiers = [TierIndex(4, policy, learner=learner) for _ in range(3)]
        ids = np.arange(4, dtype=np.int32)
        states = dict(zip(("hbm", "dram", "ssd"), (tier.state for tier in tiers), strict=True))
        for now_s in (0.0, 1e4):
            learner.learn(ids, 0, now_s, **states)
            learner.wrote(learner.admit(ids, 0, 4, now_s))
        learner.last_asked_s(ids)
        learner.forget(ids)


def named_engine(settings: Settings) -> ControlledEngine:
    """The engine that settings name, with room for a few blocks.

    Raises
    ------
    InputError
        If there is none such.
    """
    kv = find_model(settings.engine.model).kv_layout(
        settings.engine.kv_dtype,
        block_tokens=_BLOCK_TOKENS,
        ranks=parse_hardware(settings.engine.hardware)[0],
    )
    few_bytes = 8 * kv.block_bytes
    return ControlledEngine.of(settings, kv.block_bytes, Sizes(few_bytes, few_bytes))


def load_models(settings: Settings) -> None:
    """Decide once about nothing much: what is compiled or imported for it is there from then on.

    In the first second of a daemon, when few clients wait, and not at its first decision.

    Raises
    ------
    InputError
        If the settings name no engine that there can be.
    """
    _, load = forecasters(settings.control)
    engine = named_engine(
        settings.model_copy(update={"control": ControlSettings(learn=0.0, horizon=2)})
    )
    intensity = IntensityBook(
        LaggedRegression(), HOUR_S, stale_s=DAY_S, constant_gco2_per_kwh=300.0
    )
    pilot = Pilot(engine, intensity, load, engine.candidates.largest, usual=engine.prices(300.0))
    names = BlockNames(pilot.lookout.shadow)
    few = np.ones(2, np.int64)
    for hour in range(3):
        begins_s = hour * HOUR_S
        prompts = Prompts(
            ids=names.ids(bytes(16) + bytes(15) + b"1", begins_s),
            starts=few - 1,
            full=2 * few,
            reusable=few,
            input_tokens=33 * few,
            output_tokens=9 * few,
            arrival_s=begins_s + np.arange(2.0),
            computed_s=begins_s + np.arange(1.0, 3.0),
        )
        seen = replace(
            Window.empty(begins_s, HOUR_S),
            arrivals=2,
            finished=2,
            within_slo=2,
            capacity_bytes={"dram": 0.0, "ssd": 0.0},
            used_bytes={"dram": 0.0, "ssd": 0.0},
        )
        pilot.steer(seen, prompts)
