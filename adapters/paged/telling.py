"""Tells the daemon of requests and of HBM, and looks for it when it is lost, beside the steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from greencache.adapters.paged.mirror import Mirror
from greencache.adapters.paged.statistics import Counts
from greencache.client import Client, Seen
from greencache.client.messages import MOST_SEEN
from greencache.errors import GreenCacheError

__all__ = ["Telling"]

_EVERY_S = 1.0
"""How long requests are gathered: the daemon's intervals are minutes."""

_REGAIN_S = 5.0
"""How long it is waited for a daemon that is back: longer than its start takes."""


class Telling:
    """A thread that sends what it is told in batches; more than one message's worth is dropped.

    Attributes
    ----------
    mirror:
        Of the engine's own pool, which is told of each time; None while it is not known.
    """

    def __init__(self, client: Client, counts: Counts) -> None:
        self._client, self._counts = client, counts
        self.mirror: Mirror | None = None
        self._queue: queue.Queue[Seen] = queue.Queue(MOST_SEEN)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="greencache-telling", daemon=True)
        self._thread.start()

    def tell(self, seen: Sequence[Seen]) -> None:
        """Send these with the next batch."""
        for each in seen:
            try:
                self._queue.put_nowait(each)
            except queue.Full:
                self._counts.add("untold_requests")

    def close(self) -> None:
        """Send what is left, to a daemon that answers."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_EVERY_S):
            self._send()
        self._send()

    def _send(self) -> None:
        if self._counts.failing:
            if self._closed.is_set():  # nobody waits for it any more
                self._counts.add("untold_requests", len(self._taken()))
                return
            if not self._regained():
                return
        seen = self._taken()
        hbm = None if self.mirror is None else self.mirror.take()
        if not seen and hbm is None:
            return
        try:
            self._client.observe(seen, hbm=hbm)
        except GreenCacheError as fault:
            self._counts.failed("untold_requests", fault, len(seen))

    def _taken(self) -> list[Seen]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    def _regained(self) -> bool:
        """Get to the daemon again: it may need longer than the engine's scheduler waits."""
        try:
            self._client.prefetch([], timeout_s=_REGAIN_S)
        except GreenCacheError:
            return False
        self._counts.worked()
        return True
