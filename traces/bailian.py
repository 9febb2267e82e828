"""Alibaba's Qwen-Bailian usage traces: JSON lines with block hashes and chats.

As published with "KVCache Cache in the Wild" (Wang et al., USENIX ATC 2025), repository
alibaba-edu/qwen-bailian-usagetraces-anon: ``timestamp`` in seconds since the trace began,
``input_length`` and ``output_length`` in tokens, ``hash_ids``, one number for each 16 tokens of the
prompt, and ``chat_id`` with ``parent_chat_id``, the turn before it, -1 for the first of a chat.
``type`` and ``turn`` are not used.
"""

from __future__ import annotations

import msgspec

from greencache.traces.lines import BadLineError, LineParser, RecentKeys, Request, block_names

__all__ = ["BAILIAN_BLOCK_TOKENS", "BailianParser"]

BAILIAN_BLOCK_TOKENS = 16

_NO_PARENT = -1


class _Line(msgspec.Struct):
    chat_id: int
    parent_chat_id: int
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


class BailianParser(LineParser):
    """Reads one line of such a trace.

    A session is a chat with all that followed on it, and is called by its first ``chat_id``. To
    find it, the latest 262,144 chats are remembered (more than any published file has lines); a
    turn whose parent is not among them begins a session. A line without prompt or answer is left
    out.
    """

    block_tokens = BAILIAN_BLOCK_TOKENS
    fields = ("timestamp", "input_length", "output_length")
    hashes = "hash_ids"
    has_sessions = True
    window = 1024

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Line)
        self._session_of = RecentKeys()

    def parse(self, text: bytes) -> Request | None:
        """Read one line."""
        line = self._decoder.decode(text)
        chats = (line.chat_id, line.parent_chat_id)
        if min(chats) < -(2**63) or max(chats) >= 2**63:
            raise BadLineError("chat_id does not fit in 64 bits")
        if line.input_length == 0 or line.output_length == 0:
            return None
        session = line.chat_id
        if line.parent_chat_id != _NO_PARENT:
            found = self._session_of.get(line.parent_chat_id)
            session = line.parent_chat_id if found is None else found
        self._session_of.put(line.chat_id, session)
        return Request(
            line.timestamp,
            line.input_length,
            line.output_length,
            block_names(line.hash_ids),
            session,
        )
