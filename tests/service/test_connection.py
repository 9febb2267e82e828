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
from tests.pinning import PagePinning

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


async def test_a_client_stays_though_the_daemon_has_no_descriptors_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(question: Question) -> StatusText:
        return StatusText(question.number, b"an answer")

    def none_left(*_: Any) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    loop, reasons = asyncio.get_running_loop(), list[str]()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = Connection(ours, answer, reasons.append, ConnectionLimits(), Budget(64 << 20))
    connections._measured_bytes.cache_clear()
    monkeypatch.setattr("socket.socketpair", none_left)
    connection.send(StatusText(0, b""), [os.dup(0)])
    connection.send(StatusText(0, b"what follows memory is measured"))
    await loop.sock_sendall(theirs, encode(Status(1)))
    frames, answered = Frames(), 0
    async with asyncio.timeout(20):
        while answered < 3:
            answered += len(list(frames.feed(await loop.sock_recv(theirs, 1 << 20))))
    assert connection.overdue(loop.time() + 3600.0) == "", "it has read all there is"
    assert not reasons
    connection.close("")
    theirs.close()


async def test_memory_to_pin_is_offered_once_there_are_descriptors_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    duplicate, failed = os.dup, 0

    def dup(descriptor: int) -> int:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise OSError(errno.EMFILE, "too many open files")
        return duplicate(descriptor)

    tmp_path.chmod(0o700)
    serve = ServeSettings(socket=tmp_path / "d.sock", dram=4 << 20, staging=1 << 20, metrics_port=0)
    options: dict[str, Any] = {"socket": serve.socket, "timeout_s": 20.0, "pinning": PagePinning()}
    async with Daemon(Settings(serve=serve)):
        monkeypatch.setattr(os, "dup", dup)
        async with AsyncClient(4096, **options) as client, asyncio.timeout(60):
            await client.lookup(prompt(1))
            with client.in_use([]):
                while client.pinned_bytes < 4 << 20:
                    await asyncio.sleep(0.05)
    assert failed == 2
    assert caplog.text.count("cannot be offered memory to pin") == 1
    assert "cut off" not in caplog.text


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
