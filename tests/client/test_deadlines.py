"""A daemon that stands still: calls end within their deadlines, and nothing is lost or kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.errors import UnavailableError
from tests.client.clients import KINDS, Face, open_client
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.service.daemons import RunningDaemon

BLOCK_BYTES = 16 * 1024
KEYS = prompt(*range(8))
LATE_S = 5.0
"""What a busy machine may add to a deadline."""

both = pytest.mark.parametrize("kind", KINDS)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds; the daemon may have to be reached again."""
    for _ in range(1000):
        try:
            if await holds():
                return
        except UnavailableError:
            pass
        await asyncio.sleep(0.01)
    raise AssertionError("it never did")


async def status_of(client: Face) -> dict[str, Any]:
    found: dict[str, Any] = await client.status()
    return found


async def transactions(client: Face) -> int:
    return int((await status_of(client))["transactions"])


@both
async def test_calls_end_in_time_while_the_daemon_stands_still(kind: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    into = np.empty((8, BLOCK_BYTES), np.uint8)
    with RunningDaemon(tmp_path) as daemon:
        async with open_client(kind, BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client:
            await client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
            daemon.pause()
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: client.lookup(KEYS, timeout_s=0.2),
                lambda: client.load(KEYS, into, timeout_s=0.2),
                lambda: client.store(prompt("new"), into[:1], timeout_s=0.2),
                lambda: client.flush(timeout_s=0.2),
            ]
            for call in calls * 3:
                began_s = loop.time()
                with pytest.raises(UnavailableError):
                    await call()
                assert loop.time() - began_s < 0.2 + LATE_S
            began_s = loop.time()
            ends = await asyncio.gather(
                *(client.load(KEYS, into, timeout_s=0.3) for _ in range(10)),
                return_exceptions=True,
            )
            assert {type(end) for end in ends} == {UnavailableError}
            assert loop.time() - began_s < 0.3 + LATE_S
            daemon.resume()

            async def nothing_is_held() -> bool:
                return await transactions(client) == 0

            await until(nothing_is_held)
            assert await client.load(KEYS, into) == 8
            assert wrong_blocks(KEYS, into) == 0
            # One question of those above may still be answered.
            await until(nothing_is_held)


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[Path]:
    """Where somebody takes connections, and says nothing."""
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        yield path


@both
async def test_nobody_waits_longer_because_another_waits_for_a_connection(
    kind: str, mute: Path
) -> None:
    async with open_client(
        kind, BLOCK_BYTES, socket=mute, timeout_s=10.0, long_timeout_s=2.0
    ) as client:
        first = asyncio.create_task(client.prefetch([]))
        await asyncio.sleep(0.1)
        with pytest.raises(UnavailableError):
            await client.lookup(KEYS, timeout_s=0.1)
        assert not first.done()
        with pytest.raises(UnavailableError):
            await first
        await asyncio.sleep(0.1)  # until it may be tried again
        again = asyncio.create_task(client.prefetch([]))
        await asyncio.sleep(0.1)
        for _ in range(100):  # for a tenth of a second each they would outlast it by far
            with pytest.raises(UnavailableError):
                await client.lookup(KEYS, timeout_s=0.1)
        assert not again.done()
        with pytest.raises(UnavailableError):
            await again


@both
async def test_a_late_answer_is_given_back_and_the_connection_kept(
    kind: str, tmp_path: Path
) -> None:
    with RunningDaemon(tmp_path) as daemon:
        async with open_client(kind, BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client:
            await client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
            in_time = 0
            for _ in range(20):  # nearly all are late
                with contextlib.suppress(UnavailableError):
                    (await client.acquire(KEYS, timeout_s=0.0)).release()
                    in_time += 1
                with contextlib.suppress(UnavailableError):
                    (await client.reserve(prompt("new"), timeout_s=0.0)).abort()
            assert in_time < 20

            async def nothing_is_held() -> bool:
                return await transactions(client) == 0

            await until(nothing_is_held)
            counts = (await status_of(client))["counts"]
            assert counts["Hello"] == 1
            assert counts["Acquire"] == counts["Release"] == 20


@pytest.mark.slow
@both
async def test_what_is_in_use_when_the_connection_is_lost_stays(kind: str, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        async with open_client(kind, BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client:
            await client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
            lease = await client.acquire(KEYS)
            reservation = await client.reserve(prompt("new"))
            daemon.pause()
            for _ in range(100):
                with pytest.raises(UnavailableError):
                    await client.lookup(KEYS, timeout_s=0.05)
                await asyncio.sleep(0.02)
            daemon.resume()

            async def said_hello_again() -> bool:
                return int((await status_of(client))["counts"]["Hello"]) >= 2

            await until(said_hello_again)
            assert await transactions(client) == 2, "both are still in use here"
            assert wrong_blocks(KEYS, np.stack(lease.views())) == 0
            with pytest.raises(UnavailableError, match="lost"):
                await client.commit(reservation)
            assert await transactions(client) == 2, "the lease still is"
            lease.release()

            async def nothing_is_held() -> bool:
                return await transactions(client) == 0

            await until(nothing_is_held)
            assert await client.lookup(prompt("new")) == {"dram": 0}
            assert len(await client.reserve(prompt("new"))) == 1
