"""Room in the store for what an engine is about to save.

The daemon is asked in a thread of its own while the engine computes: a step that waited for ten
answers, of which each takes a millisecond where every processor is busy, was seen to take 12 ms
longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from greencache.adapters.paged.statistics import Counts
from greencache.client import Client, Reservation

__all__ = ["Reserving"]

T = TypeVar("T")


class Reserving(Generic[T]):
    """Takes room, for each thing that wants it in turn.

    Parameters
    ----------
    client:
        Of the daemon.
    counts:
        What is counted.
    asynchronous:
        Whether answers come some time after they were asked for; otherwise `ask` waits.
    """

    def __init__(self, client: Client, counts: Counts, *, asynchronous: bool) -> None:
        self._client, self._counts = client, counts
        self._asynchronous = asynchronous
        self._thread = ThreadPoolExecutor(1, "greencache-reserve")
        self._asked: deque[tuple[T, Future[Reservation]]] = deque()

    def ask(self, wanted: T, keys: Sequence[bytes]) -> None:
        """Ask for room for a prompt's blocks."""
        answer = self._thread.submit(self._client.reserve, keys)
        self._asked.append((wanted, answer))
        if not self._asynchronous:
            wait((answer,))

    def taken(self) -> Iterator[tuple[T, Reservation | None]]:
        """What was answered since this was asked last, in the order of asking.

        With each, what it was asked for; None is the answer of a daemon that gave none.
        """
        while self._asked and self._asked[0][1].done():
            wanted, answer = self._asked.popleft()
            room = None
            try:
                room = answer.result()
            except Exception as fault:
                self._counts.failed("failed_saves", fault)
            yield wanted, room

    @property
    def idle(self) -> bool:
        """Whether all was answered, and taken note of."""
        return not self._asked

    def close(self) -> None:
        """Ask no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
