"""``Resolver``: where hosts are, waited for no longer than who asks has time.

The system's resolver knows no deadline: while a name server is silent it takes ten seconds or more,
and cannot be stopped. So it is called in a thread that is left behind then, one for a name at a
time; what that finds is there for who asks next. A process does not wait for it at its end.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, TypeAlias

from greencache.waiting import aside

__all__ = ["Address", "Resolver"]

KEPT_S = 30.0
"""How long the resolver is not asked again for what it said, or if it hangs, had said before."""

Address: TypeAlias = "tuple[int, tuple[Any, ...]]"
"""A family, and what a socket of it connects to."""


class Resolver:
    """Addresses of hosts; used from threads.

    Parameters
    ----------
    clock:
        Seconds that do not go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[list[Address], float]] = {}  # and until when
        self._asked: dict[tuple[str, int], Future[list[Address]]] = {}

    def addresses(self, host: str, port: int, limit_s: float) -> list[Address]:
        """Where a host is; the last known if the resolver takes more than half of ``limit_s``.

        Raises
        ------
        TimeoutError
            If none is known after ``limit_s`` seconds.
        OSError
            If there is no such host, or no thread to ask in.
        """
        if _is_numeric(host):
            return _resolved(host, port)
        place = (host, port)
        with self._lock:
            known, until_s = self._known.get(place, ([], 0.0))
            if known and self._clock() < until_s:
                return known
            asked = self._asked.get(place) or self._ask(place)
        try:
            return asked.result(limit_s / 2 if known else limit_s)
        except TimeoutError:
            if not known:
                raise TimeoutError(f"no address of {host} was found in time") from None
        with self._lock:
            if self._asked.get(place) is asked:  # it hangs: who comes next need not wait as well
                self._known[place] = (known, self._clock() + KEPT_S)
        return known

    def doubt(self, host: str, port: int) -> None:
        """Nobody answers where a host was: let the resolver be asked again."""
        with self._lock:
            if known := self._known.get((host, port)):
                self._known[host, port] = (known[0], self._clock())

    def _ask(self, place: tuple[str, int]) -> Future[list[Address]]:
        """Begin to ask the system's resolver; called under the lock."""

        def ask() -> list[Address]:
            found: list[Address] = []
            try:
                found = _resolved(*place)
                return found
            finally:
                with self._lock:
                    del self._asked[place]
                    if found:
                        self._known[place] = (found, self._clock() + KEPT_S)

        try:
            asked = self._asked[place] = aside(ask, "greencache-resolver")
        except RuntimeError as fault:
            raise OSError(f"{place[0]} cannot be looked up: {fault}") from fault
        return asked


def _is_numeric(host: str) -> bool:
    """Whether nobody needs to be asked where it is."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _resolved(host: str, port: int) -> list[Address]:
    """What the system's resolver says.

    Raises
    ------
    OSError
        If there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]
