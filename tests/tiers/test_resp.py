"""The protocol over real sockets, with a peer that says whatever a test wants it to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import given, settings, strategies as st

from greencache.tiers.resolver import Resolver
from greencache.tiers.resp import (
    DEPTH,
    LARGE_BYTES,
    SCRATCH_BYTES,
    Deadline,
    ProtocolError,
    Reply,
    ReplyError,
    RespConnection,
    ServerAddress,
    command,
)


@contextmanager
def saying(*parts: bytes, hang: bool = False) -> Iterator[RespConnection]:
    """A connection to a peer that sends these, one by one, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def speak() -> None:
        peer, _ = listener.accept()
        with peer, suppress(OSError):  # whoever listens may have heard enough
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                peer.sendall(part)
                time.sleep(0.001)
            if hang:
                over.wait(10)

    speaker = threading.Thread(target=speak)
    speaker.start()
    address = ServerAddress("127.0.0.1", listener.getsockname()[1])
    connection = RespConnection(address, Deadline(5), Resolver())
    try:
        yield connection
    finally:
        over.set()
        connection.close()
        speaker.join()
        listener.close()


def replies(count: int, *parts: bytes) -> list[Reply]:
    with saying(*parts) as connection:
        return [connection.reply(Deadline(5)) for _ in range(count)]


def test_a_command_is_counted_words() -> None:
    assert command(b"SET", b"k", b"a\r\nb") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n"


def test_replies_of_every_kind() -> None:
    found = replies(
        8,
        b"+OK\r\n:-5\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n:1\r\n$0\r\n\r\n-OOM no\r\n*0\r\n",
        b"*1\r\n" * DEPTH + b":1\r\n",
    )
    error = found.pop(5)
    assert found == [b"OK", -5, b"a\r\n", None, [1, b""], [], [[[[1]]]]]
    assert isinstance(error, ReplyError)
    assert (error.code, str(error)) == ("OOM", "OOM no")


@settings(max_examples=30)
@given(
    values=st.lists(st.integers(0, 3 * SCRATCH_BYTES), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 50_000), min_size=1, max_size=8),
)
def test_values_arrive_however_they_are_cut(values: list[int], cuts: list[int]) -> None:
    """Small ones, large ones, cut between any two bytes: what follows is read as well."""
    bodies = [bytes([65 + i]) * length for i, length in enumerate(values)]
    stream = b"".join(b"$%d\r\n%b\r\n" % (len(body), body) for body in bodies) + b":7\r\n"
    parts, at = [], 0
    for cut in cuts:
        parts.append(stream[at : at + cut])
        at += cut
    with saying(*parts, stream[at:]) as connection:
        deadline = Deadline(10)
        for body in bodies:
            assert connection.value_length(len(body), deadline) == len(body)
            into = bytearray(len(body))
            connection.read_into(memoryview(into), deadline)
            connection.end_value(deadline)
            assert into == body
        assert connection.reply(deadline) == 7


def test_many_small_replies_cross_the_buffers_end() -> None:
    stream = b"".join(b":%d\r\n" % i for i in range(20_000))
    assert replies(20_000, stream) == list(range(20_000))
    with saying(stream + b"+OK\r\n") as connection:
        assert connection.replies(20_000, Deadline(10)) == list(range(20_000))
        assert connection.reply(Deadline(10)) == b"OK"


@settings(max_examples=30)
@given(
    kinds=st.lists(
        st.sampled_from([b":1\r\n", b":-20\r\n", b"+OK\r\n", b"$2\r\n\r\n\r\n"]), max_size=40
    ),
    cut=st.integers(0, 200),
)
def test_replies_read_together_are_those_read_one_by_one(kinds: list[bytes], cut: int) -> None:
    stream = b"".join(kinds)
    meant: dict[bytes, Reply] = {b":1": 1, b":-20": -20, b"+OK": b"OK", b"$2": b"\r\n"}
    with saying(stream[:cut], stream[cut:] + b":7\r\n") as connection:
        found = connection.replies(len(kinds), Deadline(10))
        assert found == [meant[each.split(b"\r\n")[0]] for each in kinds]
        assert connection.reply(Deadline(10)) == 7


def test_a_number_that_is_none_is_garbage_among_many_too() -> None:
    with saying(b":1\r\n:x\r\n:2\r\n") as connection, pytest.raises(ProtocolError):
        connection.replies(3, Deadline(5))


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b":seven\r\n",
        b"$x\r\n",
        b"$3\r\nabcde\r\n",
        b"$999999999\r\n",
        b"\r\n",
        b"*1\r\n" * 3000,
        b"x" * (SCRATCH_BYTES + 10),
    ],
)
def test_garbage_is_not_taken_for_a_reply(garbage: bytes) -> None:
    with saying(garbage, hang=True) as connection, pytest.raises(ProtocolError):
        connection.reply(Deadline(5))


