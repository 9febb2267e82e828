"""The protocol of Redis and Valkey (RESP 2), over blocking sockets, large values without copies.

Only what a tier of blocks needs: commands are sent, replies read in order, and a large value is
read straight into the buffer where it is wanted. All waiting is bounded by a `Deadline`, from
connecting to the last byte. The protocol: https://valkey.io/topics/protocol/
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from greencache.tiers.resolver import Address, Resolver

__all__ = [
    "Deadline",
    "ProtocolError",
    "Reply",
    "ReplyError",
    "RespConnection",
    "ServerAddress",
    "command",
]

LINE_BYTES = 64 * 1024
"""The longest line of a reply: an error's text, the length of a value."""
SCRATCH_BYTES = 64 * 1024
"""Read at once where replies are small."""
DEPTH = 4
"""Arrays within each other in a reply, at most: so deep are a cluster's slots."""
LARGE_BYTES = 32 * 1024
"""Values from here on bypass the buffer, but for what comes with their length."""
LENGTH_BYTES = 32
"""Read at once where the length of such a value is to come."""
UNIX_SEND_BYTES = 2**20
"""What may be on its way through a Unix socket, of which Linux's 208 KiB by default are soon full:
blocks of 2 MiB are written 1.3 times as fast. TCP finds out by itself what it needs."""

_IS_NUMBER = re.compile(rb":-?[0-9]{1,18}").fullmatch


class ReplyError(Exception):
    """What a server answered instead of doing what it was told."""

    @property
    def code(self) -> str:
        """Its first word: ``OOM``, ``NOPERM``, ``MOVED``."""
        return str(self).partition(" ")[0]


class ProtocolError(Exception):
    """What came is not an answer of such a server."""


Reply: TypeAlias = "int | bytes | ReplyError | list[Reply] | None"


class Deadline:
    """A moment after which nothing is waited for."""

    def __init__(self, seconds: float) -> None:
        self._at_s = time.monotonic() + seconds

    def left_s(self, at_most_s: float = 3600.0) -> float:
        """Seconds until then.

        Raises
        ------
        TimeoutError
            If it has passed.
        """
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        return min(left_s, at_most_s)


