"""A window from an engine's page, against what the simulated engine behind the page really did."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.adapters.engine_metrics import EngineInterval, EnginePages
from greencache.adapters.live_window import StoreInterval, live_window
from greencache.bench.outcome import Slo, latencies_s
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.bench.windows import Watched
from greencache.controller.performance import ServingHardware
from greencache.controller.telemetry import Window
from greencache.traces import RequestTrace
from tests.adapters.engine_page import EnginePage

INTERVAL_S = 600.0
SLO = Slo(ttft_s=2.0, tpot_s=0.05, target=0.9)


@pytest.fixture(scope="module")
def simulated(
    conversation: RequestTrace, hardware: ServingHardware
) -> tuple[SimulatedRun, list[Window]]:
    trace = conversation.select(np.arange(len(conversation)) < 3000).at_mean_rate(0.8)
    storage = StorageSetup(ssd_bytes=10**12)
    watch = Watched(storage, SLO, INTERVAL_S)
    return simulate(trace, hardware, storage, steering=watch), watch.windows


def live(run: SimulatedRun, window: Window, hardware: ServingHardware, step_s: float) -> Window:
    """What a daemon would have made of it: a page, looked at now and then."""
    requests = run.requests
    ttft_s, tpot_s = latencies_s(requests)
    page, pages = EnginePage(), EnginePages(window.start_s)
    looked_s = -np.inf
    for now_s in np.arange(window.start_s, window.end_s + step_s / 2, step_s):
        started = (requests["first_token_s"] > looked_s) & (requests["first_token_s"] <= now_s)
        ended = (requests["finish_s"] > looked_s) & (requests["finish_s"] <= now_s)
        for value in ttft_s[started]:
            page.first_token(value)
        lengths = requests["input_tokens"][ended]
        for value, tokens in zip(np.nan_to_num(tpot_s[ended]), lengths, strict=True):
            page.finish(value, tokens)
        page.count("prompt_tokens", float(requests["input_tokens"][started].sum()))
        page.count("generation_tokens", float(requests["output_tokens"][ended].sum()))
        page.count("prefix_cache_hits", float(requests["hbm_blocks"][started].sum()) * 512)
        arrived = requests["arrival_s"] <= now_s
        going = arrived & (requests["first_token_s"] <= now_s) & (requests["finish_s"] > now_s)
        page.show("num_requests_running", float(going.sum()))
        waits = arrived & (requests["first_token_s"] > now_s)
        page.show("num_requests_waiting", float(waits.sum()))
        pages.see("engine", page.samples, float(now_s))
        looked_s = now_s
    store = StoreInterval(hit_tokens={"ssd": window.hit_tokens["ssd"]})
    return live_window(
        pages.take(window.end_s),
        store,
        hardware,
        ttft_s=SLO.ttft_s,
        tpot_s=SLO.tpot_s,
        max_batched_tokens=2048,
    ).window


def test_a_window_from_the_page_is_what_the_engine_did(
    simulated: tuple[SimulatedRun, list[Window]], hardware: ServingHardware
) -> None:
    run, windows = simulated
    for true in windows[1:3]:
        made = live(run, true, hardware, 15.0)
        assert (made.start_s, made.duration_s) == (true.start_s, true.duration_s)
        assert made.arrivals == pytest.approx(true.arrivals, abs=1)
        assert made.prompt_tokens == pytest.approx(true.prompt_tokens, rel=0.05)
        assert made.output_tokens == pytest.approx(true.output_tokens, rel=0.1)
        assert made.hit_rate == pytest.approx(true.hit_rate, abs=0.03)
        assert made.prefill_tokens == pytest.approx(true.prefill_tokens, rel=0.1)
        assert made.attainment == pytest.approx(true.attainment, abs=0.05)
        assert made.ttft.mean_s == pytest.approx(true.ttft.mean_s, rel=0.2)
        assert made.tpot.mean_s == pytest.approx(true.tpot.mean_s, rel=0.1)


def test_the_power_model_over_counts_is_near_the_simulated_engines_energy(
    simulated: tuple[SimulatedRun, list[Window]], hardware: ServingHardware
) -> None:
    run, windows = simulated
    off = []
    for true in windows[1:3]:
        made = live(run, true, hardware, 15.0)
        off.append(made.gpu_j / true.gpu_j)
    assert off == pytest.approx([1.0] * len(off), abs=0.1)


def test_measured_energy_goes_before_the_model_and_is_named(hardware: ServingHardware) -> None:
    idle = EngineInterval(0.0, 100.0, pages=1)
    modelled = live_window(
        idle, StoreInterval(), hardware, ttft_s=1, tpot_s=1, max_batched_tokens=2048
    )
    assert modelled.energy_source == "model"
    assert modelled.window.gpu_j == pytest.approx(hardware.rates.idle_w * 100)
    measured = live_window(
        idle,
        StoreInterval(),
        hardware,
        max_batched_tokens=2048,
        gpu_j=12_345.0,
        energy_source="nvml",
        ttft_s=1.0,
        tpot_s=0.1,
    )
    assert (measured.window.gpu_j, measured.energy_source) == (12_345.0, "nvml")


def test_without_a_page_requests_are_those_that_were_looked_up(hardware: ServingHardware) -> None:
    store = StoreInterval(
        lookups=20,
        lookup_tokens=20_000,
        hit_tokens={"dram": 3000.0, "ssd": 1000.0},
        capacity_bytes={"dram": 8e9, "ssd": 1e12},
    )
    made = live_window(
        EngineInterval(0.0, 100.0),
        store,
        hardware,
        ttft_s=1.0,
        tpot_s=0.1,
        max_batched_tokens=2048,
        replicas=2,
    ).window
    assert (made.arrivals, made.prompt_tokens, made.finished) == (20, 20_000, 0)
    assert made.prefill_tokens == 16_000
    assert np.isnan(made.attainment)
    assert made.capacity_bytes == {"dram": 4e9, "ssd": 5e11}
    assert made.gpu_j > 2 * hardware.rates.idle_w * 100


def test_more_work_than_fits_into_an_interval_draws_no_more_than_the_design_power(
    hardware: ServingHardware,
) -> None:
    busy = EngineInterval(
        0.0, 10.0, pages=1, finished=1000, prompt_tokens=10**7, output_tokens=10**6, running=50.0
    )
    made = live_window(
        busy, StoreInterval(), hardware, ttft_s=1.0, tpot_s=0.1, max_batched_tokens=2048
    ).window
    assert made.busy_s == pytest.approx(10.0)
    assert made.gpu_j <= hardware.rates.limit_w * 10 * 1.0001
