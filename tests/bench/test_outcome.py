"""What is measured of a run, held against its requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.bench.outcome import outcome_of
from greencache.bench.plans import Plan
from greencache.bench.simulation import simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware
from greencache.controller.slo import Slo
from greencache.quantities import HOUR_S
from greencache.traces import RequestTrace


def test_attainment_by_day_adds_up_to_that_of_all(
    conversation: RequestTrace, hardware: ServingHardware
) -> None:
    """Latencies read off the requests themselves, hour by hour and day by day."""
    slow = replace(
        conversation.select(np.arange(len(conversation)) < 2000),
        arrival_s=np.sort(np.random.default_rng(1).uniform(0, 60 * HOUR_S, 2000)),
    )
    run = simulate(slow, hardware, StorageSetup())
    slo = Slo(0.6, 0.02, 0.9)
    outcome = outcome_of(
        run,
        Plan("hbm-only"),
        slo,
        warmup_s=6 * HOUR_S,
        block_tokens=512,
        capacity_blocks={"dram": 0, "ssd": 0},
    )
    served = outcome.served
    assert served is not None
    measured = run.requests[run.requests["arrival_s"] >= 6 * HOUR_S]
    assert served.requests_by_hour.sum() == served.requests == len(measured)
    assert len(served.requests_by_hour) == 54
    days = served.slo_attainment_by_day
    assert len(days) == 3
    kept = []
    for day in range(3):
        start_s = (6 + 24 * day) * HOUR_S
        of_day = measured[
            (measured["arrival_s"] >= start_s) & (measured["arrival_s"] < start_s + 24 * HOUR_S)
        ]
        ttft_s = of_day["first_token_s"] - of_day["arrival_s"]
        decoding_s = of_day["finish_s"] - of_day["first_token_s"]
        in_time = decoding_s <= slo.tpot_s * (of_day["output_tokens"] - 1) + 1e-12
        kept.append(int(((ttft_s <= slo.ttft_s) & in_time).sum()))
        assert days[day] == pytest.approx(kept[-1] / len(of_day))
    assert 0 < sum(kept) < len(measured), "some were kept, some were not"
    assert served.slo_attainment == pytest.approx(sum(kept) / len(measured))
