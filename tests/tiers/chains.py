"""Prompts by a number and a length, and storing them where a disk may fail."""

from __future__ import annotations

from collections.abc import Sequence

from greencache.tiers.base import Tier
from tests.conformance.prompts import prompt, the_bytes


def chain(name: int, blocks: int) -> list[bytes]:
    """Keys of one prompt's blocks."""
    return prompt(name, *range(blocks))[1:]


async def store(tier: Tier, keys: Sequence[bytes]) -> int:
    """Store what is missing of a prompt as far as there is room; how many blocks were stored."""
    reservation = await tier.reserve(keys)
    if not await tier.write(reservation, the_bytes(reservation.keys, tier.block_bytes)):
        return 0
    await tier.commit(reservation)
    return len(reservation)
