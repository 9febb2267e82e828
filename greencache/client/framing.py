"""Frames: how messages follow one another on the socket.

A frame is the length of a message, 4 bytes little-endian, and the message. A message that comes
with file descriptors has them on the first byte of its frame. Lengths are limited, so nobody has to
keep more than one message of somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from greencache.client.messages import Answer, Question
from greencache.errors import ProtocolError

__all__ = ["HEADER_BYTES", "LARGEST_BYTES", "Frames", "decode_answer", "decode_question", "encode"]

HEADER_BYTES = 4
LARGEST_BYTES = 4 << 20
"""Of a message: the keys of `greencache.client.messages.MOST_BLOCKS` are a quarter of it."""

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Question | Answer) -> bytes:
    """A message in its frame.

    Raises
    ------
    ProtocolError
        If it is too long.
    """
    body = _encoder.encode(message)
    if len(body) > LARGEST_BYTES:
        raise ProtocolError(f"a message of {len(body):,} bytes is too long: ask in parts")
    return len(body).to_bytes(HEADER_BYTES, "little") + body


def decode_question(body: bytes) -> Question:
    """What a client asks.

    Raises
    ------
    ProtocolError
        If it is no question of this protocol.
    """
    return _decoded(_questions, body)


def decode_answer(body: bytes) -> Answer:
    """What the daemon answers; raises as `decode_question`."""
    return _decoded(_answers, body)


def _decoded(decoder: msgspec.msgpack.Decoder[M], body: bytes) -> M:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ProtocolError(f"not a message of this protocol: {fault}") from None


class Frames:
    """Messages out of bytes as they come in."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a part of a message is here."""
        return bool(self._pending)

    @property
    def waiting_bytes(self) -> int:
        """Of that part."""
        return len(self._pending)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take bytes; the messages that they complete.

        Raises
        ------
        ProtocolError
            If a message is too long to be one.
        """
        self._pending += data
        while len(self._pending) >= HEADER_BYTES:
            length = int.from_bytes(self._pending[:HEADER_BYTES], "little")
            if length > LARGEST_BYTES:
                raise ProtocolError(f"a message of {length:,} bytes is too long")
            end = HEADER_BYTES + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[HEADER_BYTES:end])
            del self._pending[:end]
            yield body
