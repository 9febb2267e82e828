"""Blocking work in a tier's threads, and what must run to its end even if nobody waits for it.

A thread that copies cannot be stopped. If its caller were cancelled and went on, the caller would
end its lease or reservation, the slots would be given to others, and the thread would still read or
write them. So cancelling waits: whoever is cancelled learns of it when the work is over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from greencache.errors import TierError
from greencache.waiting import ended

__all__ = ["ended", "run_all", "start_threads", "started_pool", "together", "uninterrupted"]

T = TypeVar("T")


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool all of whose threads run; see `start_threads`."""
    pool = ThreadPoolExecutor(threads, name)
    start_threads(pool, threads)
    return pool


def start_threads(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start all threads of a pool.

    One that starts them as they are needed fails in the midst of a batch when the system has none
    left, and does what it refused all the same, as soon as another of its threads is free.

    Raises
    ------
    TierError
        If there are not so many threads to be had; the pool is shut down then.
    """
    all_run = threading.Barrier(threads)
    try:
        for each in [pool.submit(all_run.wait) for _ in range(threads)]:
            each.result()
    except BaseException as error:
        all_run.abort()
        pool.shutdown()
        if isinstance(error, RuntimeError):
            raise TierError(f"no threads are to be had: {error}") from error
        raise


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
