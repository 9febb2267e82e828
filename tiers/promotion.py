"""Promotion: what is in a lower tier alone gets into DRAM, once however many ask for it."""

from __future__ import annotations

import asyncio

import numpy as np

from greencache.tiers.base import Addressable, Blocks, Tier, TierLease, TierReservation

__all__ = ["Promoter"]


class Promoter:
    """Copies leased blocks from a lower tier to DRAM.

    Attributes
    ----------
    promoted_blocks:
        How many it has.
    """

    def __init__(self, lower: Tier, dram: Tier) -> None:
        self._lower, self._dram = lower, dram
        self._on_their_way: dict[bytes, asyncio.Future[None]] = {}
        self.promoted_blocks = 0

    async def promote(self, source: TierLease) -> TierLease:
        """Copy what DRAM lacks of a lease; a lease of what DRAM has of it then.

        A lease of what cannot be read is cut to what can, so that nobody waits for it again.
        """
        keys = source.keys
        while (found := await self._dram.match(keys)) < len(keys):
            other = self._on_their_way.get(keys[found])
            if other is None:
                await self._copy_once(source, found)
                break  # DRAM has all now, or has no room, or a prompt is being stored
            await asyncio.shield(other)
        return await self._dram.hold(keys)

    async def _copy_once(self, source: TierLease, found: int) -> None:
        """Copy what follows, and let others wait for it from before there is room for it."""
        done = asyncio.get_running_loop().create_future()
        wanted = dict.fromkeys(source.keys[found:])  # each once
        coming = [key for key in wanted if key not in self._on_their_way]
        self._on_their_way |= dict.fromkeys(coming, done)
        try:
            await self._copy(source)
        finally:
            for key in coming:
                del self._on_their_way[key]
            done.set_result(None)

    async def _copy(self, source: TierLease) -> None:
        room = await self._dram.reserve(source.keys)
        try:
            if len(room) and await self._filled(room, source):
                await self._dram.commit(room)
                self.promoted_blocks += len(room)
        finally:
            if not room.ended:
                self._dram.abort(room)

    async def _filled(self, room: TierReservation, source: TierLease) -> bool:
        """Read reserved blocks, where they will stand if they can be addressed there."""
        addressed = isinstance(self._dram, Addressable)
        blocks: Blocks = (
            self._dram.reserved(room)
            if isinstance(self._dram, Addressable)
            else np.empty((len(room), self._lower.block_bytes), np.uint8)
        )
        good = await self._lower.read(source, blocks, room.first)
        if good < len(room):
            source.keys = source.keys[: room.first + good]
            return False
        return addressed or await self._dram.write(room, blocks)
