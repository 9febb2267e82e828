"""Handing a tier's memory to a client: which extents it has been told of, and which are gone."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from greencache.client.messages import Extents
from greencache.service.connection import MOST_DESCRIPTORS, Connection
from greencache.tiers import Shareable

__all__ = ["Arena"]


class Arena:
    """What one client has mapped, or is about to.

    Parameters
    ----------
    tier:
        Whose memory it is.
    connection:
        The client's.
    """

    def __init__(self, tier: Shareable, connection: Connection) -> None:
        self._tier, self._connection = tier, connection
        self._told: set[int] = set()
        self._gone_before = tier.extents_gone()

    def tell(self, named: NDArray[np.uint32]) -> None:
        """Tell of the extents that an answer is going to name, unless the client knows them."""
        new = sorted(set(np.unique(named).tolist()) - self._told)
        gone = self._gone()
        for begin in range(0, len(new), MOST_DESCRIPTORS):
            self._send(new[begin : begin + MOST_DESCRIPTORS], gone)
            gone = []
        self.tell_gone(gone)

    def tell_gone(self, gone: list[int] | None = None) -> None:
        """Tell of extents that went, if the client knows any."""
        gone = self._gone() if gone is None else gone
        if gone:
            self._send([], gone)

    def _gone(self) -> list[int]:
        count = self._tier.extents_gone()
        if count == self._gone_before:
            return []
        self._gone_before = count
        gone = sorted(self._told - self._tier.extents())
        self._told.difference_update(gone)
        return gone

    def _send(self, new: list[int], gone: list[int]) -> None:
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
        self._connection.send(Extents(0, lengths, gone), descriptors)
