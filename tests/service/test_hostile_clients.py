"""Clients that do what no client should: they are refused or bounded, and others work on."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.client import Client
from greencache.client.framing import LARGEST_BYTES, encode
from greencache.client.messages import (
    MOST_BLOCKS,
    PROTOCOL,
    Acquire,
    Count,
    Delete,
    Done,
    Failed,
    Fetch,
    Found,
    Goodbye,
    Hello,
    Leased,
    Lookup,
    Prefetch,
    Release,
    Reserve,
    Reserved,
    join_keys,
)
from greencache.service.connection import ConnectionLimits
from greencache.service.session import MOST_TRANSACTIONS
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.engines import Engine
from tests.service.raw import RawClient

BLOCK_BYTES = 16 * 1024


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("daemon"), dram=8 * MIB) as running:
        yield running


class Neighbour:
    """A client that behaves, and works on all the while."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._client = Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0, name="neighbour")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._faults: list[Exception] = []
        self.rounds = 0

    def _work(self) -> None:
        into = np.empty((4, BLOCK_BYTES), np.uint8)
        while not self._over.is_set():
            try:
                keys = prompt("neighbour", self.rounds % 50, 1, 2)
                self._client.store(keys, the_bytes(keys, BLOCK_BYTES))
                good = self._client.load(keys, into)
                assert wrong_blocks(keys[:good], into[:good]) == 0
                self.rounds += 1
            except Exception as fault:
                self._faults.append(fault)
                return

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        before = self.rounds
        went_on = settled(lambda: self.rounds > before + 5 or bool(self._faults), 30.0)
        self._over.set()
        self._thread.join()
        self._client.close()
        if kind is None:
            assert (self._faults, went_on) == ([], True)


@pytest.fixture
def neighbour(daemon: RunningDaemon) -> Iterator[Neighbour]:
    """Works as long as the test, and has nothing to complain of."""
    with Neighbour(daemon) as working:
        assert settled(lambda: working.rounds > 0, 30.0)
        yield working


def hello() -> bytes:
    return encode(Hello(1, PROTOCOL, BLOCK_BYTES))


@pytest.mark.parametrize(
    "rubbish",
    [
        lambda: secrets.token_bytes(100_000),
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: struct.pack("<I", LARGEST_BYTES + 1),
        lambda: b"\xff" * 4,
        lambda: struct.pack("<I", 0) * 1000,
        lambda: encode(Lookup(1, b"")),
        lambda: hello() + hello(),
        lambda: hello() + struct.pack("<I", 5) + b"\xc1\xc1\xc1\xc1\xc1",
        lambda: hello() + struct.pack("<I", 3) + b"\x91\x02\x02",
        lambda: struct.pack("<I", 70_000) + b"\x91" * 70_000,
    ],
    ids=[
        "noise",
        "http",
        "just too long",
        "endless",
        "empty",
        "no hello",
        "hello twice",
        "not msgpack",
        "of another type",
        "nested",
    ],
)
@pytest.mark.usefixtures("neighbour")
def test_whoever_does_not_speak_the_protocol_is_cut_off(
    daemon: RunningDaemon, rubbish: Callable[[], bytes]
) -> None:
    for _ in range(5):
        with RawClient(daemon.socket) as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.socket.sendall(rubbish())
            assert client.ended()


def test_what_makes_no_sense_is_answered_so(daemon: RunningDaemon) -> None:
    with RawClient(daemon.socket) as client:
        client.attach(BLOCK_BYTES)
        keys = join_keys(prompt("sense"))
        asked: list[tuple[type[Any], dict[str, Any], str]] = [
            (Acquire, {"keys": keys, "held": -1}, "input"),
            (Acquire, {"keys": keys, "reusable": 2}, "input"),
            (Reserve, {"keys": keys + keys}, "input"),
            (Acquire, {"keys": keys + keys}, "input"),
            (Prefetch, {"keys": keys + keys}, "input"),
            (Fetch, {"lease": 12345}, "state"),
            (Release, {"leases": [0, -1, 2**60]}, "state"),
        ]
        for kind, content, expected in asked:
            answer = client.ask(kind, **content)
            assert isinstance(answer, Failed), answer
            assert answer.kind == expected
        assert isinstance(client.ask(Delete, keys=b""), Count)
        assert isinstance(client.ask(Prefetch, keys=b""), Count)
        failed = client.ask(Lookup, keys=b"not a key")
        assert isinstance(failed, Failed)
        assert failed.kind == "protocol"
        assert client.ended()


