"""A daemon that sizes its tiers, as its clients, its status and its metrics see it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greencache.client import AsyncClient
from greencache.client.messages import Hbm, Seen
from greencache.errors import InputError
from greencache.metrics import CARBON, DECISIONS, INTENSITY, INTENSITY_FALLBACKS
from greencache.quantities import HOUR_S
from greencache.service.clocks import WallClock
from greencache.service.daemon import Daemon
from greencache.service.steering import Steering
from greencache.settings import (
    ControlSettings,
    EnergySettings,
    EngineSettings,
    GridSettings,
    ServeSettings,
    Settings,
)
from tests.conformance.prompts import prompt, the_bytes

TOKENS = 16
BLOCK_BYTES = TOKENS * 131_072
"""Of Llama 3.1 8B with KV in bf16: 32 layers, 8 heads of 128, keys and values, 2 bytes."""

SPEED = 2400.0
STARTS_S = 473_000 * HOUR_S


def settings(folder: Path, **serve: Any) -> Settings:
    folder.chmod(0o700)
    wanted = {"dram": BLOCK_BYTES * 16, "staging": BLOCK_BYTES * 4, "metrics": False, **serve}
    return Settings(
        engine=EngineSettings(model="llama-3.1-8b", hardware="1xH100"),
        energy=EnergySettings(source="model"),
        control=ControlSettings(interval=300.0, learn=300.0, horizon=2),
        serve=ServeSettings(
            socket=folder / "daemon.sock", ssd_dir=folder / "ssd", ssd=BLOCK_BYTES * 24, **wanted
        ),
    )


def client_of(daemon: Daemon, block_bytes: int = BLOCK_BYTES) -> AsyncClient:
    return AsyncClient(block_bytes, socket=daemon.path, timeout_s=60, long_timeout_s=60)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def ask(client: AsyncClient, request: int, *names: object) -> None:
    """One request, from its arrival to its end."""
    arrived_s = time.monotonic()
    keys = prompt(*names)
    lease = await client.acquire(keys, reusable=len(keys) - 1, request=request)
    lease.release()
    await client.store(keys, the_bytes(keys, BLOCK_BYTES))
    tokens = len(keys) * TOKENS
    await client.observe(
        [Seen(arrived_s, tokens, 20, 0.001, 0.00001, {"dram": 0}, request=request)],
        hbm=Hbm(block_bytes=BLOCK_BYTES, blocks=8, cached=4, kept=2),
    )


async def test_a_daemon_learns_decides_and_keeps_what_it_knows(tmp_path: Path) -> None:
    daemon, clock = Daemon(settings(tmp_path)), WallClock(SPEED, starts_s=STARTS_S)
    steering = Steering(daemon, clock=clock)
    assert daemon.status()["control"]["state"] == "waiting"
    async with daemon, client_of(daemon) as client:
        await ask(client, 1, 0)
        await until(lambda: steering.control is not None)
        control = steering.control
        assert control is not None
        r = 2
        while control.decided < 3:
            await ask(client, r, r % 7, r % 5)
            r += 1
        # What is stored goes on to be found, whatever the sizes: at least what is staged.
        keys = prompt("still", "here")
        await client.store(keys, the_bytes(keys, BLOCK_BYTES))
        assert (await client.lookup(keys))["dram"] == 2
        status = await client.status()
        assert control.window is not None
        hardware = control.engine.hardware
        all_blocks = hardware.kv_bytes / hardware.layout.block_bytes
        assert control.window.held_blocks == pytest.approx(2 / 8 * all_blocks)
    told = status["control"]
    assert json.loads(json.dumps(told)) == told
    assert told["state"] == "deciding"
    assert told["failures"] == {}
    assert told["lost"] == {}
    assert told["decided"] >= 3
    assert told["last_reason"]
    assert told["engine"] == f"llama-3.1-8b on 1xH100, {TOKENS} tokens"
    assert told["requests"] > 10
    assert told["finished"] == told["within_slo"] > 0
    assert told["asked_tokens"] >= told["requests"] * TOKENS
    assert told["hit_tokens"]["dram"] > 0
    assert told["energy_sources"]["gpu"] == "model"
    assert told["gco2_per_kwh"] > 0
    assert told["accounted_s"] > 600
    # An idle H100 draws some 70 W or more; nothing of this asks for a tenth of what it may.
    gpu_w = told["energy_kwh"]["gpu"] * 3.6e6 / told["accounted_s"]
    assert 40 < gpu_w < 300
    assert told["grams"] == pytest.approx(
        sum(told["operational_g"].values()) + sum(told["embodied_g"].values())
    )
    # DRAM is never smaller than what is staged through it.
    decided = [each.sizes.dram_bytes for each in control.decisions]
    assert min(decided) >= 4 * BLOCK_BYTES
    state = tmp_path / "ssd" / "control.state"
    assert state.stat().st_mode & 0o777 == 0o600

    daemon = Daemon(settings(tmp_path))
    again = Steering(daemon, clock=WallClock(SPEED, starts_s=clock()))
    async with daemon, client_of(daemon) as client:
        await ask(client, 1, 0)
        await until(lambda: again.control is not None)
        assert again.control is not None
        assert again.control.sizes == control.sizes, "those that were decided before"
        kept = again.control.pilot.controller.telemetry.windows
        assert len(kept) >= 3
        await until(lambda: daemon.pools.capacity_bytes["ssd"] == control.sizes.ssd_bytes)


async def test_a_size_set_by_hand_does_not_limit_what_there_is_to_choose_from(
    tmp_path: Path,
) -> None:
    daemon = Daemon(settings(tmp_path))
    steering = Steering(daemon, clock=WallClock(starts_s=STARTS_S))
    async with daemon:
        await daemon.resize(dram=BLOCK_BYTES * 4, ssd=0)  # before there is an engine
        await daemon.pools.get(BLOCK_BYTES)
        await until(lambda: steering.control is not None)
        assert steering.control is not None
        largest = steering.control.engine.candidates.largest
        assert largest == (BLOCK_BYTES * 16, BLOCK_BYTES * 24)
        assert daemon.pools.capacity_bytes == {"dram": BLOCK_BYTES * 4, "ssd": 0}


async def test_metrics_are_those_of_the_status(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path))
    steering = Steering(daemon, clock=WallClock(SPEED, starts_s=STARTS_S))
    assert [each.metric for each in steering.samples()] != []
    async with daemon, client_of(daemon) as client:
        await ask(client, 1, 0)
        await until(lambda: steering.control is not None and steering.control.decided > 0)
        samples: dict[Any, Any] = {
            (each.metric, each.labels): each.value for each in steering.samples()
        }
        status = steering.status()
        assert samples[CARBON, ("embodied", "gpu")] == pytest.approx(
            status.embodied_g["gpu"], rel=0.2
        )
        assert samples[CARBON, ("operational", "ssd")] >= 0
        assert samples[DECISIONS, ()] >= 1
        assert samples[INTENSITY, ("CISO",)] > 0


async def test_to_look_at_metrics_counts_no_fallback(tmp_path: Path) -> None:
    """A file that ended a year ago stands for all that is asked."""
    hours = "".join(f"XX,2022-12-01T{hour:02}:00Z,50,direct\n" for hour in range(24))
    (tmp_path / "grid.csv").write_text(f"zone,utc_hour,gco2_per_kwh,kind\n{hours}")
    grid = GridSettings(zone=str(tmp_path / "grid.csv"))
    daemon = Daemon(settings(tmp_path).model_copy(update={"grid": grid}))
    steering = Steering(daemon, clock=WallClock(starts_s=STARTS_S))  # no minute passes

    def counted() -> list[object]:
        return [each.value for each in steering.samples() if each.metric is INTENSITY_FALLBACKS]

    async with daemon:
        await daemon.pools.get(BLOCK_BYTES)
        await until(lambda: steering.control is not None)
        assert steering.status().intensity_fallback == "recorded"
        before = counted()
        assert [counted() for _ in range(3)] == [before] * 3


@pytest.mark.parametrize(
    ("engine", "control", "state"),
    [
        ({"model": "llama-3.1-8b", "hardware": "1xH100"}, "off", "off"),
        ({}, "auto", "off"),
        ({}, "on", "waiting"),
        ({"model": "llama-3.1-70b", "hardware": "4xH100"}, "auto", "waiting"),
    ],
)
async def test_tiers_are_left_alone_unless_the_engine_is_known(
    tmp_path: Path, engine: dict[str, str], control: str, state: str
) -> None:
    daemon = Daemon(
        settings(tmp_path, control=control).model_copy(update={"engine": EngineSettings(**engine)})
    )
    steering = Steering(daemon)
    async with daemon, client_of(daemon, 4096 * 25) as client:
        keys = prompt(1, 2)
        assert await client.store(keys, the_bytes(keys, 4096 * 25)) == 2
        await asyncio.sleep(0.05)
        assert steering.control is None
        status = (await client.status())["control"]
        assert status["state"] == state
        assert status["because"]
        assert daemon.pools.capacity_bytes["ssd"] == 24 * BLOCK_BYTES


async def test_control_that_can_never_begin_is_off_and_waits_for_nobody(tmp_path: Path) -> None:
    wanted = settings(tmp_path).model_copy(
        update={"engine": EngineSettings(model="foo", hardware="1xH100")}
    )
    daemon = Daemon(wanted)
    steering = Steering(daemon)
    async with daemon:
        await until(lambda: steering.status().state == "off")
        assert "unknown model 'foo'" in steering.status().because


async def test_forecasts_that_nobody_can_make_are_refused_at_the_start(tmp_path: Path) -> None:
    perfect = ControlSettings(forecast="perfect")
    daemon = Daemon(settings(tmp_path).model_copy(update={"control": perfect}))
    Steering(daemon)
    with pytest.raises(InputError, match="GREENCACHE_CONTROL__FORECAST=perfect"):
        await daemon.start()
