"""One question to the daemon from somebody who stores nothing: a person, or a check."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from greencache.client.address import connect
from greencache.client.framing import Frames, decode_answer, encode
from greencache.client.messages import Answer, Failed, Resize, Resized, Status, StatusText
from greencache.client.session import fault_of
from greencache.errors import ProtocolError, UnavailableError

__all__ = ["ask_resize", "ask_status"]

_NUMBER = 1
_RECEIVED_BYTES = 64 << 10

A = TypeVar("A", bound=Answer)


def ask_status(socket: Path, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """What the daemon is and has.

    Raises
    ------
    UnavailableError
        If none listens there, or it does not answer in time.
    RefusedError
        If it is another user's.
    ProtocolError
        If what listens there is no daemon of this protocol.
    """
    text = _ask(socket, Status(_NUMBER), StatusText, timeout_s)
    try:
        status = msgspec.json.decode(text.json, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ProtocolError(f"the daemon at {socket} gives a status that is none") from None
    return status


def ask_resize(
    socket: Path, capacity_bytes: dict[str, int], *, timeout_s: float = 60.0
) -> dict[str, int]:
    """Change tiers' capacities; for each, bytes still to be given back as leases and pins end.

    Raises
    ------
    UnavailableError, RefusedError, ProtocolError
        As `ask_status`.
    InputError
        If there is no such tier.
    TierError
        If a capacity cannot be had.
    """
    return _ask(socket, Resize(_NUMBER, capacity_bytes), Resized, timeout_s).over_bytes


def _ask(path: Path, question: Status | Resize, kind: type[A], timeout_s: float) -> A:
    end_s = time.monotonic() + timeout_s
    frames = Frames()
    with connect(path) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.sendall(encode(question))
            while True:
                connection.settimeout(max(1e-3, end_s - time.monotonic()))
                received = connection.recv(_RECEIVED_BYTES)
                if not received:
                    raise UnavailableError(f"the daemon at {path} ended before it answered")
                for body in frames.feed(received):
                    answer = decode_answer(body)
                    if isinstance(answer, Failed):
                        raise fault_of(answer)
                    if not isinstance(answer, kind):
                        raise ProtocolError(f"the daemon answers by {type(answer).__name__}")
                    return answer
        except TimeoutError:
            raise UnavailableError(
                f"the daemon at {path} has not answered in {timeout_s:g} s: look at its log"
            ) from None
        except OSError as fault:
            raise UnavailableError(f"the daemon at {path} is gone: {fault.strerror}") from None
