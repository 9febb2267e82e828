"""Blocking work in a tier's threads, and what must run to its end even if nobody waits for it.

A thread that copies cannot be stopped. If its caller were cancelled and went on, the caller would
end its lease or reservation, the slots would be given to others, and the thread would still read or
write them. So cancelling waits: whoever is cancelled learns of it when the work is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

__all__ = ["ended", "run_all", "together", "uninterrupted"]

T = TypeVar("T")


async def ended(work: Sequence[asyncio.Future[T]]) -> None:
    """Wait until all is done, however often the caller is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not all(each.done() for each in work):
        try:
            await asyncio.wait(work)
        except asyncio.CancelledError as error:
            cancelled = error
    for each in work:
        each.cancelled() or each.exception()  # so that it counts as seen, and is not logged
    if cancelled is not None:
        raise cancelled


async def run_all(pool: Executor, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls in threads and wait for all, also when one fails or the caller is cancelled.

    Raises
    ------
    Exception
        What the first of the calls that failed raised, after all have ended.
    """
    loop = asyncio.get_running_loop()
    work = [loop.run_in_executor(pool, call) for call in calls]
    await ended(work)
    return [each.result() for each in work]


async def together(steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all at once to their ends, also when one fails or the caller is cancelled.

    `asyncio.gather` returns while the others still run then.

    Raises
    ------
    Exception
        What the first of them that failed raised, after all have ended.
    """
    work = [asyncio.ensure_future(each) for each in steps]
    await ended(work)
    return [each.result() for each in work]


async def uninterrupted(steps: Coroutine[Any, Any, T]) -> T:
    """Await something to its end, also when the caller is cancelled, who learns of it then."""
    work = asyncio.ensure_future(steps)
    await ended([work])
    return work.result()
