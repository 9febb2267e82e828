"""A process is killed at any instant: the next one finds what was committed, and no wrong byte."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.prompts import load
from tests.processes import process_context
from tests.tiers import killed
from tests.tiers.chains import chain

PAGE_BYTES = 4096


async def _check(path: Path, left: killed.Left) -> int:
    """Read everything that is there; how many blocks that is."""
    async with killed.tier_in(path) as tier:
        found = [await load(tier, chain(i, killed.LONGEST)) for i in range(killed.CHAINS)]
        stats = tier.stats()
        assert not stats.failures, "what is found again is whole"
        missing = sum(max(0, had - has) for had, has in zip(left.found, found, strict=True))
        assert missing <= left.evictable
        assert sum(found) == stats.blocks, "everything it holds can be found"
        extents = [file.stat() for file in path.glob("extent-*")]
        allocated = sum(file.st_blocks * 512 for file in extents)
        # A file of many pieces has a page that says where they are.
        assert 0 <= allocated - stats.used_bytes <= PAGE_BYTES * len(extents)
        return stats.blocks


def _kill_often(tmp_path: Path, times: int, seed: int) -> None:
    context = process_context()
    random = np.random.default_rng(seed)
    blocks = steps = demanding = 0
    tmp_path.chmod(0o700)
    for number in range(times):
        log = tmp_path / f"log-{number}"
        process = context.Process(
            target=killed.work, args=(tmp_path / "tier", log, int(random.integers(2**32)))
        )
        process.start()
        if random.random() < 0.8:  # else it may be killed while it opens the tier
            while (not log.exists() or log.stat().st_size == 0) and process.is_alive():
                time.sleep(0.005)
        time.sleep(random.uniform(0.0, 0.6))
        process.kill()
        process.join()
        assert process.exitcode == -9, "it worked until it was killed"
        left = killed.read_log(log) if log.exists() else killed.Left([0] * killed.CHAINS, 0, 0)
        blocks += asyncio.run(_check(tmp_path / "tier", left))
        steps += left.steps
        demanding += sum(left.found) > left.evictable
    # A busy machine gets little done between its kills, but not nothing.
    assert blocks > 2 * times, "there was much to find again"
    assert steps > times, "it was doing much when it was killed"
    assert demanding > 0


def test_ten_kills_under_mixed_load_lose_nothing(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=10, seed=1)


@pytest.mark.soak
def test_two_hundred_kills_under_mixed_load_lose_nothing(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=200, seed=2)
