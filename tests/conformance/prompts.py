"""Keys and bytes to store: every key has its own bytes, so that any mix-up shows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from greencache.tiers.base import Tier, TierLease

__all__ = ["check", "load", "prompt", "settled", "store", "the_bytes", "wrong_blocks"]

Bytes = NDArray[np.uint8]


def prompt(*names: object) -> list[bytes]:
    """Keys of a prompt whose blocks have these names; a key names all before it as well."""
    keys: list[bytes] = []
    key = b""
    for name in names:
        key = hashlib.sha256(key + repr(name).encode()).digest()[:16]
        keys.append(key)
    return keys


def the_bytes(keys: Sequence[bytes], block_bytes: int) -> Bytes:
    """What is stored under these keys: [blocks, block_bytes]."""
    blocks = np.empty((len(keys), block_bytes), np.uint8)
    for block, key in zip(blocks, keys, strict=True):
        pattern = np.frombuffer(hashlib.shake_128(key).digest(509), np.uint8)
        block[:] = np.resize(pattern, block_bytes)  # a prime length: no two pages are alike
    return blocks


async def store(tier: Tier, keys: Sequence[bytes]) -> int:
    """Store what is missing of a prompt; how many blocks there was room for."""
    reservation = await tier.reserve(keys)
    assert list(reservation.keys) == list(
        keys[reservation.first : reservation.first + len(reservation)]
    )
    assert await tier.write(reservation, the_bytes(reservation.keys, tier.block_bytes))
    await tier.commit(reservation)
    return len(reservation)


def wrong_blocks(keys: Sequence[bytes], blocks: Bytes) -> int:
    """How many blocks are not what was stored under their keys."""
    return int((blocks != the_bytes(keys, blocks.shape[1])).any(axis=1).sum())


async def load(tier: Tier, keys: Sequence[bytes]) -> int:
    """Read the longest prefix that is here; its length. Its bytes must be those stored."""
    lease = await tier.acquire(keys)
    assert list(lease.keys) == list(keys[: len(lease)])
    try:
        return await check(tier, lease)
    finally:
        tier.release(lease)


async def check(tier: Tier, lease: TierLease) -> int:
    """Read a lease; how many blocks are good. Their bytes must be those stored."""
    blocks = np.full((len(lease), tier.block_bytes), 0xA5, np.uint8)
    good = await tier.read(lease, blocks)
    assert wrong_blocks(lease.keys[:good], blocks[:good]) == 0
    return good


async def settled(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether something becomes true soon that happens in the background."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + within_s
    while not holds() and loop.time() < end_s:
        await asyncio.sleep(0.001)
    return holds()
