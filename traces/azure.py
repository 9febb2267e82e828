"""Azure's LLM inference traces of 2023 and 2024: CSV of arrivals and lengths, without hashes.

From the repository Azure/AzurePublicDataset: ``TIMESTAMP``, like ``2023-11-16 18:17:03.9799600`` or
``2024-05-10 00:00:00.009930+00:00``, ``ContextTokens`` and ``GeneratedTokens``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from greencache.traces.csvlines import NO_BLOCKS, UNHASHED_BLOCK_TOKENS, Columns, whole
from greencache.traces.lines import BadLineError, LineParser, Request

__all__ = ["AzureParser"]


class AzureParser(LineParser):
    """Reads one line of such a trace.

    Time is Unix time, to the microsecond; without an offset it is taken for UTC. A request without
    prompt or answer is left out.
    """

    block_tokens = UNHASHED_BLOCK_TOKENS
    fields = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    window = 1024

    def __init__(self, header: Sequence[str]) -> None:
        self._columns = Columns(header, self.fields)

    def parse(self, text: bytes) -> Request | None:
        """Read one line."""
        stamp, context, generated = self._columns.of(text)
        try:
            time = datetime.fromisoformat(stamp.strip())
        except ValueError:
            raise BadLineError(f"TIMESTAMP is {stamp[:40]!r}, not a date and time") from None
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        prompt, answer = whole(context, "ContextTokens"), whole(generated, "GeneratedTokens")
        if prompt == 0 or answer == 0:
            return None
        return Request(time.timestamp(), prompt, answer, NO_BLOCKS)
