"""How an engine gets to the host's daemon: the one that runs, or one of its own."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
import time
from pathlib import Path

from greencache.client import Client
from greencache.client.address import connect
from greencache.errors import UnavailableError
from greencache.settings import Settings

__all__ = ["attach"]

_START_S = 30.0
"""A daemon that has to compile first takes some seconds."""

_log = logging.getLogger("vllm.greencache")


def attach(
    settings: Settings,
    *,
    block_bytes: int,
    shards: int,
    shard: int | None,
    group: bytes,
    name: str,
) -> Client:
    """A client of the host's daemon, which is started if there is none and settings allow it.

    Where there is none in the end, the engine runs without: the client goes on to look for one.

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
        timeout_s=settings.vllm.deadline,
    )
    try:
        client.prefetch([], timeout_s=_START_S)  # nothing, but within the time that a start takes
    except UnavailableError as fault:
        if not settings.vllm.autostart:
            _log.warning("the engine runs without a store for now: %s", fault)
            return client
        if _start(client.socket):
            client.prefetch([], timeout_s=_START_S)
    return client


def _start(socket: Path) -> bool:
    """Start a daemon that ends when its last client has; whether one listens then."""
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "greencache", "serve", "--socket", str(socket)]
    with (socket.parent / "starting.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several ranks begin at once
        if _listens(socket):
            return True
        _log.info("no daemon runs: starting one with this engine")
        process = subprocess.Popen(
            [*command, "--while-used"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        end_s = time.monotonic() + _START_S
        while not _listens(socket):
            if process.poll() is not None or time.monotonic() > end_s:
                _log.warning("no daemon could be started: the engine runs without a store")
                return False
            time.sleep(0.05)
    return True


def _listens(socket: Path) -> bool:
    try:
        connect(socket).close()
    except UnavailableError:
        return False
    return True
