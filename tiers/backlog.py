"""``Backlog``: what waits for one worker, and when all that waits by now is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Backlog"]

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue with one worker, which does what it gets in order and says when it has.

    `asyncio.Queue.join` waits for a moment in which nothing is left at all: where something is
    always put meanwhile, for ever.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[T] = asyncio.Queue()
        self._put = self._done = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False

    def put(self, item: T) -> bool:
        """Let it wait for its turn; False, and nothing done, if there is no worker any more."""
        if self._closed:
            return False
        self._put += 1
        self._queue.put_nowait(item)
        return True

    def start(
        self, work: Coroutine[Any, Any, None], drop: Callable[[T], None]
    ) -> asyncio.Task[None]:
        """The task of its worker; once that ends, mostly as it is cancelled, what is left goes."""
        worker = asyncio.get_running_loop().create_task(work)
        # Not at the end of what it runs, which a task that is cancelled early never begins.
        worker.add_done_callback(lambda _: self._drop_left(drop))
        return worker

    def _drop_left(self, drop: Callable[[T], None]) -> None:
        for item in self.close():
            drop(item)

    def close(self) -> list[T]:
        """The worker has ended: nobody waits for it from now on. What is left."""
        self._closed = True
        left = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        self._done = self._put
        self._wake()
        return left

    async def get(self) -> T:
        """What comes next."""
        return await self._queue.get()

    def done(self) -> None:
        """The worker is through with what it got last."""
        self._done += 1
        self._wake()

    def _wake(self) -> None:
        """Tell those who waited for what is done by now."""
        while self._waiting and self._waiting[0][0] <= self._done:
            _, waiter = self._waiting.popleft()
            if not waiter.done():  # it may have been cancelled
                waiter.set_result(None)

    async def drained(self) -> None:
        """Wait until all is done that has been put by now."""
        if self._done < self._put:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((self._put, waiter))
            await waiter