@pytest.mark.parametrize(
    "content",
    [
        {"protocol": PROTOCOL + 1},
        {"block_bytes": 0},
        {"block_bytes": -1},
        {"block_bytes": 2**62},
        {"shards": 0},
        {"shards": 2, "shard": 2},
        {"shards": 10**9},
        {"group": b"short"},
    ],
    ids=str,
)
def test_sessions_that_cannot_be_are_refused(
    daemon: RunningDaemon, content: dict[str, Any]
) -> None:
    with RawClient(daemon.socket) as client:
        answer = client.ask(Hello, **{"protocol": PROTOCOL, "block_bytes": BLOCK_BYTES, **content})
        assert isinstance(answer, Failed)
        assert answer.kind in {"input", "refused"}
        again = client.hello(BLOCK_BYTES)
        assert isinstance(again, Failed), "one Hello each"
        assert client.ended()


@pytest.mark.slow
def test_who_always_has_something_to_read_yet_is_not_cut_off(tmp_path: Path) -> None:
    """It was handed memory, and has taken it; what waits for it came later."""
    keys = prompt("busy", 1)
    limits = ConnectionLimits(reading_s=0.3)
    with (
        RunningDaemon(tmp_path, limits=limits) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client,
        RawClient(daemon.socket, timeout_s=10.0) as busy,
    ):
        client.store(keys, the_bytes(keys, BLOCK_BYTES))
        busy.hello(BLOCK_BYTES)
        assert busy.ask(Acquire, keys=join_keys(keys)).blocks == 2
        assert busy.extents
        question = encode(Lookup(1000, join_keys(keys)))
        busy.socket.sendall(question)
        answer_bytes = len(busy.socket.recv(1 << 16))
        busy.socket.sendall(question * 8)
        end_s = time.monotonic() + 2.5
        while time.monotonic() < end_s:
            busy.socket.sendall(question)
            assert len(busy.socket.recv(answer_bytes, socket.MSG_WAITALL)) == answer_bytes
        assert client.status()["counts"].get("cut_off", 0) == 0


@pytest.mark.slow
def test_who_has_taken_its_memory_may_leave_answers_unread(tmp_path: Path) -> None:
    """A client reads what became of a release or a commit when it asks something again."""
    keys = prompt("idle", 1)
    limits = ConnectionLimits(reading_s=0.3)
    with (
        RunningDaemon(tmp_path, limits=limits) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as writer,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as reader,
    ):
        writer.store(keys, the_bytes(keys, BLOCK_BYTES))
        reader.acquire(keys).release()
        time.sleep(2.5)
        assert reader.status()["counts"].get("cut_off", 0) == 0
        assert writer.lookup(keys)["dram"] == len(keys)


@pytest.mark.slow
def test_who_asks_and_never_reads_is_bounded_and_cut_off(tmp_path: Path) -> None:
    """It asks for answers of many places; the daemon keeps few of them, then ends it."""
    limits = ConnectionLimits(reading_s=5.0)
    keys = prompt("many", *range(250))
    question = encode(Acquire(2, join_keys(keys)))
    with (
        RunningDaemon(tmp_path, limits=limits) as daemon,
        Neighbour(daemon),
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client,
        RawClient(daemon.socket, timeout_s=1.0) as rude,
    ):
        client.store(keys, the_bytes(keys, BLOCK_BYTES))
        before = private_bytes(daemon.pid)
        rude.socket.sendall(hello())
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += rude.socket.send(question)
        assert sent < 4 * MIB, "it was not read for ever"
        assert private_bytes(daemon.pid) - before < 16 * MIB
        assert settled(lambda: client.status()["counts"].get("cut_off", 0) >= 1, 30.0)
        assert rude.ended()


