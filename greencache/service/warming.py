"""Compiled code is loaded, or compiled once, when it is first called: before clients wait.

Compiling takes ten seconds and more, once after an installation; loading a tenth of one.
"""

from __future__ import annotations

import numpy as np

from greencache.service.pools import Pool

__all__ = ["warm_up"]

_PROMPTS, _BLOCKS = 4, 4


async def warm_up(pool: Pool) -> None:
    """Do everything once that clients ask for, with a small pool that is then closed.

    Parameters
    ----------
    pool:
        One without SSD that has room for eight blocks, so that some are evicted.
    """
    block = np.zeros(pool.block_bytes, np.uint8)
    async with pool.cache as cache:
        for prompt in range(_PROMPTS):
            keys = [bytes([prompt, place]) * 8 for place in range(_BLOCKS)]
            reservation = await cache.reserve(keys)
            pool.dram.reserved_places(reservation.part)
            await cache.commit(reservation)
            await cache.store(keys, [block] * _BLOCKS)
            await cache.lookup(keys)
            lease = await cache.acquire(keys)
            await cache.fetch(lease)
            pool.dram.leased_places(lease.parts[pool.dram.name], 0, len(lease))
            cache.release(lease)
        await cache.prefetch(keys)
        cache.abort(await cache.reserve([b"aborted" + bytes(9)]))
        await pool.dram.delete(keys[:2])
        await cache.resize(dram=2 * pool.dram.stride_bytes)
