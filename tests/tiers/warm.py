"""Imported once by the server that `killed`'s processes are forked from: it loads compiled code."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.conformance.prompts import load
from tests.tiers.chains import chain, store
from tests.tiers.killed import CAPACITY_BYTES, LONGEST, tier_in


async def _use_all(path: Path) -> None:
    for _ in range(2):
        async with tier_in(path) as tier:
            for name in range(CAPACITY_BYTES // tier.block_bytes // LONGEST + 2):
                await store(tier, chain(name, LONGEST))
            await load(tier, chain(0, LONGEST))
            await tier.resize(CAPACITY_BYTES // 2)
            await tier.delete(chain(name, 2))


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(_use_all(Path(folder) / "tier"))
