"""After a loss of power a tier has every block that was flushed, and no wrong byte."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from greencache.tiers.files import Directory
from greencache.tiers.ssd import SsdTier
from tests.conformance.prompts import load
from tests.tiers.chains import chain, store
from tests.tiers.disks import RecordedDisk

BLOCK_BYTES = 4096
CAPACITY_BYTES = 320 * 1024
CHAINS = 12
LONGEST = 8
DISKS_A_RUN = 25


class Run:
    """Random work on a recorded disk, and what the tier had to have when."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = np.random.default_rng(seed)
        self.disk: RecordedDisk | None = None
        self.held: list[tuple[int, frozenset[bytes]]] = []
        """After each step, the disk's time and what could be found."""
        self.flushed: list[tuple[int, int]] = []
        """After each flush, the disk's time and the place in ``held``."""

    def open_disk(self, path: Path) -> RecordedDisk:
        self.disk = RecordedDisk(path, self.disk)
        return self.disk

    def tier(self, path: Path, recorded: bool) -> SsdTier:
        return SsdTier(
            path,
            BLOCK_BYTES,
            CAPACITY_BYTES,
            extent_bytes=8 * BLOCK_BYTES,
            open_files=self.open_disk if recorded else Directory,
        )

    async def work(self, steps: int) -> None:
        tier = self.tier(self.path / "recorded", recorded=True)
        await tier.open()
        assert self.disk is not None
        for _ in range(steps):
            keys = chain(
                int(self.random.integers(CHAINS)), int(self.random.integers(1, LONGEST + 1))
            )
            doing = self.random.random()
            if doing < 0.55:
                await store(tier, keys)
            elif doing < 0.7:
                await load(tier, keys)
            elif doing < 0.75:
                await tier.delete(keys)
            elif doing < 0.78:
                tier = await self.killed(tier)
            elif doing < 0.85:
                await tier.resize(int(CAPACITY_BYTES * self.random.choice([0.5, 0.75, 1.0])))
            else:
                await tier.flush()
            await self.note(tier)
            if doing >= 0.85:
                self.flushed.append((self.disk.time, len(self.held) - 1))
        assert not tier.stats().failures
        await tier.close()

    async def killed(self, tier: SsdTier) -> SsdTier:
        """The tier of the next process, after this one's ended without a flush."""
        await tier._close()
        tier = self.tier(tier.path, recorded=True)
        await tier.open()
        return tier

    async def note(self, tier: SsdTier) -> None:
        found: list[bytes] = []
        for name in range(CHAINS):
            keys = chain(name, LONGEST)
            found += keys[: await tier.match(keys)]
        assert self.disk is not None
        self.held.append((self.disk.time, frozenset(found)))

    def required(self, time: int) -> frozenset[bytes]:
        """What was flushed before ``time``, and has been there ever since."""
        before = [place for when, place in self.flushed if when <= time]
        if not before:
            return frozenset()
        kept = self.held[before[-1]][1]
        for when, found in self.held[before[-1] :]:
            kept &= found
            if when >= time:
                break
        return kept

    async def check(self, path: Path, required: frozenset[bytes]) -> None:
        async with self.tier(path, recorded=False) as tier:
            for name in range(CHAINS):
                keys = chain(name, LONGEST)
                needed = len(required.intersection(keys))
                assert await load(tier, keys) >= needed
            # What it holds now it can hold on to.
            assert await store(tier, chain(99, 3)) == 3
            assert await load(tier, chain(99, 3)) == 3


@pytest.mark.parametrize("seed", range(8))
def test_flushed_blocks_outlast_a_loss_of_power(tmp_path: Path, seed: int) -> None:
    run = Run(tmp_path, seed)
    asyncio.run(run.work(steps=60))
    assert run.disk is not None
    demanding = 0
    for number in range(DISKS_A_RUN):
        time = int(run.random.integers(run.disk.time + 1))
        lost = tmp_path / f"{number}"
        run.disk.after_power_loss(lost, time, run.random)
        required = run.required(time)
        demanding += len(required) > 0
        asyncio.run(run.check(lost, required))
    assert demanding > DISKS_A_RUN // 4, "many of the disks had blocks to lose"


def test_what_a_killed_process_left_outlasts_a_loss_of_power_once_flushed(tmp_path: Path) -> None:
    run, keys = Run(tmp_path, seed=0), chain(1, LONGEST)

    async def work() -> None:
        tier = run.tier(tmp_path / "recorded", recorded=True)
        await tier.open()
        assert await store(tier, keys) == LONGEST
        tier = await run.killed(tier)
        await tier.flush()
        await tier._close()

    asyncio.run(work())
    assert run.disk is not None
    for number in range(5):
        lost = tmp_path / f"{number}"
        run.disk.after_power_loss(lost, run.disk.time, run.random)
        asyncio.run(run.check(lost, required=frozenset(keys)))
