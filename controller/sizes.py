"""Capacities of DRAM and SSD that a controller chooses from."""

from __future__ import annotations

from typing import NamedTuple

from greencache.errors import InputError
from greencache.quantities import format_bytes

__all__ = ["Candidates", "Sizes"]

_SHARES = (0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Sizes to choose from, of what is installed: finer where small, because hit rate over capacity is
close to logarithmic in such traces."""

_MOST_STEPS = 64


class Sizes(NamedTuple):
    """Capacity of DRAM and SSD on one replica."""

    dram_bytes: int = 0
    ssd_bytes: int = 0


class Candidates(NamedTuple):
    """Capacities that may be chosen for each tier, smallest first; 0 and all of it among them."""

    dram_bytes: tuple[int, ...]
    ssd_bytes: tuple[int, ...]

    @classmethod
    def of(
        cls,
        installed: Sizes,
        *,
        dram_step_bytes: int | None = None,
        ssd_step_bytes: int | None = None,
    ) -> Candidates:
        """What to choose from: shares of what is installed, or whole steps where a step is given.

        Raises
        ------
        InputError
            If a step is not above 0, or makes more than 64 sizes.
        """
        return cls(
            _candidates("DRAM", installed.dram_bytes, dram_step_bytes),
            _candidates("SSD", installed.ssd_bytes, ssd_step_bytes),
        )

    def fixed(self, dram_bytes: int | None, ssd_bytes: int | None) -> Candidates:
        """The same, with only one size where one is given."""
        return Candidates(
            self.dram_bytes if dram_bytes is None else (dram_bytes,),
            self.ssd_bytes if ssd_bytes is None else (ssd_bytes,),
        )

    def at_least(self, dram_bytes: int) -> Candidates:
        """The same, with no DRAM smaller than this."""
        return Candidates(
            tuple(sorted({max(size, dram_bytes) for size in self.dram_bytes})), self.ssd_bytes
        )

    def pairs(self) -> list[Sizes]:
        """All combinations, smallest first."""
        return [Sizes(dram, ssd) for dram in self.dram_bytes for ssd in self.ssd_bytes]


def _candidates(tier: str, installed_bytes: int, step_bytes: int | None) -> tuple[int, ...]:
    if step_bytes is None:
        return tuple(sorted({round(share * installed_bytes) for share in _SHARES}))
    if step_bytes <= 0:
        raise InputError(f"a step of {tier} sizes is more than 0, not {step_bytes} bytes")
    steps = -(-installed_bytes // step_bytes)
    if steps > _MOST_STEPS:
        raise InputError(
            f"{format_bytes(installed_bytes)} of {tier} in steps of {format_bytes(step_bytes)} are "
            f"{steps} sizes; {_MOST_STEPS} can be tried"
        )
    return (*range(0, installed_bytes, step_bytes), installed_bytes) if steps else (0,)