@pytest.mark.slow
def test_what_is_begun_has_to_be_ended_soon(tmp_path: Path) -> None:
    limits = ConnectionLimits(message_s=1.0)
    with (
        RunningDaemon(tmp_path, limits=limits) as daemon,
        Neighbour(daemon),
        contextlib.ExitStack() as stack,
    ):
        slow, silent, idle = (stack.enter_context(RawClient(daemon.socket)) for _ in range(3))
        slow.attach(BLOCK_BYTES)
        idle.attach(BLOCK_BYTES)
        question = encode(Lookup(2, join_keys(prompt("slow", *range(50)))))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            dribble(slow, question)
        assert silent.ended(), "it never said Hello"
        answer = idle.ask(Lookup, keys=b"")
        assert isinstance(answer, Found), "who has said all it began to may be silent for ever"


@pytest.mark.slow
def test_what_all_have_begun_to_say_is_bounded(tmp_path: Path) -> None:
    limits = ConnectionLimits(message_s=1.5, together_bytes=2 * MIB)
    keys = join_keys([number.to_bytes(16, "little") for number in range(MOST_BLOCKS)])
    question = encode(Lookup(2, keys))
    with (
        RunningDaemon(tmp_path, limits=limits) as daemon,
        Neighbour(daemon),
        contextlib.ExitStack() as stack,
    ):
        before = private_bytes(daemon.pid)
        half = [stack.enter_context(RawClient(daemon.socket)) for _ in range(40)]
        for client in half:
            client.attach(BLOCK_BYTES)
            client.socket.setblocking(False)
            said = 0
            with contextlib.suppress(BlockingIOError):
                while said < len(question) - 1:
                    said += client.socket.send(question[said:-1])
        assert private_bytes(daemon.pid) - before < 16 * MIB
        for client in half:
            client.socket.settimeout(20.0)
            assert client.ended()
        with RawClient(daemon.socket) as client:
            client.attach(BLOCK_BYTES)
            assert isinstance(client.ask(Lookup, keys=keys), Found)


def dribble(client: RawClient, question: bytes) -> None:
    """Send a byte now and then."""
    for byte in question:
        client.socket.send(bytes([byte]))
        time.sleep(0.02)


@pytest.mark.usefixtures("neighbour")
def test_many_large_questions_at_once_make_nobody_wait_long(daemon: RunningDaemon) -> None:
    keys = join_keys([number.to_bytes(16, "little") for number in range(MOST_BLOCKS)])
    question = encode(Lookup(2, keys))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.socket)) for _ in range(4)]
        for client in clients:
            client.attach(BLOCK_BYTES)
        threads = [
            threading.Thread(target=client.socket.sendall, args=(question * 10,))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for client in clients:
            for _ in range(10):
                client.hear()
        for thread in threads:
            thread.join()


@pytest.mark.usefixtures("neighbour")
def test_a_thousand_idle_clients_cost_little(daemon: RunningDaemon) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0))
        sessions = client.status()["sessions"]
        before = private_bytes(daemon.pid)
        idle = [stack.enter_context(RawClient(daemon.socket)) for _ in range(1000)]
        for each in idle:
            each.attach(BLOCK_BYTES)
        assert client.status()["connections"] >= 1001
        assert client.status()["processes"] == 1
        assert private_bytes(daemon.pid) - before < 64 * MIB
    with Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client:
        assert settled(lambda: client.status()["connections"] <= 2)
        assert client.status()["sessions"] <= sessions


