"""A connection and those who look after all of them, where the system has no more to give."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from greencache.client import AsyncClient
from greencache.client.framing import Frames, encode
from greencache.client.messages import Question, Status, StatusText
from greencache.service import connection as connections
from greencache.service.connection import Budget, Connection, ConnectionLimits
from greencache.service.daemon import Daemon
from greencache.service.session import Session
from greencache.settings import ServeSettings, Settings
from tests.conformance.prompts import prompt

QUESTIONS = 100


async def test_all_is_answered_though_descriptors_could_not_be_sent_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send, refused = connections._send, 0

    def sending(to: socket.socket, data: memoryview, descriptors: Sequence[int]) -> int:
        nonlocal refused
        if descriptors and not refused:
            refused += 1
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return send(to, data, descriptors)

    async def answer(question: Question) -> StatusText:
        if question.number == 1:
            connection.send(StatusText(0, b""), [os.dup(0)])
        return StatusText(question.number, b"long" * 1500)

    monkeypatch.setattr(connections, "_send", sending)
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    for end in (ours, theirs):  # what piles up meanwhile goes at once
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    connection = Connection(ours, answer, lambda reason: None, ConnectionLimits(), Budget(64 << 20))
    await loop.sock_sendall(theirs, b"".join(encode(Status(i + 1)) for i in range(QUESTIONS)))
    await asyncio.sleep(0.5)  # by then it was tried again
    assert refused == 1
    frames, answered = Frames(), 0
    async with asyncio.timeout(20):
        while answered < QUESTIONS + 1:
            answered += len(list(frames.feed(await loop.sock_recv(theirs, 1 << 20))))
    connection.close("")
    theirs.close()


async def test_what_fails_for_one_client_ends_its_connection_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    path, failed, told = tmp_path / "d.sock", 0, 0
    serve = ServeSettings(socket=path, dram=4 << 20, staging=1 << 20, metrics_port=0)

    def tell(session: Session) -> None:
        nonlocal failed, told
        if not failed:
            failed += 1
            raise OSError(errno.EMFILE, "too many open files")
        told += 1

    monkeypatch.setattr(Session, "tell", tell)
    options: dict[str, Any] = {"socket": path, "timeout_s": 20.0}
    async with Daemon(Settings(serve=serve)), AsyncClient(4096, **options) as client:
        await client.lookup(prompt(1))
        async with asyncio.timeout(60):
            while told < 1:
                await asyncio.sleep(0.05)
                await client.lookup(prompt(1))
        assert failed == 1
