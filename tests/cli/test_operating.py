"""What an operator does with a daemon: serve, status, resize, doctor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greencache.client import Client
from greencache.version import VERSION
from tests.cli.test_commands import greencache
from tests.conformance.prompts import prompt, the_bytes

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
BLOCK_BYTES = 4096


class Running(NamedTuple):
    socket: Path
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real daemon with logs in JSON, and five blocks in it."""
    folder = tmp_path_factory.mktemp("daemon")
    folder.chmod(0o700)
    place, log = folder / "daemon.sock", folder / "log"
    settings = {
        "SOCKET": str(place),
        "DRAM": "64MiB",
        "STAGING": "16MiB",
        "SSD_DIR": str(folder / "ssd"),
        "SSD": "64MiB",
        "METRICS_PORT": "0",
        "LOG": "json",
    }
    environment = {name: value for name, value in os.environ.items() if "GREENCACHE" not in name}
    environment |= {f"GREENCACHE_SERVE__{name}": value for name, value in settings.items()}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "greencache", "serve"], env=environment, stderr=file
        )
    try:
        end_s = time.monotonic() + 60
        while not place.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end_s
            time.sleep(0.05)
        keys = prompt(*range(5))
        with Client(BLOCK_BYTES, socket=place, timeout_s=60, long_timeout_s=60) as client:
            client.store(keys, the_bytes(keys, BLOCK_BYTES))
            client.flush()
        yield Running(place, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def result(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert greencache(*arguments, "--json=-") == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_status_is_a_table_and_json(
    daemon: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = result(capsys, "status", f"--socket={daemon.socket}")
    assert status["schema"] == "greencache.status/1"
    assert (status["version"], status["pid"]) == (VERSION, daemon.process.pid)
    assert status["pools"][0]["tiers"]["dram"]["blocks"] == 5
    assert status["pools"][0]["tiers"]["ssd"]["failures"] == {}
    assert greencache("status", f"--socket={daemon.socket}", f"--json={tmp_path / 's'}") == 0
    out = capsys.readouterr().out
    assert f"greencache {VERSION}, process {daemon.process.pid}, up " in out
    assert f"http://127.0.0.1:{status['metrics']['port']}/metrics" in out
    assert "leases: none; reservations: none" in out
    (control,) = (line for line in out.splitlines() if line.startswith("control: "))
    assert f"\n{control}\n" in OPERATING.read_text(), "as it is shown there"
    rows = {line.split()[2]: line.split() for line in out.splitlines() if line.startswith("4.1 kB")}
    assert rows["dram"][3:5] == ["64", "MiB"]
    assert rows["ssd"][-1] == "none"
    assert json.loads((tmp_path / "s").read_text())["pid"] == daemon.process.pid


def test_metrics_are_where_status_says(daemon: Running, capsys: pytest.CaptureFixture[str]) -> None:
    port = result(capsys, "status", f"--socket={daemon.socket}")["metrics"]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        assert b'greencache_tier_blocks{tier="dram"} 5.0\n' in page.read()


def test_a_socket_can_come_from_the_settings(
    daemon: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENCACHE_SERVE__SOCKET", str(daemon.socket))
    assert result(capsys, "status")["pid"] == daemon.process.pid


def test_resize_says_what_is_still_to_be_given_back(
    daemon: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"--socket={daemon.socket}"
    assert greencache("resize", "dram=32MiB", "ssd=128MiB", where) == 0
    assert capsys.readouterr().out == (
        "dram: 32 MiB; nothing is left to be given back\n"
        "ssd: 128 MiB; nothing is left to be given back\n"
    )
    assert result(capsys, "status", where)["capacity_bytes"] == {"dram": 32 << 20, "ssd": 128 << 20}
    assert greencache("resize", "dram=1MiB", where) == 0
    kept = "dram: 1 MiB wanted, 16 MiB kept: the least that serving takes"
    assert capsys.readouterr().out.startswith(kept)
    keys = prompt(*range(5))
    with (
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=60) as client,
        client.acquire(keys) as lease,
    ):
        assert lease.blocks == 5
        resized = result(capsys, "resize", "ssd=0", where)
        assert resized["tiers"]["ssd"]["capacity_bytes"] == 0
        assert resized["tiers"]["ssd"]["over_bytes"] > 0
        assert greencache("resize", "ssd=0", where) == 0
        assert "still to be given back, as leases and pins end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        (["dram"], "'dram' is no size of a tier; write it like dram=64GiB"),
        (["=5GB"], "'=5GB' is no size of a tier"),
        (["dram=lots"], "'lots' is not a size"),
        (["ssd=2"], "'2' is a size without a unit; write it like 64GiB, 1.5TB or 0"),
        (["dram=1GB", "dram=2GB"], "dram is given two sizes"),
        (["tape=1TB"], "unknown tier 'tape'"),
    ],
)
def test_wrong_sizes_are_one_clear_line_and_exit_2(
    daemon: Running, capsys: pytest.CaptureFixture[str], sizes: list[str], complaint: str
) -> None:
    assert greencache("resize", *sizes, f"--socket={daemon.socket}") == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["status"], ["resize", "dram=1GiB"]])
