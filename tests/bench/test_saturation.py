"""The load that saturates an engine, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.bench.saturation import PRECISION, saturation_rate
from greencache.bench.simulation import admit, simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware, step_cost
from greencache.errors import InputError
from greencache.traces import RequestTrace
from tests.bench.traces import fresh_prompts

TOLERANCE = 2 * PRECISION


def step_rate(hardware: ServingHardware) -> float:
    """Prompts a second of 2,048 tokens that fill a step each."""
    return 1 / step_cost(hardware.rates, 2048.0, 1.0, 2048 * 2049 / 2, 0.0).duration_s


def test_equal_prompts_saturate_at_the_rate_of_their_steps(hardware: ServingHardware) -> None:
    trace = fresh_prompts(3_000, 1.0, output=1)
    rate = saturation_rate(trace, hardware, StorageSetup(reuse_hbm=False))
    assert rate == pytest.approx(step_rate(hardware), rel=TOLERANCE)
    three = saturation_rate(trace, hardware, StorageSetup(reuse_hbm=False), replicas=3)
    assert three == pytest.approx(3 * step_rate(hardware), rel=TOLERANCE)


@pytest.mark.parametrize(("share_of_requests", "share_of_time"), [(0.7, 0.5), (0.8, 0.2), (1, 0)])
def test_when_requests_came_does_not_matter(
    hardware: ServingHardware, share_of_requests: float, share_of_time: float
) -> None:
    """Most of them early, or all at once after the first: they saturate the engine all the same."""
    count = 1_000
    early = int(share_of_requests * (count - 1))
    arrival_s = np.concatenate(
        [
            [0.0],
            np.linspace(0.0, 100 * share_of_time, early) if share_of_time else np.full(early, 10.0),
            np.linspace(100 * share_of_time, 100.0, count - 1 - early),
        ]
    )
    trace = replace(fresh_prompts(count, 1.0, output=1), arrival_s=arrival_s)
    rate = saturation_rate(trace, hardware, StorageSetup(reuse_hbm=False))
    assert rate == pytest.approx(step_rate(hardware), rel=TOLERANCE)


def test_long_prompts_count_by_their_work(hardware: ServingHardware) -> None:
    """Every tenth prompt is twenty times as long: steps of the mean work, wherever they stand."""
    trace = fresh_prompts(2_000, 1.0, output=1)
    rates = []
    for place in (0, 9):
        long = np.arange(2_000) % 10 == place
        mixed = replace(trace, input_tokens=np.where(long, 40_960, 2_048))
        rates.append(saturation_rate(mixed, hardware, StorageSetup(reuse_hbm=False)))
    long_s = sum(
        step_cost(
            hardware.rates, 2048.0, float(i == 19), 2048 * (i * 2048 + 2049 / 2), i * 2048.0
        ).duration_s
        for i in range(20)
    )
    expected = 10 / (long_s + 9 / step_rate(hardware))
    assert rates == pytest.approx([expected, expected], rel=TOLERANCE)


def test_caching_moves_the_saturation_of_real_chat(
    conversation: RequestTrace, hardware: ServingHardware
) -> None:
    """More hits, more load; and just below the rate found the engine keeps up, above it not."""
    head, _ = admit(conversation.select(np.arange(len(conversation)) < 3_000), hardware)
    tiers = [
        StorageSetup(reuse_hbm=False),
        StorageSetup(),
        StorageSetup(dram_bytes=2**39, ssd_bytes=10**13),
    ]
    rates = [saturation_rate(head, hardware, storage) for storage in tiers]
    assert rates == sorted(rates)
    assert rates[-1] > 1.1 * rates[0]
    even = replace(head, arrival_s=np.arange(len(head), dtype=float))
    for factor, keeps_up in ((0.85, True), (1.15, False)):
        run = simulate(even.at_mean_rate(factor * rates[-1]), hardware, tiers[-1], drain_s=0.0)
        assert (run.overloaded is None) is keeps_up


def test_few_requests_show_no_rate(hardware: ServingHardware) -> None:
    with pytest.raises(InputError, match="too few to find the load"):
        saturation_rate(fresh_prompts(3, 1.0), hardware, StorageSetup())
