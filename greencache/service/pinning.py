"""``Pinned``: whose pins are whose, and when they end.

As leases they end when the client says so, by session, or when its process has ended: never by
time, and not with a connection.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

__all__ = ["Pinned"]

P = TypeVar("P", bound=Hashable)


class Pinning(Protocol):
    """One session's pins: `greencache.service.arena.Arena`."""

    def ended(self) -> None:
        """It has nothing pinned any more, and is offered nothing."""

    @property
    def pinned(self) -> tuple[int, int]:
        """How many extents it may have pinned, and how many of them it is asked for."""


class Pinned(Generic[P]):
    """Sessions that may have something pinned, of processes ``P``."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, tuple[P, Pinning]] = {}

    def attach(self, session: bytes, process: P, pins: Pinning) -> None:
        """A session begins whose client wants to pin."""
        self._sessions[session] = process, pins

    def lost(self, session: bytes) -> None:
        """Its connection ended, by which nothing is unpinned."""
        found = self._sessions.get(session)
        if found is not None and found[1].pinned == (0, 0):
            self._end(session)

    def goodbye(self, session: bytes) -> None:
        """The client says that it has ended."""
        if session in self._sessions:
            self._end(session)

    def ended(self, session: bytes, process: P) -> None:
        """The same of a session that lost its connection, which only its process can say."""
        found = self._sessions.get(session)
        if found is not None and found[0] == process:
            self._end(session)

    def died(self, process: P) -> None:
        """A process has ended, and with it the kernel has unpinned all that it had."""
        for session in [name for name, (of, _) in self._sessions.items() if of == process]:
            self._end(session)

    def _end(self, session: bytes) -> None:
        self._sessions.pop(session)[1].ended()

    def knows(self, process: P) -> bool:
        """Whether a process has any session here."""
        return any(of == process for of, _ in self._sessions.values())

    def processes(self) -> dict[P, tuple[int, int]]:
        """Of each process with pins, how many extents, and how many of them it is asked for."""
        found: dict[P, tuple[int, int]] = {}
        for process, pins in self._sessions.values():
            extents, asked = pins.pinned
            if extents:
                before = found.get(process, (0, 0))
                found[process] = before[0] + extents, before[1] + asked
        return found