def test_half_a_reply_is_a_closed_connection_or_a_timeout() -> None:
    with saying(b"$10\r\nabc") as connection, pytest.raises(ConnectionError):
        connection.reply(Deadline(5))
    with saying(b"$10\r\nabc", hang=True) as connection, pytest.raises(TimeoutError):
        connection.reply(Deadline(0.05))


def test_a_peer_that_dribbles_gains_no_time() -> None:
    """Each byte comes soon enough; all of them together do not."""
    with saying(*[b"+"] * 2000, hang=True) as connection:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.reply(Deadline(0.2))
        assert time.monotonic() - began_s < 1.0


def test_a_connection_is_quiet_until_the_peer_says_something_or_closes() -> None:
    with saying(hang=True) as connection:
        assert connection.is_quiet()
    for parts in ((b"+OK\r\n",), ()):
        with saying(*parts) as connection:
            end_s = time.monotonic() + 5
            while connection.is_quiet() and time.monotonic() < end_s:
                time.sleep(0.001)
            assert not connection.is_quiet()


@pytest.mark.parametrize("length", [1000, 10 * SCRATCH_BYTES])
def test_half_a_value_is_a_closed_connection_or_a_timeout(length: int) -> None:
    """However large: of a large one, little wakes nobody, but the end of it does."""
    half = b"$%d\r\n" % length + bytes(length // 2)
    into = memoryview(bytearray(length))
    with saying(half) as connection:
        assert connection.value_length(length, Deadline(5)) == length
        with pytest.raises(ConnectionError):
            connection.read_into(into, Deadline(5))
    with saying(half, hang=True) as connection:
        assert connection.value_length(length, Deadline(5)) == length
        with pytest.raises(TimeoutError):
            connection.read_into(into, Deadline(0.05))


def test_another_value_than_was_expected_is_read_as_well() -> None:
    small, large = b"$3\r\nabc\r\n", b"$100000\r\n" + b"x" * 100_000 + b"\r\n"
    with saying(small + b"$-1\r\n-OOM no\r\n" + large + b":7\r\n") as connection:
        deadline = Deadline(5)
        assert connection.value_length(100_000, deadline) == 3
        connection.skip_value(3, deadline)
        assert connection.value_length(100_000, deadline) is None
        assert isinstance(connection.value_length(100_000, deadline), ReplyError)
        assert connection.value_length(3, deadline) == 100_000
        connection.skip_value(100_000, deadline)
        assert connection.reply(deadline) == 7


def low_water_mark(connection: RespConnection) -> int:
    return connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_a_reader_is_woken_for_as_much_as_it_needs_and_then_for_every_byte() -> None:
    body = bytes(4 * LARGE_BYTES)
    into = memoryview(bytearray(len(body)))
    with saying(b"$%d\r\n%b" % (len(body), body[: len(body) // 2]), hang=True) as connection:
        assert connection.value_length(len(body), Deadline(5)) == len(body)
        with pytest.raises(TimeoutError):
            connection.read_into(into, Deadline(0.05))
        assert low_water_mark(connection) > 1
    with saying(b"$%d\r\n%b\r\n+OK\r\n" % (len(body), body)) as connection:
        assert connection.value_length(len(body), Deadline(5)) == len(body)
        connection.read_into(into, Deadline(5))
        connection.end_value(Deadline(5))
        assert connection.reply(Deadline(5)) == b"OK"
        assert low_water_mark(connection) == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux has it")
def test_nothing_is_paced_within_a_host() -> None:
    with saying(hang=True) as connection:
        found = connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert found.rstrip(b"\0") == b"reno"


def test_addresses_at_which_nobody_answers_share_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = ServerAddress("many.example", 6379)
    with ExitStack() as until_then:
        silent, good = (until_then.enter_context(socket.socket()) for _ in range(2))
        for listener in (silent, good):
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
        for _ in range(3):  # with its backlog full it answers no more
            caller = until_then.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(silent.getsockname())

        def connect(limit_s: float, *listeners: socket.socket) -> None:
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", each.getsockname())
                for each in listeners
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            RespConnection(many, Deadline(limit_s), Resolver()).close()

        connect(0.6, silent, good)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(0.1, *[silent] * 10)
        assert time.monotonic() - began_s < 0.6
