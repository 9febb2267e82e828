"""Where hosts are, when the system's resolver answers, fails or hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from greencache.tiers.resolver import KEPT_S, Resolver
from tests.tiers.scarce import few_threads, our_threads

LIMIT_S = 0.05
SLACK_S = 1.0
"""What a machine that is busy may add."""


class NameServer:
    """Stands for the system's resolver, and says one address."""

    def __init__(self) -> None:
        self.says: str | OSError = "10.0.0.1"
        self.asked = 0
        self._answers = threading.Event()
        self._answers.set()

    def hang(self) -> None:
        self._answers.clear()

    def go_on(self) -> None:
        """Answer, also what was asked before."""
        self._answers.set()
        for each in our_threads():
            each.join(10)

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        self._answers.wait(10)
        if isinstance(self.says, OSError):
            raise self.says
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.says, port))]


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.go_on()


class Asking:
    """A resolver, and a clock that goes on only when it is put forward."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.resolver = Resolver(lambda: self.now_s)

    def __call__(self) -> str:
        """Where a host is."""
        ((family, where),) = self.resolver.addresses("cache.example", 6379, LIMIT_S)
        assert (family, where[1]) == (socket.AF_INET, 6379)
        return str(where[0])


def test_what_was_found_is_kept_for_a_while(name_server: NameServer) -> None:
    ask = Asking()
    assert [ask(), ask()] == ["10.0.0.1"] * 2
    assert name_server.asked == 1
    name_server.says = "10.0.0.2"
    ask.now_s += KEPT_S - 1
    assert ask() == "10.0.0.1"
    ask.now_s += 2
    assert ask() == "10.0.0.2"
    assert name_server.asked == 2


def test_it_is_asked_again_when_nobody_answers_there(name_server: NameServer) -> None:
    ask = Asking()
    ask.resolver.doubt("cache.example", 6379)
    assert ask() == "10.0.0.1"
    name_server.says = "10.0.0.2"
    ask.resolver.doubt("cache.example", 6379)
    assert ask() == "10.0.0.2"


def test_one_that_hangs_is_waited_for_no_longer_than_that_and_asked_once(
    name_server: NameServer,
) -> None:
    ask = Asking()
    name_server.hang()
    began_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"cache\.example"):
            ask()
    assert time.monotonic() - began_s < 3 * LIMIT_S + SLACK_S
    assert name_server.asked == 1
    name_server.go_on()
    assert ask() == "10.0.0.1"
    assert name_server.asked == 1, "what it said in the end is kept"


def test_while_it_hangs_the_last_known_addresses_are_used(name_server: NameServer) -> None:
    ask = Asking()
    ask()
    name_server.hang()
    name_server.says = "10.0.0.2"
    ask.now_s += KEPT_S + 1
    for _ in range(3):
        assert ask() == "10.0.0.1"
    assert name_server.asked == 2
    began_s = time.monotonic()
    assert ask.resolver.addresses("cache.example", 6379, 100) != []
    assert time.monotonic() - began_s < SLACK_S, "only the first one waited"
    name_server.go_on()
    assert ask() == "10.0.0.2"


def test_who_it_does_not_know_is_asked_for_again(name_server: NameServer) -> None:
    ask = Asking()
    name_server.says = socket.gaierror(socket.EAI_NONAME, "unknown")
    for _ in range(2):
        with pytest.raises(OSError, match="unknown"):
            ask()
    name_server.says = "10.0.0.1"
    assert ask() == "10.0.0.1"
    assert name_server.asked == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_numbers_need_no_thread(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    few_threads(monkeypatch, 0)
    ((_, where),) = Resolver().addresses(host, 6379, LIMIT_S)
    assert where[:2] == (host.partition("%")[0], 6379)
    with pytest.raises(OSError, match="localhost cannot be looked up"):
        Resolver().addresses("localhost", 6379, LIMIT_S)
