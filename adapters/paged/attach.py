"""How an engine gets to the host's daemon: the one that runs, or one of its own."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from greencache.adapters.paged.processors import processors
from greencache.client import Client
from greencache.client.address import connect
from greencache.client.pinning import Pinning
from greencache.errors import TierError, UnavailableError
from greencache.settings import Settings

__all__ = ["attach"]

_START_S = 60.0
"""A daemon that has to compile first takes half a minute, once after an installation."""

_AGAIN_S = 0.1
"""A client that was refused does not try again before that."""

_BINDING = {"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"}
"""By these OpenMP, which vLLM has every process load, binds whoever starts."""

_log = logging.getLogger("vllm.greencache")

_DETACHED = """
import os, subprocess, sys
os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
options = {"stdin": subprocess.DEVNULL, "stdout": 2, "start_new_session": True}
print(subprocess.Popen(sys.argv[2:], **options).pid)
"""
"""Starts a process on given processors that is nobody's child: vLLM kills all that descends from
its processes, and other engines may use the daemon by then."""


def attach(
    settings: Settings,
    *,
    block_bytes: int,
    shards: int,
    shard: int | None,
    group: bytes,
    name: str,
    timeout_s: float,
    pinning: Pinning | None = None,
) -> Client:
    """A client of the host's daemon, which is started if there is none and settings allow it.

    Where there is none in the end, the engine runs without: the client goes on to look for one.

    Parameters
    ----------
    settings:
        Where the daemon is, and whether one may be started.
    block_bytes, shards, shard, group, name, timeout_s, pinning:
        As of `Client`.

    Raises
    ------
    RefusedError
        If the daemon does not serve this engine; its text says why.
    """
    client = Client(
        block_bytes,
        socket=settings.serve.socket,
        shards=shards,
        shard=shard,
        group=group,
        name=name,
        timeout_s=timeout_s,
        pinning=pinning,
    )
    fault = _tried(client)
    if fault is not None and settings.vllm.autostart and _start(client.socket):
        time.sleep(_AGAIN_S)
        fault = _tried(client)
    if fault is not None:
        _log.warning("the engine runs without a store for now: %s", fault)
    return client


def _tried(client: Client) -> UnavailableError | TierError | None:
    """Why a client's daemon cannot be had, or not for such blocks: a full disk, say."""
    try:
        client.prefetch([], timeout_s=_START_S)  # nothing, but within the time that a start takes
    except (UnavailableError, TierError) as fault:
        return fault
    return None


def _start(socket: Path) -> bool:
    """Start a daemon that ends when its last client has; whether one listens then."""
    try:
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (socket.parent / "starting.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several ranks begin at once
            return _listens(socket) or _started(socket)
    except OSError as fault:
        _log.warning("no daemon can be started: %s", fault)
        return False


def _started(socket: Path) -> bool:
    _log.info("no daemon runs: starting one with this engine")
    command = [sys.executable, "-m", "greencache", "serve", "--socket", str(socket), "--while-used"]
    there = ",".join(map(str, processors()))
    started = subprocess.run(
        [sys.executable, "-c", _DETACHED, there, *command],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in _BINDING},
    )
    end_s = time.monotonic() + _START_S
    while started.returncode == 0 and time.monotonic() < end_s:
        if _listens(socket):
            return True
        if not _runs(int(started.stdout)):
            break
        time.sleep(0.05)
    _log.warning("no daemon could be started; try `%s`", " ".join(command))
    return False


def _runs(pid: int) -> bool:
    """Whether a process has not ended: also if nobody has asked how it did (a zombie)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state = status.rpartition(")")[2].split()[0]  # proc_pid_stat(5): after a name of any letters
    return state not in "ZX"


def _listens(socket: Path) -> bool:
    try:
        connect(socket).close()
    except UnavailableError:
        return False
    return True
