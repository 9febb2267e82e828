"""How much DRAM and SSD a run could use, over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.controller.sizes import Sizes

__all__ = ["SizesOverTime"]


@dataclass(frozen=True, slots=True)
class SizesOverTime:
    """Sizes one after the other, on the clock of the run.

    Attributes
    ----------
    from_s:
        When each size began to hold; the first is 0.
    sizes:
        What held from then on.
    """

    from_s: tuple[float, ...]
    sizes: tuple[Sizes, ...]

    @classmethod
    def of(cls, sizes: Sizes) -> SizesOverTime:
        """The same all the time."""
        return cls((0.0,), (sizes,))

    def then(self, now_s: float, sizes: Sizes) -> SizesOverTime:
        """Another size from ``now_s`` on; what is no change is not noted."""
        if sizes == self.sizes[-1]:
            return self
        return SizesOverTime((*self.from_s, now_s), (*self.sizes, sizes))

    @property
    def changes(self) -> int:
        """How often the size changed."""
        return len(self.sizes) - 1

    @property
    def largest(self) -> Sizes:
        """The largest that each tier ever was."""
        return Sizes(*(max(each) for each in zip(*self.sizes, strict=True)))

    def changes_since(self, start_s: float) -> int:
        """How often the size changed after ``start_s``."""
        return sum(since_s > start_s for since_s in self.from_s)

    def mean(self, start_s: float, end_s: float) -> Sizes:
        """The mean from ``start_s`` to ``end_s``, in whole bytes."""
        edges_s = np.clip([*self.from_s, np.inf], start_s, max(end_s, start_s + 1.0))
        shares = np.diff(edges_s) / (edges_s[-1] - edges_s[0])
        return Sizes(
            *(round(float(np.dot(shares, each))) for each in zip(*self.sizes, strict=True))
        )

    def by_bin(self, bins: int, bin_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bytes of DRAM and of SSD to charge for each of so many bins.

        Where a size changes inside a bin it is the larger one: a minute begun is charged whole, and
        what was written in it had room.
        """
        of_bin = np.zeros((bins, 2))
        ends_s = [*self.from_s[1:], np.inf]
        for since_s, end_s, sizes in zip(self.from_s, ends_s, self.sizes, strict=True):
            first = min(int(since_s / bin_s), bins)
            last = min(int(min(end_s / bin_s, bins)) + 1, bins)
            of_bin[first:last] = np.maximum(of_bin[first:last], sizes)
        return of_bin[:, 0], of_bin[:, 1]
