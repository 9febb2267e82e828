"""Handing a tier's memory to a client.

Which extents it has been told of, which are gone, and which it may have pinned.
"""

from __future__ import annotations

import logging
import os

import numpy as np
from numpy.typing import NDArray

from greencache.client.messages import Extents
from greencache.service.connection import MOST_DESCRIPTORS, Connection
from greencache.tiers import Shareable

__all__ = ["Arena"]

_log = logging.getLogger("greencache.service")


class Arena:
    """What one client has mapped and pinned, or is about to.

    Parameters
    ----------
    tier:
        Whose memory it is.
    connection:
        The client's.
    pins:
        Whether it wants to pin.
    """

    def __init__(self, tier: Shareable, connection: Connection, *, pins: bool = False) -> None:
        self._tier, self._connection = tier, connection
        self._told: set[int] = set()
        self._pins = pins
        self._refused: set[int] = set()
        """Extents that it could not pin."""
        self._failed = False
        """Whether the last offer could not be made."""
        self._gone_before = tier.extents_gone()

    def tell(self, named: NDArray[np.uint32]) -> None:
        """Tell of the extents that an answer is going to name, unless the client knows them."""
        self.tell_gone()
        new = sorted(set(named.tolist()) - self._told)
        for begin in range(0, len(new), MOST_DESCRIPTORS):
            self._send(new[begin : begin + MOST_DESCRIPTORS])

    def offer(self) -> None:
        """Offer the client, if it wants to pin, what it may pin by now."""
        if not self._pins or self._connection.closed:
            return
        parts = self._tier.offer_pins(self, self._refused)
        if not parts:
            return
        offered = {number for number, _, _ in parts}
        try:
            # It maps them for that, also those in which it has no block yet.
            self.tell(np.array(sorted(offered), np.uint32))
        except OSError as fault:  # no descriptors are left: it copies unpinned meanwhile
            self._tier.unpinned(self, offered)
            if not self._failed:
                _log.warning("a client cannot be offered memory to pin, for now: %s", fault)
            self._failed = True
            return
        self._failed = False
        self._connection.send(Extents(0, [], pin=parts))

    def ask_back(self, extents: list[int]) -> None:
        """As `greencache.tiers.pins.PinHolder.ask_back`."""
        self._connection.send(Extents(0, [], unpin=extents))

    def unpinned(self, extents: list[int]) -> None:
        """The client has nothing of these extents pinned any more, it says."""
        self._refused |= self._tier.unpinned(self, extents)

    def ended(self) -> None:
        """Nor of any other, nor will it: its session or its process has ended."""
        self._pins = False
        self._tier.unpinned(self)

    @property
    def pinned(self) -> tuple[int, int]:
        """How many extents it may have pinned, and how many of them it is asked for."""
        return self._tier.pinned_extents(self)

    def tell_gone(self) -> None:
        """Tell of extents that went, if the client knows any."""
        count = self._tier.extents_gone()
        if count == self._gone_before:
            return
        self._gone_before = count
        gone = sorted(self._told - self._tier.extents())
        self._told.difference_update(gone)
        if gone:
            self._connection.send(Extents(0, [], gone))

    def _send(self, new: list[int]) -> None:
        descriptors: list[int] = []
        lengths: list[tuple[int, int]] = []
        try:
            for number in new:
                descriptor, length = self._tier.extent(number)
                # Ours, as the tier may close its own before the client has read this.
                descriptors.append(os.dup(descriptor))
                lengths.append((number, length))
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        self._told.update(new)
        self._connection.send(Extents(0, lengths), descriptors)
