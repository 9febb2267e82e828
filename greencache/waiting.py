"""Waiting for what must not be left while it goes on, and leaving what may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

__all__ = ["aside", "ended", "stopped"]

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


async def stopped(*tasks: asyncio.Task[T]) -> None:
    """Cancel tasks and wait for their ends, as `ended` does."""
    for task in tasks:
        task.cancel()
    await ended(tasks)


def aside(call: Callable[[], T], name: str) -> Future[T]:
    """Call what may hang for ever in a thread of its own, which a process's end does not wait for.

    Who waits for it may cease to: it goes on.

    Raises
    ------
    RuntimeError
        If there is no thread to be had.
    """
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()

    def run() -> None:
        try:
            made.set_result(call())
        except BaseException as fault:  # whatever it is, it is raised where it is waited for
            made.set_exception(fault)

    Thread(target=run, name=name, daemon=True).start()
    return made
