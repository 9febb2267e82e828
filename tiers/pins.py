"""``Pins``: which slots clients may have pinned, and which extents are asked back from whom.

A process pins memory so that a device reads and writes it by itself. If the memory of a pinned
slot were given back, the device would go on with the page that was there, while the file has
another one or none: wrong bytes, and memory that has not become less. So what was offered to be
pinned counts as pinned, whether it is or not, until its *holder* has said otherwise or has ended.

Plain bookkeeping: it pins nothing and gives nothing back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["PinHolder", "Pins", "Runs"]

Runs: TypeAlias = list[tuple[int, int]]
"""First slot and number of slots of each."""

Mask: TypeAlias = NDArray[np.bool_]


class PinHolder(Protocol):
    """Who may pin."""

    def ask_back(self, extents: list[int]) -> None:
        """Have extents unpinned, and be told of it later; called on the event loop."""


class Pins:
    """Of each extent, who may have pinned which of its slots."""

    def __init__(self) -> None:
        self._held: dict[int, dict[PinHolder, Runs]] = {}
        self._asked: dict[int, set[PinHolder]] = {}
        """Of extents that are asked back, from whom. They are offered to nobody."""

    def __len__(self) -> int:
        """Slots that anybody may have pinned."""
        return sum(int(np.count_nonzero(self._of(extent)[1])) for extent in self._held)

    def offer(self, holder: PinHolder, extent: int, runs: Runs) -> None:
        """Note that a holder may pin these slots of an extent from now on."""
        assert self.may_offer(holder, extent), "it is held already, or asked back"
        self._held.setdefault(extent, {})[holder] = runs

    def may_offer(self, holder: PinHolder, extent: int) -> bool:
        """Whether an extent may be offered to a holder: nobody is asked for it, nor has it it."""
        return extent not in self._asked and holder not in self._held.get(extent, ())

    def slots_of(self, holder: PinHolder, extent: int) -> int:
        """How many slots of an extent a holder may have pinned."""
        return sum(count for _, count in self._held.get(extent, {}).get(holder, ()))

    def extents_of(self, holder: PinHolder) -> set[int]:
        """Extents of which a holder may have slots pinned."""
        return {extent for extent, holders in self._held.items() if holder in holders}

    def asked_of(self, holder: PinHolder) -> set[int]:
        """Those of them that it is asked for."""
        return {extent for extent, holders in self._asked.items() if holder in holders}

    def mask(self, slots: int) -> Mask:
        """Which of the first ``slots`` slots anybody may have pinned: these must not be emptied."""
        found = np.zeros(slots, np.bool_)
        for extent in self._held:
            begin, pinned = self._of(extent)
            found[begin : begin + len(pinned)] = pinned[: max(0, slots - begin)]
        return found

    def ask_back(self, holder: PinHolder, extents: Iterable[int]) -> None:
        """Ask a holder for extents, unless it was before."""
        new = [each for each in extents if holder not in self._asked.get(each, ())]
        for extent in new:
            self._asked.setdefault(extent, set()).add(holder)
        if new:
            holder.ask_back(new)

    def ask_for(self, slots: int, free: Mask) -> None:
        """Ask back as many extents, the highest first, as have so many of the slots ``free``.

        What all who have it are asked for already counts as coming.
        """
        coming = 0
        others: list[tuple[int, int, int]] = []
        for extent, holders in self._held.items():
            begin, pinned = self._of(extent)
            there = free[begin : begin + len(pinned)]
            count = int(np.count_nonzero(pinned[: len(there)] & there))
            if holders.keys() <= self._asked.get(extent, set()):
                coming += count
            elif count:
                others.append((begin, extent, count))
        asking: defaultdict[PinHolder, list[int]] = defaultdict(list)
        for _, extent, count in sorted(others, reverse=True):
            if coming >= slots:
                break
            coming += count
            for holder in self._held[extent]:
                asking[holder].append(extent)
        for holder, extents in asking.items():
            self.ask_back(holder, extents)

    def _of(self, extent: int) -> tuple[int, Mask]:
        """The first slot of an extent that anybody may have pinned, and which from there on."""
        runs = [run for each in self._held[extent].values() for run in each]
        begin = min(first for first, _ in runs)
        found = np.zeros(max(first + count for first, count in runs) - begin, np.bool_)
        for first, count in runs:
            found[first - begin : first - begin + count] = True
        return begin, found

    def release(self, holder: PinHolder, extents: Collection[int]) -> None:
        """Note that a holder has none of these extents pinned any more; others are no fault."""
        for extent in extents:
            holders = self._held.get(extent)
            if holders is None or holders.pop(holder, None) is None:
                continue
            asked = self._asked.get(extent, set())
            asked.discard(holder)
            if not asked:
                self._asked.pop(extent, None)
            if not holders:
                del self._held[extent]