def test_without_a_daemon_it_says_what_to_do_and_exits_with_1(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert greencache(*command, f"--socket={tmp_path / 'none.sock'}") == 1
    err = capsys.readouterr().err
    assert "start it with `greencache serve`" in err
    assert err.count("\n") == 1


def test_what_is_no_daemon_is_given_up_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greencache.client.direct.ask_status.__kwdefaults__", {"timeout_s": 0.2})
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        assert greencache("status", f"--socket={tmp_path / 'silent.sock'}") == 1
    assert "has not answered in 0.2 s" in capsys.readouterr().err


def findings(capsys: pytest.CaptureFixture[str], place: Path, status: int) -> dict[str, Any]:
    assert greencache("doctor", f"--socket={place}", "--json=-") == status
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "greencache.doctor/1"
    assert found["well"] == (status == 0)
    assert all(each["advice"] for each in found["findings"] if each["verdict"] != "ok")
    return {each["check"]: each for each in found["findings"]}


def test_doctor_finds_the_daemon(daemon: Running, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys, daemon.socket, 0)
    assert found["daemon"]["text"] == f"version {VERSION} runs as process {daemon.process.pid}"
    assert found["socket directory"]["verdict"] == "ok"
    assert "metrics port" not in found


def test_doctor_knows_a_socket_that_was_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("GREENCACHE_SERVE__METRICS_PORT", "0")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "daemon.sock"))
    found = findings(capsys, tmp_path / "daemon.sock", 0)
    assert found["daemon"]["verdict"] == "ok"
    assert "left its socket" in found["daemon"]["text"]


def test_doctor_fails_where_the_daemon_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("GREENCACHE_SERVE__DRAM", "900TB")
    monkeypatch.setenv("GREENCACHE_SERVE__SSD_DIR", str(tmp_path / "ssd"))
    found = findings(capsys, tmp_path / "daemon.sock", 1)
    failed = {name for name, each in found.items() if each["verdict"] == "fail"}
    assert failed == {"socket directory", "memory"}
    assert found["socket directory"]["advice"] == f"chmod 700 {tmp_path}"
    assert greencache("doctor", f"--socket={tmp_path / 'daemon.sock'}") == 1
    out = capsys.readouterr().out
    assert f"-> chmod 700 {tmp_path}" in out.replace("\n", "")
    assert ", 2 fail" in out


def test_doctor_fails_what_the_daemon_would_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    for name, value in {
        "STORAGE__POLICY": "foo",
        "SERVE__SSD": "2TB",
        "SERVE__METRICS_ADDRESS": "0.0.0.0",
        "SERVE__METRICS_PORT": "0",
        "ENGINE__MODEL": "foo",
        "ENGINE__HARDWARE": "1xH100",
    }.items():
        monkeypatch.setenv(f"GREENCACHE_{name}", value)
    found = findings(capsys, tmp_path / "daemon.sock", 1)
    failed = {name for name, each in found.items() if each["verdict"] == "fail"}
    assert failed == {"sizes", "eviction policy", "metrics address", "control"}


def test_doctor_says_which_setting_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENCACHE_SERVE__DRAM", "plenty")
    found = findings(capsys, tmp_path / "daemon.sock", 1)
    assert "GREENCACHE_SERVE__DRAM" in found["settings"]["text"]
    assert found["kernel"]["verdict"] == "ok"


def test_every_line_of_the_log_is_json(daemon: Running) -> None:
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any(line["message"].startswith("listening at") for line in lines)
    assert all(line["logger"].startswith("greencache") for line in lines)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "resize", "doctor"):
        assert greencache(command, "--help") == 0
        assert "For example:" in capsys.readouterr().out
