"""Waiting for what must not be left while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["ended", "stopped"]

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