def private_bytes(pid: int) -> int:
    """Memory of a process beside what it shares with others."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0]) * 1024


def test_one_process_reserves_half_of_the_memory_and_no_more(tmp_path: Path) -> None:
    blocks = 8 * MIB // BLOCK_BYTES
    with RunningDaemon(tmp_path, dram=8 * MIB) as daemon, contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(RawClient(daemon.socket)) for _ in range(3)]
        taken = 0
        for number, client in enumerate(greedy):
            client.attach(BLOCK_BYTES)
            answer = client.ask(Reserve, keys=join_keys(prompt("greedy", number, *range(400))))
            assert isinstance(answer, Reserved)
            taken += len(answer.places.offset) // 8
        assert taken == blocks // 2, "however many connections it has"
        log = tmp_path / "engine"
        other = Engine(daemon.socket, log, seed=1, timeout_s=20.0)
        assert settled(lambda: other.done().stored > 0 and other.done().loaded > 0, 30.0)
        other.stop()


@pytest.mark.slow
def test_one_process_cannot_lease_without_end(tmp_path: Path) -> None:
    keys = prompt("leased", 1)
    with (
        RunningDaemon(tmp_path, dram=8 * MIB) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client,
        RawClient(daemon.socket) as greedy,
    ):
        client.store(keys, the_bytes(keys, BLOCK_BYTES))
        greedy.attach(BLOCK_BYTES)
        for _ in range(MOST_TRANSACTIONS // 64):
            for _ in range(64):
                greedy.say(Acquire, keys=join_keys(keys), learn=False)
            assert all(isinstance(greedy.hear(), Leased) for _ in range(64))
        answer = greedy.ask(Acquire, keys=join_keys(keys))
        assert isinstance(answer, Failed)
        assert answer.kind == "refused"


def test_who_leases_most_of_the_memory_finds_nothing_more(tmp_path: Path) -> None:
    """Or others could store nothing: what is leased is never evicted."""
    blocks = 8 * MIB // BLOCK_BYTES
    prompts = [prompt(f"share {number}", *range(blocks // 8 - 1)) for number in range(8)]
    with (
        RunningDaemon(tmp_path, dram=8 * MIB) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client,
        RawClient(daemon.socket) as greedy,
    ):
        for keys in prompts:
            client.store(keys, the_bytes(keys, BLOCK_BYTES))
        greedy.attach(BLOCK_BYTES)
        leased = [greedy.ask(Acquire, keys=join_keys(keys)).blocks for keys in prompts]
        assert leased == [blocks // 8] * 5 + [0] * 3
        assert client.lookup(prompts[-1]) == {"dram": blocks // 8}


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_who_leases_what_is_no_prompt_keeps_nothing_for_ever(
    daemon: RunningDaemon, says_goodbye: bool
) -> None:
    """Blocks of several prompts, let go in any order, or all at the end."""
    keys, other = prompt("no", "prompt", "this"), prompt("another")
    with (
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=10.0) as client,
        RawClient(daemon.socket) as odd,
    ):
        client.store(keys, the_bytes(keys, BLOCK_BYTES))
        client.store(other, the_bytes(other, BLOCK_BYTES))
        odd.attach(BLOCK_BYTES)
        asked = [keys, other + keys[2:], [keys[0], keys[2]], keys[1:]]
        leased = [odd.ask(Acquire, keys=join_keys(each)) for each in asked]
        assert [each.blocks for each in leased] == [3, 1, 1, 0]
        if says_goodbye:
            assert isinstance(odd.ask(Goodbye), Done)
        else:
            assert isinstance(odd.ask(Release, leases=[each.lease for each in leased[:3]]), Done)
        assert client.status()["transactions"] == 0
        assert client.resize(dram=0) == {"dram": 0}, "nothing is leased any more"
        assert client.resize(dram=8 * MIB) == {"dram": 0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_even_where_the_file_system_lets_him_in() -> None:
    with tempfile.TemporaryDirectory() as folder, RunningDaemon(Path(folder)) as daemon:
        Path(folder).chmod(0o711)
        daemon.socket.chmod(0o666)
        script = (
            "import os, socket, sys\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "s.settimeout(20)\n"
            "data = s.recv(1000)\n"
            "assert b'is of user 65534' in data and s.recv(1000) == b'', data\n"
        )
        subprocess.run([sys.executable, "-c", script, os.fspath(daemon.socket)], check=True)
        with RawClient(daemon.socket) as client:
            client.attach(BLOCK_BYTES)


def test_who_only_connects_holds_nothing_up(daemon: RunningDaemon) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.connect(os.fspath(daemon.socket))
        with RawClient(daemon.socket) as client:
            client.attach(BLOCK_BYTES)
