"""A running daemon, seen from outside: its metrics, its health, its alarm."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from greencache.client import AsyncClient
from greencache.client.messages import Hbm, Seen
from greencache.errors import InputError, ServiceError, SettingsError
from greencache.service.daemon import Daemon
from greencache.service.observation import PORT, Observation
from greencache.settings import RedisSettings, ServeSettings, Settings
from tests.conformance.prompts import prompt, the_bytes
from tests.service.pages import OPENMETRICS, Values, ask, values_of

BLOCK_BYTES = 4096


def settings(folder: Path, **serve: Any) -> Settings:
    folder.chmod(0o700)
    wanted = {"dram": "64MiB", "staging": "8MiB", "metrics_port": 0, **serve}
    return Settings(serve=ServeSettings(socket=folder / "daemon.sock", **wanted))


def client_of(daemon: Daemon) -> AsyncClient:
    # The first question waits for compiled code, if there is none yet.
    return AsyncClient(BLOCK_BYTES, socket=daemon.path, timeout_s=60, long_timeout_s=60)


def port_of(daemon: Daemon) -> int:
    return int(daemon.status()["metrics"]["port"])


async def scraped(daemon: Daemon) -> Values:
    answer = await ask(port_of(daemon), "/metrics", f"Accept: {OPENMETRICS}")
    assert answer.status == 200
    return values_of(answer)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_what_clients_do_is_on_the_page(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path, ssd_dir=tmp_path / "ssd", ssd="64MiB"))
    Observation(daemon)
    async with daemon, client_of(daemon) as client:
        keys = prompt(*range(8))
        assert await client.store(keys, the_bytes(keys, BLOCK_BYTES)) == 8
        lease = await client.acquire(prompt(*range(10)))
        reservation = await client.reserve(prompt("other"))
        await asyncio.sleep(0.05)
        values = await scraped(daemon)
        assert values["greencache_pools",] == 1
        assert values["greencache_connections",] == values["greencache_sessions",] == 1
        assert values["greencache_hit_blocks_total", "dram"] == 8
        assert values["greencache_missed_blocks_total", "dram"] == 2
        assert values["greencache_leases",] == values["greencache_reservations",] == 1
        assert 0.05 <= values["greencache_oldest_lease_age_seconds",] < 60
        assert 0.05 <= values["greencache_oldest_reservation_age_seconds",] < 60
        assert values["greencache_questions_total", "acquire"] == 1
        assert values["greencache_tier_capacity_bytes", "ssd"] == 64 << 20
        assert values["process_open_fds",] > 0
        lease.release()
        reservation.abort()
        await client.flush()
        values = await scraped(daemon)
        assert values["greencache_leases",] == values["greencache_reservations",] == 0
        assert values["greencache_oldest_lease_age_seconds",] == 0
        assert values["greencache_ssd_written_bytes_total",] == 8 * BLOCK_BYTES
        assert values["greencache_io_seconds_count", "write", "ssd"] >= 1


async def test_tokens_are_counted_once_a_request_as_engines_tell(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path))
    Observation(daemon)
    begun = Seen(1.0, 1000, 10, hit_tokens={"hbm": 256}, ended=False)
    ended = Seen(1.0, 1000, 10, hit_tokens={"hbm": 256, "dram": 512, "made up": 7}, started=False)
    whole = Seen(2.0, 500, 10, hit_tokens={"dram": 256, "ssd": -3})
    async with daemon, client_of(daemon) as client:
        await client.observe([begun])
        await client.observe([ended, whole])
        values = await scraped(daemon)
    assert values["greencache_lookup_tokens_total",] == 1500
    assert values["greencache_requests_total",] == 2
    assert values["greencache_output_tokens_total",] == 20
    hits = {name[1]: v for name, v in values.items() if name[0] == "greencache_hit_tokens_total"}
    assert hits == {"hbm": 256, "dram": 768, "ssd": 0, "redis": 0}


async def test_what_engines_keep_themselves_is_a_tier_beside_ours(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path))
    Observation(daemon)
    async with daemon, client_of(daemon) as client:
        assert ("greencache_tier_blocks", "hbm") not in await scraped(daemon)
        with pytest.raises(InputError, match="no engine's pool"):
            await client.observe([], hbm=Hbm(1000, 10, 11, 0))
        await client.observe([], hbm=Hbm(block_bytes=1000, blocks=10, cached=4, kept=3))
        values = await scraped(daemon)
        assert values["greencache_tier_capacity_bytes", "hbm"] == 10_000
        assert values["greencache_tier_used_bytes", "hbm"] == 4_000
        assert values["greencache_tier_blocks", "hbm"] == 4
        assert values["greencache_hbm_kept_bytes",] == 3_000
        status = await client.status()
    assert (status["hbm"]["engines"], status["hbm"]["used_bytes"]) == (1, 4_000)


async def test_failures_count_from_zero_before_anything_can_fail(tmp_path: Path) -> None:
    """What first appears as 1 has never grown, to Prometheus."""
    server = RedisSettings(url=SecretStr("redis://127.0.0.1:1"))  # which nobody asks yet
    daemon = Daemon(settings(tmp_path).model_copy(update={"redis": server}))
    Observation(daemon)
    async with daemon:
        values = await scraped(daemon)
    assert values["greencache_pools",] == 0
    failed = "greencache_tier_failures_total"
    assert values[failed, "claim", "dram"] == 0
    assert values[failed, "lookup: timeout", "redis"] == 0
    assert not [name for name in values if name[0] == failed and "ssd" in name], "there is none"


async def test_who_breaks_the_protocol_is_counted(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path))
    Observation(daemon)
    async with daemon:
        assert (await scraped(daemon))["greencache_refused_clients_total", "cut_off"] == 0
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(str(daemon.path))
            garbage.sendall(b"\xff" * 100)
            await until(lambda: daemon.counts["cut_off"] == 1)
        assert (await scraped(daemon))["greencache_refused_clients_total", "cut_off"] == 1


async def test_health_is_told_and_status_says_where(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path))
    Observation(daemon)
    async with daemon:
        port = port_of(daemon)
        answer = await ask(port, "/healthz")
        assert answer.status == 200
        assert json.loads(answer.body)["status"] == "ok"
        status = json.loads(json.dumps(daemon.status()))
        assert status["metrics"] == {"address": "127.0.0.1", "port": port}
        assert status["held"] == {
            "leases": 0,
            "oldest_lease_s": 0,
            "reservations": 0,
            "oldest_reservation_s": 0,
        }
        health = daemon.services[0]._health  # type: ignore[attr-defined]
    assert (await health("")).status == 503, "and not once it has stopped"


async def test_a_token_is_asked_for_and_needed_beyond_loopback(tmp_path: Path) -> None:
    daemon = Daemon(settings(tmp_path, metrics_address="0.0.0.0"))
    Observation(daemon)
    with pytest.raises(SettingsError, match="GREENCACHE_SERVE__METRICS_TOKEN"):
        await daemon.start()
    assert not daemon.path.exists()
    daemon = Daemon(settings(tmp_path, metrics_address="0.0.0.0", metrics_token="secret"))
    Observation(daemon)
    async with daemon:
        assert (await ask(port_of(daemon), "/metrics")).status == 401
        healthy = await ask(port_of(daemon), "/healthz")
        assert (healthy.status, json.loads(healthy.body)) == (200, {"status": "ok"}), "for probes"
        answer = await ask(port_of(daemon), "/metrics", "Authorization: Bearer secret")
        assert answer.status == 200
        assert "secret" not in json.dumps(daemon.status())


async def test_a_port_in_use_stops_only_who_asked_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        daemon = Daemon(settings(tmp_path, metrics_port=taken.getsockname()[1]))
        Observation(daemon)
        with pytest.raises(ServiceError, match="METRICS_PORT"):
            await daemon.start()
    assert not daemon.path.exists()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", PORT))
        except OSError:
            pass  # somebody else's daemon has it, which is as good
        else:
            taken.listen()
        daemon = Daemon(settings(tmp_path, metrics_port=None))
        Observation(daemon)
        async with daemon, client_of(daemon) as client:
            assert await client.lookup(prompt(1)) == {"dram": 0}
            assert daemon.status()["metrics"]["port"] is None
    assert "no metrics: cannot listen on 127.0.0.1:19600" in caplog.text


async def test_an_old_lease_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(settings(tmp_path, metrics=False))
    Observation(daemon, long_s=0.05, look_every_s=0.01)
    keys = prompt(*range(4))

    def warnings() -> list[str]:
        return [each.message for each in caplog.records if each.levelno == logging.WARNING]

    async with daemon, client_of(daemon) as client:
        await client.store(keys, the_bytes(keys, BLOCK_BYTES))
        lease = await client.acquire(keys)
        await until(lambda: len(warnings()) == 1)
        await asyncio.sleep(0.2)
        lease.release()
        again = await client.acquire(keys)
        await until(lambda: len(warnings()) == 2)
        again.release()
    assert all("has had a lease of 4 blocks (16.4 kB) for 0 s" in each for each in warnings())
