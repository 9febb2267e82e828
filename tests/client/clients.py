"""Both clients under one face, so that one test is a test of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from greencache.client import AsyncClient, Client, Lease, Reservation

__all__ = ["KINDS", "Face", "open_client"]

KINDS = ("Client", "AsyncClient")


class Face:
    """A client, all of whose calls are awaited; those of `Client` wait in threads."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        if isinstance(self.client, AsyncClient):
            return method

        async def call(*arguments: object, **options: object) -> object:
            return await asyncio.to_thread(method, *arguments, **options)

        return call

    def release(self, lease: Lease) -> None:
        self.client.release(lease)

    def abort(self, reservation: Reservation) -> None:
        self.client.abort(reservation)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def open_client(kind: str, block_bytes: int, **options: Any) -> Face:
    """A client of a kind: `KINDS`."""
    made = {"Client": Client, "AsyncClient": AsyncClient}[kind]
    return Face(made(block_bytes, **options))
