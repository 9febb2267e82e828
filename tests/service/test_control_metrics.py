"""The controller of a running daemon, as Prometheus and ``greencache status`` see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from greencache.cli.status import status_lines
from greencache.client import AsyncClient
from greencache.service.clocks import WallClock
from greencache.service.daemon import Daemon
from greencache.service.observation import Observation
from greencache.service.status import ControlStatus, control_samples
from greencache.service.steering import Steering
from greencache.settings import load_settings
from tests.conformance.prompts import prompt
from tests.service.pages import OPENMETRICS, Values, ask, values_of

BLOCK_BYTES = 2 << 20
"""16 tokens of llama-3.1-8b in bf16."""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """One that sizes its tiers."""
    tmp_path.chmod(0o700)
    for name, value in {
        "ENGINE__MODEL": "llama-3.1-8b",
        "ENGINE__HARDWARE": "1xH100",
        "ENERGY__SOURCE": "model",
        "SERVE__SOCKET": str(tmp_path / "daemon.sock"),
        "SERVE__DRAM": "64MiB",
        "SERVE__STAGING": "16MiB",
        "SERVE__METRICS_PORT": "0",
    }.items():
        monkeypatch.setenv(f"GREENCACHE_{name}", value)
    return Daemon(load_settings())


async def scraped(daemon: Daemon) -> Values:
    port = daemon.status()["metrics"]["port"]
    return values_of(await ask(port, "/metrics", f"Accept: {OPENMETRICS}"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.05)


async def test_grams_joules_and_decisions_are_told(daemon: Daemon) -> None:
    observation = Observation(daemon)
    # An hour in a second.
    steering = Steering(daemon, clock=WallClock(speed=3600.0))
    observation.sources["control"] = steering.samples
    client = AsyncClient(BLOCK_BYTES, socket=daemon.path, timeout_s=60, long_timeout_s=60)
    async with daemon, client:
        assert (await scraped(daemon))["greencache_decisions_total",] == 0
        assert any("control: waiting" in line for line in status_lines(daemon.status()))
        await client.store(prompt(1), np.ones((1, BLOCK_BYTES), np.uint8))
        await until(lambda: steering.control is not None and steering.control.decided > 0)
        status, values = daemon.status(), await scraped(daemon)
    json.dumps(status, allow_nan=False)
    assert values["greencache_decisions_total",] >= 1
    assert values["greencache_plan_solve_seconds_count",] >= 1
    assert values["greencache_carbon_intensity_gco2_per_kwh", "CISO"] > 0
    assert values["greencache_metrics_failures_total", "control"] == 0
    for component in ("gpu", "host", "dram"):
        assert values["greencache_energy_joules_total", component] > 0
        assert values["greencache_energy_source_info", component, "model"] == 1
        for kind in ("operational", "embodied"):
            assert values["greencache_carbon_grams_total", component, kind] > 0
    lines = "\n".join(status_lines(status))
    assert "control: learning" in lines
    assert "operational and" in lines
    assert "gpu" in lines
    assert "(model)" in lines


def test_attainment_is_there_once_there_is_any_and_failures_are_from_the_start() -> None:
    def told(status: ControlStatus) -> dict[tuple[str, ...], object]:
        return {(each.metric.name, *each.labels): each.value for each in control_samples(status)}

    quiet = told(ControlStatus("waiting"))
    assert ("greencache_slo_attainment_ratio", "both") not in quiet, "0 would be an alarm"
    assert quiet["greencache_control_failures_total", "look"] == 0, "or the first would be missed"
    assert quiet["greencache_control_fallbacks_total", "largest"] == 0
    busy = told(
        ControlStatus(
            "deciding",
            decided=7,
            grown=3,
            interval_attainment=0.75,
            failures={"look": 2},
            fallbacks={"largest": 1},
        )
    )
    assert busy["greencache_slo_attainment_ratio", "both"] == 0.75
    assert busy["greencache_decisions_total",] == 7
    assert busy["greencache_control_growths_total",] == 3
    assert busy["greencache_control_failures_total", "look"] == 2
    assert busy["greencache_control_fallbacks_total", "largest"] == 1
