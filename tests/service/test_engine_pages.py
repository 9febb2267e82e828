"""What an engine's page adds to what clients tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.adapters.engine_metrics import EngineInterval, Histogram
from greencache.catalog import Catalog
from greencache.controller.assembly import ControlledEngine
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Candidates, Sizes
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Window
from greencache.factors import Factors
from greencache.service.engines import PagedEngines
from greencache.tiers import Policy
from greencache.tiers.admission import Admission

TTFT = Histogram(np.array([0.5, 1.0, np.inf]), np.array([6.0, 2.0, 2.0]), 5.0)
PAGE = EngineInterval(
    0.25,
    599.5,
    pages=40,
    arrivals=12,
    finished=10,
    prompt_tokens=12_000,
    output_tokens=2_000,
    local_hit_tokens=3_000,
    ttft=TTFT,
    running=2.0,
    waiting=3.0,
    held=0.25,
)


class Watch:
    def __init__(self, interval: EngineInterval) -> None:
        self.interval = interval
        self.now_waiting: float | None = None

    async def take(self) -> EngineInterval:
        return self.interval

    async def waiting(self) -> float | None:
        return self.now_waiting


@pytest.fixture
def engine(hardware: ServingHardware, catalog: Catalog) -> ControlledEngine:
    return ControlledEngine(
        hardware=hardware,
        factors=Factors.of(catalog, hardware.gpu),
        slo=Slo(ttft_s=1.0, tpot_s=0.2, target=0.9),
        installed=Sizes(0, 0),
        candidates=Candidates((0,), (0,)),
        policy=Policy.LRU,
        admission=Admission.VALUE,
    )


TOLD = replace(
    Window.empty(0.0, 600.0),
    arrivals=11,
    prompt_tokens=11_000,
    hit_tokens={"hbm": 0.0, "dram": 100.0, "ssd": 0.0},
    capacity_bytes={"dram": 5.0},
    gpu_j=1.0,
)


async def test_a_page_stands_in_for_clients_that_tell_nothing(engine: ControlledEngine) -> None:
    window = await PagedEngines(Watch(PAGE), engine).window(TOLD)
    assert (window.start_s, window.duration_s) == (0.0, 600.0)
    assert (window.arrivals, window.finished, window.within_slo) == (12, 10, 8)
    assert window.hit_tokens == {"hbm": 3_000.0, "dram": 100.0, "ssd": 0.0}
    blocks = engine.hardware.kv_bytes / engine.hardware.layout.block_bytes
    assert window.held_blocks == pytest.approx(0.25 * blocks)
    assert window.backlog_s > 0
    assert window.capacity_bytes == {"dram": 5.0}


async def test_what_clients_tell_of_each_request_stands(engine: ControlledEngine) -> None:
    told = replace(TOLD, finished=9, within_slo=9)
    window = await PagedEngines(Watch(PAGE), engine).window(told)
    assert (window.arrivals, window.finished, window.within_slo) == (11, 9, 9)
    assert window.held_blocks > 0, "which no client knows"
    assert window.gpu_j == 1.0


async def test_a_page_that_was_never_read_says_nothing(engine: ControlledEngine) -> None:
    silent = EngineInterval(0.0, 600.0)
    assert await PagedEngines(Watch(silent), engine).window(TOLD) is TOLD


async def test_what_waits_takes_as_long_as_prompts_of_the_interval_before(
    engine: ControlledEngine,
) -> None:
    watch = Watch(PAGE)
    pages = PagedEngines(watch, engine)
    assert await pages.waiting_s() is None, "no page can be read"
    watch.now_waiting = 6.0
    assert await pages.waiting_s() == 0, "nobody knows yet how long prompts take"
    window = await pages.window(TOLD)
    assert await pages.waiting_s() == pytest.approx(2 * window.backlog_s), "of three"
    two = PagedEngines(watch, replace(engine, replicas=2))
    assert (await two.window(TOLD)).backlog_s == pytest.approx(window.backlog_s / 2)
    assert await two.waiting_s() == pytest.approx(window.backlog_s)


async def test_a_page_s_energy_is_of_the_time_that_went_by(engine: ControlledEngine) -> None:
    """Not of what a clock that was moved forward left out."""
    window = await PagedEngines(Watch(PAGE), engine).window(TOLD)
    later = PagedEngines(Watch(replace(PAGE, duration_s=8 * 3600.0)), engine)
    assert await later.window(TOLD) == window
