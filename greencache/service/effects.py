"""``Effects``: what the daemon has to do after something ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Effects"]

L = TypeVar("L")
R = TypeVar("R")


@dataclass(slots=True)
class Effects(Generic[L, R]):
    """What has to be done now.

    Attributes
    ----------
    released:
        Leases to release.
    committed:
        Reservations to commit: all their shards are in.
    aborted:
        Reservations to abort: nobody writes to them any more.
    """

    released: list[L] = field(default_factory=list)
    committed: list[R] = field(default_factory=list)
    aborted: list[R] = field(default_factory=list)
