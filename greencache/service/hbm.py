"""``EnginePools``: HBM, the tier that engines keep, and the work that waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from greencache.client.messages import Hbm
from greencache.errors import InputError
from greencache.metrics import BLOCKS, CAPACITY, HBM_KEPT, USED, WAITING_TOKENS, Sample

__all__ = ["EnginePools"]

_SILENT_S = 10.0
"""After which an engine is taken to be gone: those that live tell every second."""

_MINUTE_S = 60.0

MOST_BYTES = 1 << 50
"""Of a block, blocks of a pool, and tokens that wait: more than any engine has."""

MOST_ENGINES = 1 << 12
"""Known at a time: a host has some hundreds of processes that run engines at the very most."""


@dataclass(slots=True)
class _Pool:
    told_s: float
    last: Hbm
    minute: int = -1
    most: float = 0.0
    """What requests kept in that minute at the most, as a share of the pool."""
    sum: float = 0.0
    minutes: int = 0
    """The same of minutes that are over since `EnginePools.take_kept`, and how many these are."""

    def keep(self, share: float, minute: int) -> None:
        """Requests keep so much."""
        if minute != self.minute:
            self._end_minute()
            self.minute = minute
        self.most = max(self.most, share)

    def take(self) -> float | None:
        """Mean over minutes; None if nothing was told."""
        self._end_minute()
        mean = self.sum / self.minutes if self.minutes else None
        self.sum, self.minutes = 0.0, 0
        return mean

    def _end_minute(self) -> None:
        if self.minute >= 0:
            self.sum += self.most
            self.minutes += 1
        self.minute, self.most = -1, 0.0


class EnginePools:
    """Mirrors engines' own pools of KV blocks, as they tell of them.

    Parameters
    ----------
    clock:
        The host's monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pools: dict[str, _Pool] = {}

    def told(self, who: str, hbm: Hbm) -> None:
        """An engine tells what its pool has.

        Raises
        ------
        InputError
            If that cannot be.
        """
        if not (
            0 < hbm.block_bytes <= MOST_BYTES
            and 0 < hbm.blocks <= MOST_BYTES
            and 0 <= hbm.cached <= hbm.blocks
            and 0 <= hbm.kept <= hbm.blocks
            and 0 <= hbm.waiting_tokens <= MOST_BYTES
        ):
            raise InputError(f"{hbm} is no engine's pool of blocks")
        now_s = self._clock()
        if who not in self._pools and len(self._pools) >= MOST_ENGINES:
            self._forget()
            if len(self._pools) >= MOST_ENGINES:
                return
        pool = self._pools.setdefault(who, _Pool(now_s, hbm))
        pool.told_s, pool.last = now_s, hbm
        pool.keep(hbm.kept / hbm.blocks, int(now_s // _MINUTE_S))

    def take_kept(self) -> float:
        """Share of HBM that running requests kept from being a cache since this was asked last.

        It is the most in each minute, in the mean over minutes and engines, as
        `greencache.adapters.engine_metrics.EngineInterval` has it; 0 if no engine told.
        """
        taken = [pool.take() for pool in self._pools.values()]
        told = [share for share in taken if share is not None]
        self._forget()
        return sum(told) / len(told) if told else 0.0

    def waiting_tokens(self) -> int | None:
        """Prompt tokens that wait to be computed in all engines; None if none tells."""
        pools = self._living()
        return sum(each.waiting_tokens for each in pools) if pools else None

    def report(self) -> dict[str, Any]:
        """For the daemon's status: all engines together."""
        pools = self._living()
        return {
            "engines": len(pools),
            "capacity_bytes": sum(each.blocks * each.block_bytes for each in pools),
            "used_bytes": sum(each.cached * each.block_bytes for each in pools),
            "kept_bytes": sum(each.kept * each.block_bytes for each in pools),
            "blocks": sum(each.cached for each in pools),
            "waiting_tokens": sum(each.waiting_tokens for each in pools),
        }

    def samples(self) -> Iterator[Sample]:
        """For Prometheus; nothing while no engine tells."""
        report = self.report()
        if report["engines"]:
            yield Sample(CAPACITY, report["capacity_bytes"], ("hbm",))
            yield Sample(USED, report["used_bytes"], ("hbm",))
            yield Sample(BLOCKS, report["blocks"], ("hbm",))
            yield Sample(HBM_KEPT, report["kept_bytes"])
            yield Sample(WAITING_TOKENS, report["waiting_tokens"])

    def _living(self) -> list[Hbm]:
        since_s = self._clock() - _SILENT_S
        return [pool.last for pool in self._pools.values() if pool.told_s >= since_s]

    def _forget(self) -> None:
        """Forget those that are gone."""
        since_s = self._clock() - _SILENT_S
        self._pools = {who: pool for who, pool in self._pools.items() if pool.told_s >= since_s}
