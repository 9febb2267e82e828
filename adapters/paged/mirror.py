"""The HBM tier: what the engine's own pool of KV blocks has, and what waits, told to the daemon.

The pool stays the engine's; nothing of it is kept twice. It is looked at when a step has been
planned, which is when requests keep most of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from greencache.client import Hbm

__all__ = ["Mirror", "PoolState"]


class PoolState(NamedTuple):
    """What the engine's pool has now, in the engine's blocks.

    Attributes
    ----------
    blocks:
        All that there are.
    cached:
        Those in which a prefix is found again, in use or not.
    kept:
        Those that requests use.
    """

    blocks: int
    cached: int
    kept: int


class Mirror:
    """Watches one engine's pool.

    Parameters
    ----------
    look:
        Tells its state. It is called in the scheduler's thread and in the one that tells the
        daemon, so it must be quick and change nothing.
    block_bytes:
        Of one of the engine's blocks, over all ranks.
    waiting:
        Tells, in the same way, how many prompt tokens wait to be computed.
    """

    def __init__(
        self, look: Callable[[], PoolState], block_bytes: int, waiting: Callable[[], int]
    ) -> None:
        self._look, self._block_bytes, self._waiting = look, block_bytes, waiting
        self._lock = threading.Lock()
        self._most = 0

    def planned(self) -> None:
        """A step has been planned."""
        kept = self._look().kept
        with self._lock:
            self._most = max(self._most, kept)

    def take(self) -> Hbm:
        """What there is, and what requests kept at the most since this was asked last."""
        now = self._look()
        with self._lock:
            most, self._most = max(self._most, now.kept), 0
        return Hbm(self._block_bytes, now.blocks, now.cached, most, self._waiting())
