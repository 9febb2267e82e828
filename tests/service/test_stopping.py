"""The daemon's end and beginning: what it was told to keep is there again, and it is alone."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.cli.serve import Options, with_options
from greencache.client import Client
from greencache.errors import (
    GreenCacheError,
    ServiceError,
    SettingsError,
    TierError,
    UnavailableError,
)
from greencache.service.daemon import Daemon
from greencache.settings import ServeSettings, Settings
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.engines import Engine
from tests.service.raw import RawClient

BLOCK_BYTES = 32 * 1024


def client_of(daemon: RunningDaemon) -> Client:
    return Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0)


def answers(client: Client) -> bool:
    try:
        client.status()
    except UnavailableError:  # it tries again after a while only
        return False
    return True


def test_what_was_committed_is_found_by_the_next_daemon(tmp_path: Path) -> None:
    """Also what the SSD had no time to take yet, and with a client that reads on."""
    folder = tmp_path / "daemon"
    prompts = [prompt(f"kept {number}", *range(9)) for number in range(20)]
    with RunningDaemon(folder, ssd_dir=folder / "ssd", ssd=32 * MIB) as daemon:
        with client_of(daemon) as client:
            for keys in prompts:
                assert client.store(keys, the_bytes(keys, BLOCK_BYTES)) == 10
            lease = client.acquire(prompts[0])
            left = client.reserve(prompt("never written", 1, 2))
            assert daemon.stop() == 0
            assert wrong_blocks(prompts[0], np.array(lease.views())) == 0
            with pytest.raises(UnavailableError):
                client.commit(left)
            assert [path.name for path in folder.iterdir()] == ["ssd"]
            daemon.start()
            assert settled(lambda: answers(client))
            into = np.empty((10, BLOCK_BYTES), np.uint8)
            for keys in prompts:
                assert client.lookup(keys) == {"dram": 0, "ssd": 10}
                assert client.load(keys, into) == 10
                assert wrong_blocks(keys, into) == 0
            assert client.lookup(prompt("never written", 1, 2))["dram"] == 0
        assert daemon.stop() == 0


def test_it_stops_while_engines_work(tmp_path: Path) -> None:
    folder = tmp_path / "daemon"
    with RunningDaemon(folder, dram=MIB, ssd_dir=folder / "ssd", ssd=8 * MIB) as daemon:
        engines = [
            Engine(daemon.socket, tmp_path / f"engine-{number}", number, timeout_s=20.0)
            for number in range(2)
        ]
        assert settled(lambda: all(engine.done().loaded > 3 for engine in engines), 60.0)
        assert daemon.stop() == 0
        for engine in engines:
            engine.stop()
            assert (engine.done().wrong, engine.done().faults) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """While it waits for what is being written, say; nothing of it is left to do then."""
    with RunningDaemon(tmp_path) as daemon, RawClient(daemon.socket) as client:
        client.attach(BLOCK_BYTES)
        daemon.pause()  # so that both signals wait for it
        daemon.signal(number)
        daemon.resume()
        time.sleep(0.001)
        daemon.signal(number)
        assert settled(lambda: not daemon.alive)
        assert daemon.exit_code in {0, 128 + number}


async def test_one_daemon_at_a_place(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        second = Daemon(Settings(serve=ServeSettings(socket=daemon.socket, dram=MIB, staging=MIB)))
        said = f"a daemon listens at {daemon.socket} already (process {daemon.pid})"
        with pytest.raises(ServiceError, match=re.escape(said)):
            await second.start()
        with client_of(daemon) as client:
            assert client.status()["pid"] == daemon.pid


@pytest.mark.slow
def test_served_by_the_command_line(tmp_path: Path) -> None:
    """With sizes as people write them, from options and from the environment."""
    tmp_path.chmod(0o700)
    socket = tmp_path / "daemon.sock"
    command = [sys.executable, "-m", "greencache", "serve", "--dram", "24MiB"]
    environment = {**os.environ, "GREENCACHE_SERVE__SOCKET": str(socket)}
    environment |= {"GREENCACHE_SERVE__STAGING": "1MiB"}
    served = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert settled(socket.exists, 60.0)
        with Client(BLOCK_BYTES, socket=socket, timeout_s=20.0) as client:
            assert client.status()["capacity_bytes"] == {"dram": 24 * MIB}
    finally:
        served.send_signal(signal.SIGINT)
        _, said = served.communicate(timeout=30)
    assert served.returncode == 0
    assert str(socket) in said
    assert not socket.exists()


async def test_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    serve = ServeSettings(socket=tmp_path / "daemon.sock", dram=900 << 40)
    with pytest.raises(TierError, match="is available; choose less"):
        await Daemon(Settings(serve=serve)).start()
    assert list(tmp_path.iterdir()) == []


def quiet(folder: Path, **options: Any) -> Settings:
    folder.chmod(0o700)
    wanted = {"socket": folder / "daemon.sock", "dram": 2 * MIB, "staging": MIB, **options}
    return Settings(serve=ServeSettings(**wanted))


async def test_the_log_says_which_sizes_are_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssd = tmp_path / "ssd"
    with caplog.at_level(logging.INFO):
        async with Daemon(quiet(tmp_path, ssd_dir=ssd, ssd=8 * MIB)):
            assert f"DRAM 2 MiB, SSD 8 MiB in {ssd}, policy lru" in caplog.messages
        async with Daemon(quiet(tmp_path, dram=0)):
            assert "DRAM 1 MiB, no SSD, policy lru" in caplog.messages


async def test_what_doctor_finds_amiss_with_the_disk_is_in_the_log_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greencache.service.doctor.disk.filesystem_of", lambda path: "tmpfs")
    async with Daemon(quiet(tmp_path, ssd_dir=tmp_path / "ssd", ssd=8 * MIB)):
        assert "SSD filesystem: tmpfs: this is memory, no disk; name a directory" in caplog.text


def test_a_size_of_ssd_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="2 GB of SSD are for KV, but nothing says where"):
        Daemon(quiet(tmp_path, ssd=2 * 10**9))
    Daemon(quiet(tmp_path, ssd=0))


def test_options_go_before_settings_and_are_checked() -> None:
    settings = Settings(serve=ServeSettings(dram=MIB, sessions=7))
    serve = with_options(settings, Options(dram="2MiB")).serve
    assert (serve.dram, serve.sessions) == (2 * MIB, 7)
    with pytest.raises(SettingsError, match=r"^--dram: 'lots' is not a size"):
        with_options(settings, Options(dram="lots"))


def test_questions_being_answered_are_answered(tmp_path: Path) -> None:
    """Many ask as it stops: each gets a good answer or knows that there is none."""
    folder = tmp_path / "daemon"
    ends: list[str] = []
    with RunningDaemon(folder) as daemon, client_of(daemon) as client:
        keys = prompt("asked", *range(50))
        client.store(keys, the_bytes(keys, BLOCK_BYTES))

        def ask() -> None:
            try:
                while client.lookup(keys) == {"dram": len(keys)}:
                    pass
                ends.append("another daemon's answer")
            except GreenCacheError as fault:
                ends.append(type(fault).__name__)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert daemon.stop() == 0
        for thread in threads:
            thread.join(60.0)
    assert ends == ["UnavailableError"] * 4
