"""``Departures``: blocks on their way off a server, found no longer though some are there yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from greencache.tiers.workers import ended

__all__ = ["Departures"]


class Departures:
    """What is being taken off a server, in the background."""

    def __init__(self) -> None:
        self._leaving: Counter[bytes] = Counter()
        self._watched: dict[object, set[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def staying(self, keys: Sequence[bytes]) -> int:
        """Leading keys that are not on their way."""
        if not self._leaving:
            return len(keys)
        return next((i for i, key in enumerate(keys) if key in self._leaving), len(keys))

    @contextmanager
    def watched(self) -> Iterator[set[bytes]]:
        """Keys that begin to leave from now on: what a server said of them may be out of date."""
        mine: set[bytes] = set()
        token = object()
        self._watched[token] = mine
        try:
            yield mine
        finally:
            del self._watched[token]

    @contextmanager
    def hidden(self, keys: Iterable[bytes]) -> Iterator[None]:
        """Let keys be found no longer as long as this lasts."""
        keys = list(keys)
        self._hide(keys)
        try:
            yield
        finally:
            self._unhide(keys)

    def begin(self, keys: Sequence[bytes], steps: Coroutine[Any, Any, object]) -> None:
        """Run what takes these keys off the server; they are found no longer from now on.

        With no keys, whatever else is to be over before the server is let go.
        """
        self._hide(keys)

        async def leave() -> None:
            try:
                await steps
            finally:
                self._unhide(keys)

        task = asyncio.get_running_loop().create_task(leave())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self, keys: Sequence[bytes] | None = None) -> None:
        """Wait until these keys have left, or could not; or until all have."""
        while self._tasks and (keys is None or self.staying(keys) < len(keys)):
            tasks = list(self._tasks)
            await ended(tasks)
            self._tasks.difference_update(tasks)  # else this turns, alone, until their callbacks

    def _hide(self, keys: Iterable[bytes]) -> None:
        self._leaving.update(keys)
        for mine in self._watched.values():
            mine.update(keys)

    def _unhide(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._leaving[key] -= 1
            if not self._leaving[key]:
                del self._leaving[key]
