"""Asks the daemon's HTTP server, as Prometheus does."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

__all__ = ["OPENMETRICS", "Answer", "Values", "ask", "send", "values_of"]

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
"""As Prometheus asks."""

Values = dict[tuple[str, ...], float]
"""By a sample's name, then its labels' values in order of their names."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def send(port: int, request: bytes, *, address: str = "127.0.0.1") -> bytes:
    """Send bytes; all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read(-1)
    finally:
        writer.close()


async def ask(port: int, path: str, *headers: str, method: str = "GET") -> Answer:
    """Ask for a page."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    head, _, body = (await send(port, "\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in rest)
    return Answer(int(first.split()[1]), {k.lower(): v for k, v in fields.items()}, body)


def values_of(answer: Answer) -> Values:
    """All samples of a page, read by prometheus_client's own parser of its format."""
    openly = answer.headers["content-type"].startswith("application/openmetrics-text")
    families = (openmetrics if openly else plain)(answer.body.decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
