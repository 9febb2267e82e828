"""Room in the store for what an engine is about to save.

The daemon is asked in a thread of its own while the engine computes: a step that waited for ten
answers, of which each takes a millisecond where every processor is busy, was seen to take 12 ms
longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from greencache.adapters.paged.statistics import Counts
from greencache.client import Client, Reservation

__all__ = ["Reserving", "Taken"]

T = TypeVar("T")


class Taken(NamedTuple, Generic[T]):
    """An answer.

    Attributes
    ----------
    wanted:
        What it was asked for.
    room:
        None if the daemon gave no answer.
    """

    wanted: T
    room: Reservation | None


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
        self._thread = ThreadPoolExecutor(1, "greencache-reserve") if asynchronous else None
        self._asked: list[tuple[T, Future[Reservation]]] = []

    def ask(self, wanted: T, keys: Sequence[bytes]) -> None:
        """Ask for room for a prompt's blocks."""
        if self._thread is not None:
            self._asked.append((wanted, self._thread.submit(self._client.reserve, keys)))
            return
        answer: Future[Reservation] = Future()
        try:
            answer.set_result(self._client.reserve(keys))
        except Exception as fault:
            answer.set_exception(fault)
        self._asked.append((wanted, answer))

    def taken(self) -> list[Taken[T]]:
        """What was answered since this was asked last, in the order of asking."""
        answered = []
        while self._asked and self._asked[0][1].done():
            wanted, answer = self._asked.pop(0)
            room = None
            try:
                room = answer.result()
            except Exception as fault:
                self._counts.failed("failed_saves", fault)
            answered.append(Taken(wanted, room))
        return answered

    @property
    def idle(self) -> bool:
        """Whether all was answered, and taken note of."""
        return not self._asked

    def close(self) -> None:
        """Ask no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
