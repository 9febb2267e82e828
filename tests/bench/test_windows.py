"""What a controller sees of a simulated engine."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.bench.outcome import latencies_s
from greencache.bench.simulation import SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.bench.windows import Watched, prompts_between
from greencache.controller.performance import ServingHardware
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Window
from greencache.traces import RequestTrace
from tests.bench.traces import make_trace

INTERVAL_S = 300.0
SLO = Slo(ttft_s=1.0, tpot_s=0.01, target=0.9)


@pytest.fixture(scope="module")
def watched(
    conversation: RequestTrace, hardware: ServingHardware
) -> tuple[SimulatedRun, list[Window], RequestTrace]:
    trace = conversation.select(np.arange(len(conversation)) < 3000).at_mean_rate(1.0)
    storage = StorageSetup(ssd_bytes=10**12)
    watch = Watched(storage, SLO, INTERVAL_S)
    run = simulate(trace, hardware, storage, steering=watch)
    return run, watch.windows, trace


def test_windows_add_up_to_the_run(
    watched: tuple[SimulatedRun, list[Window], RequestTrace],
) -> None:
    run, windows, _ = watched
    end_s = windows[-1].end_s
    seen = run.requests[run.requests["arrival_s"] < end_s]
    assert len(windows) >= 10
    assert sum(each.arrivals for each in windows) == len(seen)
    assert sum(each.prompt_tokens for each in windows) == seen["input_tokens"].sum()
    ended = run.requests["finish_s"] <= end_s
    assert sum(each.finished for each in windows) == ended.sum() > 0
    kept = SLO.kept(*latencies_s(run.requests[ended]))
    assert sum(each.within_slo for each in windows) == kept.sum()
    found = sum(seen[f"{tier}_blocks"].sum() for tier in ("hbm", "ssd")) * 512
    started = sum(sum(each.hit_tokens.values()) for each in windows)
    assert started == pytest.approx(found, rel=0.01), "all but who waits when an interval ends"
    inside = run.bins[: round(end_s / 60)]
    for name in ("gpu_j", "prefill_s", "prefill_tokens", "written_bytes"):
        seen_sum = sum(getattr(each, name) for each in windows)
        assert seen_sum == pytest.approx(inside[name].sum(), rel=0.01)
    assert all(0 < each.prefill_s <= each.busy_s for each in windows)
    assert all(each.backlog_s >= 0 for each in windows)
    assert windows[-1].capacity_bytes["ssd"] <= 10**12
    assert all(0 <= each.attainment <= 1 for each in windows)


def test_every_prompt_is_seen_once(
    watched: tuple[SimulatedRun, list[Window], RequestTrace],
) -> None:
    run, _, trace = watched
    hours = int(trace.duration_s // INTERVAL_S) + 1
    prompts = [
        prompts_between(trace, run.requests, i * INTERVAL_S, (i + 1) * INTERVAL_S)
        for i in range(hours)
    ]
    assert sum(len(each) for each in prompts) == len(trace)
    chains = zip(trace.block_starts, trace.full_blocks, strict=False)
    np.testing.assert_array_equal(
        np.concatenate([each.select(each.full > 0).ids for each in prompts]),
        np.concatenate([trace.block_ids[first : first + full] for first, full in chains]),
    )


def test_a_prompt_alone_holds_its_blocks(hardware: ServingHardware) -> None:
    alone = make_trace([(0.0, 8 * 512, 1, range(8))])
    run = simulate(alone, hardware, StorageSetup())
    assert run.bins["held_blocks"].max() == 8
