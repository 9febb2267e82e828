"""The daemon is killed in mid-copy, again and again: both clients go on, and no byte is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.client import Reservation
from greencache.client.messages import Question
from greencache.errors import UnavailableError
from tests.client.clients import KINDS, Face, open_client
from tests.conformance.prompts import prompt, the_bytes
from tests.service.daemons import MIB, RunningDaemon

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 256 * 1024
PROMPTS = 12
LONGEST = 16
TASKS = 3
TIMEOUT_S = 2.0

KEYS = [prompt(name, *range(LONGEST))[1:] for name in range(PROMPTS)]


class Work:
    """What tasks do with a client until it is over, and what came of it."""

    def __init__(self, client: Face, blocks: list[Bytes]) -> None:
        self.client, self._blocks = client, blocks
        self.over = False
        self.done: Counter[str] = Counter()
        self.longest_s = 0.0

    async def run(self, seed: int) -> None:
        random, loop = np.random.default_rng(seed), asyncio.get_running_loop()
        while not self.over:
            name, count = int(random.integers(PROMPTS)), int(random.integers(1, LONGEST + 1))
            keys, blocks = KEYS[name][:count], self._blocks[name][:count]
            begin_s = loop.time()
            try:
                if random.random() < 0.4:
                    stored = await self.client.store(keys, blocks)
                    self.done["stored"] += stored  # after the wait, in which others added theirs
                elif random.random() < 0.6:
                    into = np.zeros_like(blocks)
                    good = await self.client.load(keys, into)
                    self._compare(into[:good], blocks[:good])
                else:
                    await self._hold(keys, blocks, random.uniform(0.0, 0.05))
            except UnavailableError:
                self.done["unavailable"] += 1
                await asyncio.sleep(0.005)
            self.longest_s = max(self.longest_s, loop.time() - begin_s)

    async def _hold(
        self,
        keys: list[bytes],
        blocks: Bytes,
        rest_s: float,
    ) -> None:
        """Read a lease where it stands, before and after a while in which anything may happen."""
        with await self.client.acquire(keys) as lease:
            with contextlib.suppress(UnavailableError):
                await self.client.fetch(lease)
            for _ in range(2):
                views = lease.views()
                self._compare(np.array(views, np.uint8), blocks[: len(views)])
                await asyncio.sleep(rest_s)

    def _compare(self, read: Bytes, blocks: Bytes) -> None:
        self.done["loaded"] += len(read)
        self.done["wrong"] += not np.array_equal(read, blocks) if len(read) else 0


async def _kill_often(tmp_path: Path, times: int, seed: int) -> None:
    gc.collect()  # memory of daemons that other tests had
    random = np.random.default_rng(seed)
    blocks = [the_bytes(keys, BLOCK_BYTES) for keys in KEYS]
    options: dict[str, Any] = {"dram": 24 * MIB, "ssd_dir": tmp_path / "ssd", "ssd": 40 * MIB}
    with RunningDaemon(tmp_path, **options) as daemon:
        async with contextlib.AsyncExitStack() as stack:
            works = [
                Work(
                    await stack.enter_async_context(
                        open_client(
                            kind,
                            BLOCK_BYTES,
                            socket=daemon.socket,
                            timeout_s=TIMEOUT_S,
                            long_timeout_s=TIMEOUT_S,
                        )
                    ),
                    blocks,
                )
                for kind in KINDS
            ]
            tasks = [
                asyncio.create_task(work.run(int(random.integers(2**32))))
                for work in works
                for _ in range(TASKS)
            ]
            for _ in range(times):
                before = [work.done["loaded"] for work in works]
                async with asyncio.timeout(60.0):
                    while any(
                        work.done["loaded"] == had for work, had in zip(works, before, strict=True)
                    ):
                        await asyncio.sleep(0.002)
                await asyncio.sleep(random.uniform(0.0, 0.1))
                await asyncio.to_thread(daemon.kill)
                await asyncio.to_thread(daemon.start)
            for work in works:
                work.over = True
            await asyncio.gather(*tasks)
            for work in works:
                assert work.done["wrong"] == 0
                assert work.done["unavailable"] > 0
                assert work.done["stored"] > 0
                # A call has up to three questions and copies, on a machine that does much else.
                assert work.longest_s < 5 * TIMEOUT_S
                await _settles(work.client)
        maps = Path("/proc/self/maps").read_text()
        assert "memfd:greencache" not in maps, "memory of daemons that are gone is let go"


async def _settles(client: Face) -> None:
    """Nothing that a client had with any daemon stays."""
    for _ in range(1000):
        with contextlib.suppress(UnavailableError):
            if (await client.status())["transactions"] == 0:
                return
        await asyncio.sleep(0.01)
    raise AssertionError("something is still leased or reserved")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_daemon_could_not_be_told_of_is_not_said_to_be_stored(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after the blocks were copied, before it can be told so."""
    keys, blocks = KEYS[0], the_bytes(KEYS[0], BLOCK_BYTES)
    with RunningDaemon(tmp_path) as daemon:
        async with open_client(kind, BLOCK_BYTES, socket=daemon.socket) as client:
            await client.lookup(keys)
            told = Reservation.end

            def after_a_kill(self: Reservation, question: Question | None) -> bool:
                daemon.kill()
                return told(self, question)

            monkeypatch.setattr(Reservation, "end", after_a_kill)
            with pytest.raises(UnavailableError, match="before the blocks were committed"):
                await client.store(keys, blocks)


async def test_ten_kills_in_mid_copy_never_give_a_wrong_byte(tmp_path: Path) -> None:
    await _kill_often(tmp_path, times=10, seed=1)


@pytest.mark.soak
async def test_two_hundred_kills_in_mid_copy_never_give_a_wrong_byte(tmp_path: Path) -> None:
    await _kill_often(tmp_path, times=200, seed=2)
