"""The load that saturates an engine, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.bench.saturation import PRECISION, saturation_rate
from greencache.bench.simulation import StorageSetup, admit, simulate
from greencache.controller.performance import ServingHardware, step_cost
from greencache.errors import InputError
from greencache.traces import RequestTrace
from tests.bench.traces import fresh_prompts

TOLERANCE = 2 * PRECISION
"""The queue may grow by the precision, and the search stops at it."""


def test_equal_prompts_saturate_at_the_rate_of_their_steps(hardware: ServingHardware) -> None:
    """2,048 tokens fill a step: as many a second as steps."""
    step_s = step_cost(hardware.rates, 2048.0, 1.0, 2048 * 2049 / 2, 0.0).duration_s
    trace = fresh_prompts(3_000, 1.0, output=1)
    rate = saturation_rate(trace, hardware, StorageSetup(reuse_hbm=False))
    assert rate == pytest.approx(1 / step_s, rel=TOLERANCE)
    three = saturation_rate(trace, hardware, StorageSetup(reuse_hbm=False), replicas=3)
    assert three == pytest.approx(3 / step_s, rel=TOLERANCE)


def test_what_it_starts_from_does_not_matter(hardware: ServingHardware) -> None:
    storage = StorageSetup(reuse_hbm=False)
    rates = [
        saturation_rate(fresh_prompts(2_000, gap_s, output=1), hardware, storage)
        for gap_s in (0.001, 10.0)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=2 * PRECISION)


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
    for factor, keeps_up in ((0.9, True), (1.15, False)):
        run = simulate(head.at_mean_rate(factor * rates[-1]), hardware, tiers[-1], drain_s=0.0)
        assert (run.overloaded is None) is keeps_up


def test_a_burst_has_no_rate(hardware: ServingHardware) -> None:
    with pytest.raises(InputError, match="arrive at once"):
        saturation_rate(fresh_prompts(3, 0.0), hardware, StorageSetup())
