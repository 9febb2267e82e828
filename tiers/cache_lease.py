"""What a request found in the tiers of a cache, and room in memory for what it computes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from greencache.errors import BlockStateError
from greencache.tiers.base import Tier, TierLease, TierReservation, check_prompt

__all__ = ["CacheLease", "CacheReservation", "lease_each"]


@dataclass(slots=True, eq=False)
class CacheLease:
    """What a request found, readable until it is released.

    Attributes
    ----------
    keys:
        The blocks asked for.
    parts:
        What each tier holds of them, in the cache's order.
    """

    keys: Sequence[bytes]
    parts: dict[str, TierLease]
    released: bool = False
    _outgrown: list[tuple[str, TierLease]] = field(default_factory=list, repr=False)
    """Parts that were replaced: somebody may be reading them."""

    def __len__(self) -> int:
        """Leading blocks that can be read."""
        return max(map(len, self.parts.values()), default=0)

    def found_by_tier(self, held: int = 0) -> dict[str, int]:
        """What each tier adds to what those before it, or the engine's ``held`` blocks, have."""
        added: dict[str, int] = {}
        for name, part in self.parts.items():
            added[name] = max(0, len(part) - held)
            held = max(held, len(part))
        return added

    def grow(self, name: str, part: TierLease) -> None:
        """Let it have in a tier what begins with what it had there, which stays leased as well."""
        self._outgrown.append((name, self.parts[name]))
        self.parts[name] = part

    def release(self, tiers: Mapping[str, Tier]) -> None:
        """End it in these tiers; `TieredCache.release` is for everybody else.

        Raises
        ------
        BlockStateError
            If it was released before.
        """
        if self.released:
            raise BlockStateError("this lease was released before")
        self.released = True
        for name, part in [*self.parts.items(), *self._outgrown]:
            tiers[name].release(part)


@dataclass(frozen=True, slots=True, eq=False)
class CacheReservation:
    """Room in DRAM that the caller writes to.

    Attributes
    ----------
    keys:
        All blocks of the prompt.
    part:
        DRAM's: of those that follow what it has, as far as there is room.
    """

    keys: Sequence[bytes]
    part: TierReservation

    def __len__(self) -> int:
        return len(self.part)

    @property
    def first(self) -> int:
        """Place in the prompt of the first block reserved."""
        return self.part.first

    @property
    def end(self) -> int:
        """Place in the prompt behind the last one."""
        return self.part.first + len(self.part)


async def lease_each(
    tiers: Mapping[str, Tier],
    keys: Sequence[bytes],
    ask: Callable[[Tier, int], Awaitable[TierLease]],
) -> CacheLease:
    """A lease of what each tier gives when it is asked; of nothing, if one fails or on cancelling.

    ``ask`` is told how many leading blocks the tiers before have.

    Raises
    ------
    InputError
        If a block is named twice.
    TierError
        What a tier raised.
    """
    check_prompt(keys)
    lease = CacheLease(keys, {})
    try:
        for name, tier in tiers.items():
            lease.parts[name] = await ask(tier, len(lease))
    except BaseException:
        lease.release(tiers)
        raise
    return lease
