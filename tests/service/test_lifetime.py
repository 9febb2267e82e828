"""A daemon that an engine started ends some time after nobody uses it any more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from greencache.client import Client
from greencache.service.daemon import Daemon
from greencache.service.lifetime import WhileUsed
from greencache.settings import ServeSettings, Settings
from tests.service.daemons import MIB


def _daemon(folder: Path) -> Daemon:
    folder.chmod(0o700)
    options = ServeSettings(socket=folder / "daemon.sock", dram=8 * MIB, staging=MIB)
    return Daemon(Settings(serve=options))


def test_it_ends_when_no_client_comes(tmp_path: Path) -> None:
    async def run() -> None:
        daemon = _daemon(tmp_path)
        WhileUsed(daemon, unused_s=60.0, first_s=0.3)
        await asyncio.wait_for(daemon.run(), 60.0)
        assert not daemon.serving

    asyncio.run(run())
    assert not (tmp_path / "daemon.sock").exists()


def test_it_ends_after_its_last_client_and_not_before(tmp_path: Path) -> None:
    async def run() -> None:
        daemon = _daemon(tmp_path)
        WhileUsed(daemon, unused_s=0.5, first_s=60.0)
        running = asyncio.create_task(daemon.run())
        while not daemon.serving:
            await asyncio.sleep(0.01)
            assert not running.done()
        first, second = (Client(4096, socket=daemon.path, timeout_s=20.0) for _ in range(2))
        for client in (first, second):
            await asyncio.to_thread(client.lookup, [])
        await asyncio.to_thread(first.close)
        await asyncio.sleep(1.0)
        assert not running.done(), "another uses it"
        await asyncio.to_thread(second.close)
        gone_s = time.monotonic()
        await asyncio.wait_for(running, 60.0)
        assert time.monotonic() - gone_s > 0.2

    asyncio.run(run())
