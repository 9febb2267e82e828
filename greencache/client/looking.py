"""Hearing what the daemon says to a client that asks nothing."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

__all__ = ["look_often"]

_EVERY_S = 0.25
"""Who has memory pinned hears so late, at the most, that the daemon wants it back."""


class Looks(Protocol):
    """A client."""

    def look(self) -> bool:
        """Take what has come in, and say which lost sessions ended; whether to look again."""


def look_often(client: Looks) -> threading.Thread:
    """Have a client look now and then, in a thread that ends with it."""
    thread = threading.Thread(target=_look, args=(weakref.ref(client),), name="greencache-look")
    thread.daemon = True  # it holds nothing up
    thread.start()
    return thread


def _look(client: weakref.ref[Looks]) -> None:
    looks = True
    while looks:
        time.sleep(_EVERY_S)
        found = client()
        looks = found is not None and found.look()
        del found