def command(*words: bytes) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens: a host and a port, or a Unix socket.

    Raises
    ------
    ValueError
        If there can be none.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16 or not _can_be_looked_up(self.host):
            raise ValueError(f"there is no server at {str(self)[:80]!r}")

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class RespConnection:
    """A connection.

    After any exception it is of no use but to be closed: an answer may still be on its way.
    """

    def __init__(
        self,
        address: ServerAddress,
        deadline: Deadline,
        resolver: Resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if address.path:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)
        else:
            plain = _reached(address, deadline, resolver)
        try:
            plain.settimeout(deadline.left_s())
            if address.path:
                plain.connect(address.path)
            else:
                _be_prompt(plain)
            self._socket: socket.socket = plain
            self._tls = tls is not None
            self._wakes_at = 1
            self._can_wait = tls is None and not address.path
            if tls is not None:
                self._socket = tls.wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
        self._scratch = bytearray(SCRATCH_BYTES)
        self._begin = self._end = 0  # of what was received and not yet taken

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def is_quiet(self) -> bool:
        """Whether nothing waits to be read: not even that the server has closed it."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return self._begin == self._end
        except OSError:
            return False
        return False  # closed, or something that nobody asked for

    def send(
        self, data: bytes | bytearray | memoryview, deadline: Deadline, *, more: bool = False
    ) -> None:
        """Send all of it; ``more`` if the rest of a command follows at once."""
        self._socket.settimeout(deadline.left_s())
        # Then a packet is not closed with what little there is of it; TLS has records of its own.
        self._socket.sendall(data, socket.MSG_MORE if more and not self._tls else 0)

    def ask(self, deadline: Deadline, *words: bytes) -> Reply:
        """Send a command and read its reply."""
        self.send(command(*words), deadline)
        return self.reply(deadline)

    def reply(self, deadline: Deadline, depth: int = DEPTH) -> Reply:
        """Read a reply of any kind; an error is returned."""
        line = self._line(deadline)
        kind, text = line[:1], line[1:]
        if kind == b"+":
            return text
        if kind == b"-":
            return ReplyError(text.decode(errors="replace"))
        if kind == b":":
            return _number(text)
        if kind == b"$":
            length = _number(text)
            return None if length < 0 else self._value(length, deadline)
        if kind == b"*":
            if depth == 0:
                raise ProtocolError(f"a reply of more than {DEPTH} arrays within each other")
            return [self.reply(deadline, depth - 1) for _ in range(_number(text))]
        raise ProtocolError(f"a reply that begins with {line[:20]!r}")

    def replies(self, count: int, deadline: Deadline) -> list[Reply]:
        """Read as many replies; fast where they are numbers, as of a long lookup."""
        found: list[Reply] = []
        while len(found) < count:
            end = self._scratch.rfind(b"\r\n", self._begin, self._end)
            lines = self._scratch[self._begin : end].split(b"\r\n") if end >= 0 else []
            if lines and len(found) + len(lines) <= count and all(map(_IS_NUMBER, lines)):
                found += [int(line[1:]) for line in lines]
                self._begin = end + 2
            else:
                found.append(self.reply(deadline))
        return found

    def value_length(self, expected: int, deadline: Deadline) -> int | ReplyError | None:
        """Read the length of a value, which `read_into` and `end_value` have to follow.

        Parameters
        ----------
        expected:
            What it should be, so that a large value is not read into a buffer first.
        deadline:
            When to give up.

        Returns
        -------
        int, ReplyError or None
            Its bytes; or what the server said instead; or None if there is no value.
        """
        line = self._line(deadline, LENGTH_BYTES if expected >= LARGE_BYTES else SCRATCH_BYTES)
        if line[:1] == b"-":
            return ReplyError(line[1:].decode(errors="replace"))
        if line[:1] != b"$":
            raise ProtocolError(f"a value that begins with {line[:20]!r}")
        length = _number(line[1:])
        return None if length < 0 else length

    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        """Fill a buffer with what comes next."""
        have = min(len(view), self._end - self._begin)
        view[:have] = self._scratch[self._begin : self._begin + have]
        self._begin += have
        while have < len(view):
            self._wake_for(len(view) - have)
            have += self._receive(view[have:], deadline)

    def end_value(self, deadline: Deadline, last: int = 0) -> bytes:
        """Read the last bytes of a value and what ends it."""
        end = bytearray(last + 2)
        self.read_into(memoryview(end), deadline)
        if end[last:] != b"\r\n":
            raise ProtocolError(f"a value that ends with {bytes(end[last:])!r}")
        return bytes(end[:last])

    def skip_value(self, length: int, deadline: Deadline) -> None:
        """Read a value of so many bytes that is of no use."""
        rest = bytearray(min(length, SCRATCH_BYTES))
        while length:
            some = min(length, len(rest))
            self.read_into(memoryview(rest)[:some], deadline)
            length -= some
        self.end_value(deadline)

    def _value(self, length: int, deadline: Deadline) -> bytes:
        if length > LINE_BYTES:
            raise ProtocolError(f"a value of {length} bytes that nobody asked for")
        value = bytearray(length)
        self.read_into(memoryview(value), deadline)
        self.end_value(deadline)
        return bytes(value)

    def _line(self, deadline: Deadline, at_once: int = SCRATCH_BYTES) -> bytes:
        """Read a line, and so many bytes at once until it has ended."""
        searched = self._begin
        while True:
            end = self._scratch.find(b"\r\n", searched, self._end)
            if end >= 0:
                line = bytes(self._scratch[self._begin : end])
                self._begin = end + 2
                return line
            if self._end - self._begin >= SCRATCH_BYTES:
                raise ProtocolError("a line without an end")
            searched = max(self._begin, self._end - 1)
            searched -= self._fill(at_once, deadline)

    def _fill(self, at_once: int, deadline: Deadline) -> int:
        """Receive more behind what is there; by how much that moved to the front."""
        moved = 0
        if self._begin == self._end:
            moved, self._begin, self._end = self._begin, 0, 0
        elif self._end == SCRATCH_BYTES:
            moved = self._begin
            rest = self._scratch[self._begin : self._end]
            self._begin, self._end = 0, len(rest)
            self._scratch[: len(rest)] = rest
        self._wake_for(1)
        room = memoryview(self._scratch)[self._end : self._end + at_once]
        self._end += self._receive(room, deadline)
        return moved

    def _wake_for(self, wanted: int) -> None:
        """Have the kernel wake this thread when so many bytes have come, and not for each packet.

        Only plain TCP gains by it: TLS has records of its own, and a Unix socket is slower then.
        """
        wakes_at = wanted if self._can_wait and wanted >= LARGE_BYTES else 1
        if wakes_at != self._wakes_at:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wakes_at)
            self._wakes_at = wakes_at

    def _receive(self, view: memoryview, deadline: Deadline) -> int:
        self._socket.settimeout(deadline.left_s())
        count = self._socket.recv_into(view)
        if count == 0:
            raise ConnectionResetError("the server closed the connection")
        return count


def _reached(address: ServerAddress, deadline: Deadline, resolver: Resolver) -> socket.socket:
    """A socket to the first of a host's addresses that answers; each has its share of the time.

    Raises
    ------
    OSError
        If none does.
    """
    fault = OSError(f"{address.host} has no address")
    found = resolver.addresses(address.host, address.port, deadline.left_s())
    for tried, each in enumerate(found):
        try:
            return _connected(each, deadline.left_s() / (len(found) - tried))
        except OSError as problem:
            fault = problem
    resolver.doubt(address.host, address.port)
    raise fault


def _connected(address: Address, limit_s: float) -> socket.socket:
    family, where = address
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(limit_s)
        plain.connect(where)
    except BaseException:
        plain.close()
        raise
    return plain


def _be_prompt(plain: socket.socket) -> None:
    """Send what there is at once, and to this same host as fast as it is taken.

    That is to the very address that it comes from, as within 127.0.0.1. Between two processes there
    is nothing to be careful of, but congestion controls that pace (bbr) do so with timers: without
    them blocks are written 1.2 times as fast. The answers' sender is the server, whose choice stays
    the system's.
    """
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_CONGESTION") and plain.getsockname()[0] == plain.getpeername()[0]:
        with suppress(OSError):  # then it stays as it is
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _can_be_looked_up(host: str) -> bool:
    """Whether the resolver takes it as a name: what it refuses, it refuses by any exception."""
    try:
        return b"\0" not in host.encode("idna")
    except UnicodeError:
        return False


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise ProtocolError(f"{text[:20]!r} in place of a number") from None
