"""Engines get to the host's daemon, start one if there is none, or run without."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from greencache.adapters.paged.attach import _runs, attach
from greencache.client import Client
from greencache.errors import RefusedError, TierError, UnavailableError
from greencache.settings import ServeSettings, Settings, VllmSettings
from tests.service.daemons import MIB, RunningDaemon, settled


def _attach(settings: Settings, *, shard: int | None = None, group: bytes = b"") -> Client:
    return attach(
        settings,
        block_bytes=8192,
        shards=2,
        shard=shard,
        group=group or secrets.token_bytes(16),
        name="an engine",
        timeout_s=20.0,
    )


def _settings(folder: Path, *, autostart: bool = True) -> Settings:
    return Settings(
        serve=ServeSettings(socket=folder / "own" / "daemon.sock"),
        vllm=VllmSettings(autostart=autostart),
    )


@pytest.mark.slow
def test_ranks_of_an_engine_start_one_daemon_which_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, group = _settings(tmp_path), secrets.token_bytes(16)
    # For the daemon.
    monkeypatch.setenv("GREENCACHE_SERVE__DRAM", "16MiB")
    monkeypatch.setenv("GREENCACHE_SERVE__METRICS", "false")
    with ThreadPoolExecutor(3) as threads:
        attached = [
            threads.submit(_attach, settings, shard=shard, group=group) for shard in (None, 0, 1)
        ]
        clients = [each.result() for each in attached]
    daemons = {client.status()["pid"] for client in clients}
    assert len(daemons) == 1
    (pid,) = daemons
    # Nobody's child: vLLM kills all that descends from its processes.
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    for client in clients:
        client.close()
    assert settled(lambda: not clients[0].socket.exists(), 60.0)


@pytest.mark.slow
def test_a_daemon_is_not_bound_to_the_processor_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENCACHE_SERVE__DRAM", "16MiB")
    monkeypatch.setenv("GREENCACHE_SERVE__METRICS", "false")
    monkeypatch.setenv("GOMP_CPU_AFFINITY", "0")
    before = os.sched_getaffinity(os.getpid())
    os.sched_setaffinity(os.getpid(), {min(before)})
    try:
        client = _attach(_settings(tmp_path))
        pid = client.status()["pid"]
        found = os.sched_getaffinity(pid)
        assert b"GOMP_CPU_AFFINITY" not in Path(f"/proc/{pid}/environ").read_bytes()
        client.close()
    finally:
        os.sched_setaffinity(os.getpid(), before)
    assert found == {min(before)} | os.sched_getaffinity(os.getppid())
    assert settled(lambda: not client.socket.exists(), 60.0)


@pytest.mark.slow
def test_the_hosts_daemon_goes_before_one_of_its_own(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "own") as daemon, _attach(_settings(tmp_path)) as client:
        assert client.status()["pid"] == daemon.pid


def test_without_a_daemon_the_engine_runs_without_and_finds_one_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client = _attach(_settings(tmp_path, autostart=False))
    assert "runs without a store for now" in caplog.text
    with client:
        with pytest.raises(UnavailableError):
            client.lookup([])
        with RunningDaemon(tmp_path / "own"):
            assert settled(lambda: _answers(client))


def _answers(client: Client) -> bool:
    try:
        client.lookup([])
    except (UnavailableError, TierError):
        return False
    return True


def test_a_daemon_that_cannot_be_started_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with caplog.at_level(logging.WARNING), _attach(_settings(tmp_path)):
        assert "no daemon could be started" in caplog.text
    caplog.clear()
    blocked = tmp_path / "a file"
    blocked.touch()
    with caplog.at_level(logging.WARNING), _attach(_settings(blocked)):
        assert "no daemon can be started" in caplog.text


def test_a_daemon_that_refuses_an_engine_says_why(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "own"):
        group = secrets.token_bytes(16)
        with Client(8192, socket=tmp_path / "own" / "daemon.sock", shards=4, group=group) as other:
            other.lookup([])
            with pytest.raises(RefusedError, match="4 shards, not 2"):
                _attach(_settings(tmp_path), group=group)


def test_a_daemon_whose_disk_fails_is_a_daemon_that_cannot_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssd = tmp_path / "ssd"
    with RunningDaemon(tmp_path / "own", ssd_dir=ssd, ssd=8 * MIB) as daemon:
        with Client(4096, socket=daemon.socket, timeout_s=60.0) as other:
            other.lookup([])
        (ssd / "8192").touch()  # no directory
        with caplog.at_level(logging.WARNING), _attach(_settings(tmp_path)) as client:
            assert "runs without a store for now" in caplog.text
            (ssd / "8192").unlink()
            assert settled(lambda: _answers(client))


def test_a_process_has_ended_though_nobody_has_asked_how() -> None:
    """As a daemon that fails at once, where the first process reaps none."""
    assert _runs(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not _runs(child.pid)
    assert not _runs(child.pid)
