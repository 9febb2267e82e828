"""A daemon that says anything at all, or nothing: an error within the deadline, nothing kept."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greencache.client.framing import encode
from greencache.client.messages import Extents, Failed, Found, Leased, Places, Welcome
from greencache.errors import ProtocolError, RefusedError, ServiceError, UnavailableError
from tests.client.clients import KINDS, open_client

WELCOME = encode(Welcome(1, bytes(16), "1.0"))

SAID: dict[str, tuple[bytes | list[bytes], type[ServiceError]]] = {
    "nothing, and hangs up": (b"", UnavailableError),
    "half a message, and hangs up": (WELCOME[:9], UnavailableError),
    "noise": (random.Random(1).randbytes(5000), ProtocolError),
    "a message of 4 GiB": (b"\xff\xff\xff\xff", ProtocolError),
    "a message of nothing": (bytes(4), ProtocolError),
    "an answer nobody asked for": (encode(Welcome(77, bytes(16), "1.0")), ProtocolError),
    "another answer": (encode(Found(1, {})), ProtocolError),
    "no": (encode(Failed(1, "refused", "not you")), RefusedError),
    "no, before it was asked": (encode(Failed(0, "refused", "not you")), RefusedError),
    "memory that does not come": ([WELCOME, encode(Extents(0, [(1, 4096)]))], ProtocolError),
    "another answer later": ([WELCOME, encode(Found(2, {}))], ProtocolError),
    "an answer before the question": (WELCOME + encode(Found(2, {})), ProtocolError),
    "places that are nowhere": (
        [WELCOME, encode(Leased(2, 1, 1, {}, Places(bytes(4), bytes(8))))],
        ProtocolError,
    ),
}


@contextmanager
def speaker(path: Path, said: bytes | list[bytes], *, hangs_up: bool = True) -> Iterator[None]:
    """Says the same to everybody who asks: all at once, or a part for each question."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        kept: list[socket.socket] = []

        def speak() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                for part in [said] if isinstance(said, bytes) else said:
                    connection.recv(1 << 16)
                    connection.sendall(part)
                if hangs_up:
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAID)
async def test_what_cannot_be_understood_is_an_error(kind: str, name: str, tmp_path: Path) -> None:
    said, fault = SAID[name]
    path = tmp_path / "daemon.sock"
    before = len(list(Path("/proc/self/fd").iterdir()))
    with speaker(path, said):
        async with open_client(kind, 4096, socket=path) as client:
            for _ in range(3):
                with pytest.raises(fault):
                    await client.acquire([bytes(16)])
                await asyncio.sleep(0.01)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("kind", KINDS)
async def test_who_says_nothing_is_given_up(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    loop = asyncio.get_running_loop()
    with speaker(path, b"", hangs_up=False):
        async with open_client(kind, 4096, socket=path, timeout_s=0.2) as client:
            began_s = loop.time()
            for _ in range(50):
                with pytest.raises(UnavailableError):
                    await client.lookup([bytes(16)])
            assert loop.time() - began_s < 5.0, "most fail at once, without asking again"
