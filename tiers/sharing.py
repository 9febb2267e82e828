"""Writes to a tier that hosts share, behind everything else: a slow server holds up nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from greencache.tiers.backlog import Backlog
from greencache.tiers.base import Blocks, Tier, TierLease
from greencache.tiers.behind import bytes_of, insert

__all__ = ["SharedWrites"]

_log = logging.getLogger("greencache.tiers")


class _Waiting(NamedTuple):
    """What DRAM keeps until it was written."""

    source: TierLease
    size_bytes: int


class SharedWrites:
    """Stores prompts on a shared tier, from DRAM.

    The tier is not asked before it is a prompt's turn, not even for what it has already. What DRAM
    does not hold when the prompt is stored is not written. Without DRAM, the caller waits.

    Parameters
    ----------
    shared, dram:
        Where to, and where from.
    limit_bytes:
        What may wait, of what was computed; saves beyond are dropped.

    Attributes
    ----------
    dropped_blocks:
        Not written because too much waited, DRAM had no room for them, or the tier did not take
        them.
    waiting_bytes:
        Still to be written, or found to be there already.
    """

    def __init__(self, shared: Tier, dram: Tier | None, limit_bytes: int) -> None:
        self._shared, self._dram = shared, dram
        self._limit_bytes = limit_bytes
        self._backlog: Backlog[_Waiting] = Backlog()
        self.dropped_blocks = self.waiting_bytes = 0

    async def store(self, keys: Sequence[bytes], blocks: Blocks, first: int) -> None:
        """Store a prompt, of which ``blocks`` are those from ``first`` on."""
        if self._dram is None:
            room = await self._shared.reserve(keys)
            stop = room.first + len(room)
            written = await insert(self._shared, room, blocks, first)
            self.dropped_blocks += len(keys) - (stop if written else room.first)
            return
        await self.store_later(keys, len(blocks))

    async def store_later(self, keys: Sequence[bytes], computed: int) -> None:
        """Store a prompt that is in DRAM, of which so many blocks were computed now."""
        assert self._dram is not None
        size_bytes = computed * self._shared.block_bytes
        if self.waiting_bytes + size_bytes > self._limit_bytes:
            self.dropped_blocks += computed
            return
        source = await self._dram.hold(keys)
        if not self._backlog.put(_Waiting(source, size_bytes)):
            self._dram.release(source)
            self.dropped_blocks += computed
            return
        self.dropped_blocks += len(keys) - len(source)
        self.waiting_bytes += size_bytes

    async def drain(self) -> None:
        """Wait until all that waits by now is written."""
        await self._backlog.drained()

    def start(self) -> asyncio.Task[None]:
        """The task that writes what waits, until it is cancelled: then what is left is dropped."""
        return self._backlog.start(self._run(), self._drop)

    async def _run(self) -> None:
        while True:
            waiting = await self._backlog.get()
            stored = 0
            try:
                stored = await self._write(waiting.source)
            except Exception as fault:  # whatever it is, later writes go on
                _log.warning("a write to %s failed: %r", self._shared.name, fault)
            finally:
                self._ended(waiting, stored)
                self._backlog.done()

    def _ended(self, waiting: _Waiting, stored: int) -> None:
        self.waiting_bytes -= waiting.size_bytes
        self.dropped_blocks += len(waiting.source) - stored

    def _drop(self, waiting: _Waiting) -> None:
        """Let go of what waits for a worker that has ended."""
        assert self._dram is not None
        self._dram.release(waiting.source)
        self._ended(waiting, 0)

    async def _write(self, source: TierLease) -> int:
        """Write what the tier lacks of a prompt; how many leading blocks it has then."""
        assert self._dram is not None
        try:
            room = await self._shared.reserve(source.keys)
            if len(room) == 0:
                self._shared.abort(room)
                return room.first
            try:
                blocks = await bytes_of(self._dram, source, room.first, len(room))
            except BaseException:
                self._shared.abort(room)
                raise
            if blocks is not None and await insert(self._shared, room, blocks, room.first):
                return room.first + len(room)
            return room.first
        finally:
            self._dram.release(source)
