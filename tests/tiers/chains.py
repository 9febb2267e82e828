"""Prompts whose blocks have known bytes, and what a tier must give back for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.base import Tier


def chain(name: int, blocks: int) -> list[bytes]:
    """Keys of one prompt's blocks."""
    return [hashlib.sha256(b"%d:%d" % (name, place)).digest()[:16] for place in range(blocks)]


def content(keys: Sequence[bytes], block_bytes: int) -> NDArray[np.uint8]:
    """The bytes of blocks, [blocks, block_bytes], which follow from their keys."""
    made = np.empty((len(keys), block_bytes), np.uint8)
    for row, key in zip(made, keys, strict=True):
        words = np.random.SFC64(int.from_bytes(key, "little")).random_raw(-(-block_bytes // 8))
        row[:] = np.asarray(words).view(np.uint8)[:block_bytes]
    return made


async def store(tier: Tier, keys: Sequence[bytes]) -> int:
    """Store what is missing of a prompt as far as there is room; how many blocks were stored."""
    reservation = await tier.reserve(keys)
    if not await tier.write(reservation, content(reservation.keys, tier.block_bytes)):
        return 0
    await tier.commit(reservation)
    return len(reservation)


async def verify(tier: Tier, keys: Sequence[bytes]) -> int:
    """Read the prefix that is there, check every byte, and say how long it is."""
    lease = await tier.acquire(keys)
    try:
        read = np.empty((len(lease), tier.block_bytes), np.uint8)
        good = await tier.read(lease, read)
        np.testing.assert_array_equal(read[:good], content(lease.keys[:good], tier.block_bytes))
        return good
    finally:
        tier.release(lease)
