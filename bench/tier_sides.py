"""Sides of the tier benchmark that live in this process: our tiers, and copies between buffers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from greencache.bench.tier_rounds import Batch, Case, Checked, Side, SideError, buffer
from greencache.blocks import KEY_BYTES
from greencache.errors import GreenCacheError
from greencache.tiers.base import Blocks, Tier
from greencache.tiers.dram import DramTier

__all__ = ["MEMCPY", "FromDramSide", "MemcpySide", "TierSide"]

MEMCPY = "memcpy"

Result = TypeVar("Result")


class MemcpySide(Side):
    """Copies between warm buffers: nothing is looked up, nothing can be missed.

    Parameters
    ----------
    by_block:
        Whether each block is a copy of its own, in a loop in Python, or a batch is one.
    """

    def __init__(self, *, by_block: bool = False) -> None:
        self.name = f"{MEMCPY}, block by block" if by_block else MEMCPY
        self._by_block = by_block

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        self._mine = Checked(batch, case.batches)
        shape = (case.batches, case.blocks, case.block_bytes)
        self._arena = buffer(case.store_bytes).reshape(shape)

    def _copy(self, into: NDArray[np.uint8], blocks: NDArray[np.uint8]) -> float:
        began_s = time.perf_counter()
        if self._by_block:
            for i in range(len(blocks)):
                np.copyto(into[i], blocks[i])
        else:
            np.copyto(into, blocks)
        return time.perf_counter() - began_s

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        self._mine.renew(batch)
        return self._copy(self._arena[batch], self._mine.blocks)

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        self._mine.forget()
        seconds = self._copy(self._mine.blocks, self._arena[batch])
        self._mine.check(batch)
        return seconds

    def end_case(self) -> None:
        """As `Side.end_case`."""
        del self._mine, self._arena


class TierSide(Side):
    """A tier: every batch is a prompt of its own under new keys, stored where older ones go.

    The tier is full after the first round, so that each batch evicts one. What is timed is
    everything between having the blocks and having stored or read them: finding, leasing or
    reserving, moving, committing or releasing.

    Parameters
    ----------
    name:
        What the table calls it.
    make:
        Makes the tier for a case, with room for its batches and no more.
    """

    def __init__(self, name: str, make: Callable[[Case], Tier]) -> None:
        self.name = name
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._tier: Tier | None = None

    def _run(self, work: Coroutine[object, object, Result]) -> Result:
        return self._loop.run_until_complete(work)

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        tier = self._make(case)
        try:
            self._run(tier.open())
        except (GreenCacheError, OSError) as fault:
            raise SideError(str(fault)) from fault
        self._tier = tier
        self._mine = Checked(batch, case.batches)
        self._keys: list[list[bytes]] = [[] for _ in range(case.batches)]
        self._memory: Blocks = self._mine.blocks

    @property
    def _open(self) -> Tier:
        assert self._tier is not None
        return self._tier

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        self._mine.renew(batch)
        fresh = secrets.token_bytes(KEY_BYTES * len(self._mine.blocks))
        self._keys[batch] = [fresh[at : at + KEY_BYTES] for at in range(0, len(fresh), KEY_BYTES)]
        self._lay_out()
        return self._run(self._put(self._keys[batch], self._memory))

    async def _put(self, keys: list[bytes], blocks: Blocks) -> float:
        began_s = time.perf_counter()
        reservation = await self._open.reserve(keys)
        if len(reservation) < len(keys):
            raise SideError(f"room for {len(reservation)} of {len(keys)} blocks")
        if not await self._open.write(reservation, blocks):
            raise SideError(f"could not write: {dict(self._open.stats().failures)}")
        await self._open.commit(reservation)
        return time.perf_counter() - began_s

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        self._mine.forget()
        self._lay_out()
        seconds = self._run(self._get(self._keys[batch], self._memory))
        self._bring_back()
        self._mine.check(batch)
        return seconds

    def _lay_out(self) -> None:
        """Have the blocks stand where the tier is to write them from, or to read them into."""

    def _bring_back(self) -> None:
        """Have blocks that were read stand where they are checked."""

    async def _get(self, keys: list[bytes], into: Blocks) -> float:
        began_s = time.perf_counter()
        lease = await self._open.acquire(keys)
        good = await self._open.read(lease, into[: len(lease)])
        self._open.release(lease)
        seconds = time.perf_counter() - began_s
        if good < len(keys):
            raise SideError(f"found {len(lease)} of {len(keys)} blocks, {good} of them good")
        return seconds

    def settle(self) -> float:
        """As `Side.settle`."""
        began_s = time.perf_counter()
        self._run(self._open.flush())
        return time.perf_counter() - began_s

    def end_case(self) -> None:
        """As `Side.end_case`."""
        if self._tier is not None:
            self._run(self._tier.close())
            self._tier = None
            self._memory = []
            del self._mine

    def close(self) -> None:
        """As `Side.close`."""
        self._loop.close()


class FromDramSide(TierSide):
    """A tier as it is used beneath DRAM: it writes from, and reads into, a `DramTier`'s memory.

    Which that tier has taken from the system by itself, and not as a benchmark would choose it.
    """

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        dram = DramTier(case.block_bytes, 0)
        dram = DramTier(case.block_bytes, dram.bytes_for(case.blocks))
        try:
            self._run(dram.open())
        except GreenCacheError as fault:
            raise SideError(str(fault)) from fault
        try:
            super().prepare(case, batch)
        except SideError:
            self._run(dram.close())
            raise
        keys = [block.to_bytes(KEY_BYTES, "big") for block in range(case.blocks)]
        self._dram, self._reservation = dram, self._run(dram.reserve(keys))
        self._memory = dram.reserved(self._reservation)

    def _lay_out(self) -> None:
        for place, block in zip(self._memory, self._mine.blocks, strict=True):
            place[:] = block

    def _bring_back(self) -> None:
        for place, block in zip(self._memory, self._mine.blocks, strict=True):
            block[:] = place

    def end_case(self) -> None:
        """As `Side.end_case`."""
        super().end_case()
        self._dram.abort(self._reservation)
        self._run(self._dram.close())
