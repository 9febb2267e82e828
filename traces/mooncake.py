"""Mooncake's request traces: JSON lines with prefix-chained block hashes.

The format is that of the traces published with Mooncake (Qin et al., FAST 2025): ``timestamp`` in
milliseconds, ``input_length`` and ``output_length`` in tokens, and ``hash_ids``, one number for
each 512 tokens of the prompt, equal where the whole prefix up to there is equal. The last one
nearly always names a partial block. Lines are in order of time.
"""

from __future__ import annotations

import msgspec

from greencache.traces.lines import LineParser, Request, block_names

__all__ = ["MOONCAKE_BLOCK_TOKENS", "MooncakeParser"]

MOONCAKE_BLOCK_TOKENS = 512


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


class MooncakeParser(LineParser):
    """Reads one line of such a trace."""

    block_tokens = MOONCAKE_BLOCK_TOKENS
    fields = ("timestamp", "input_length", "output_length")
    hashes = "hash_ids"
    names_all = True

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Line)

    def parse(self, text: bytes) -> Request | None:
        """Read one line."""
        line = self._decoder.decode(text)
        return Request(
            line.timestamp / 1e3, line.input_length, line.output_length, block_names(line.hash_ids)
        )
