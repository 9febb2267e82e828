"""Where records stand: one server of Redis or Valkey, or the nodes of a cluster.

Connections are kept open and taken in turns, one thread each at a time. On a cluster a name's hash
slot says which node has it (https://valkey.io/topics/cluster-spec/); which slots a node has is
asked when it is not known, after a node said ``MOVED``, and after one failed.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from greencache.errors import InputError
from greencache.tiers.resolver import Resolver
from greencache.tiers.resp import (
    Deadline,
    ProtocolError,
    Reply,
    ReplyError,
    RespConnection,
    ServerAddress,
)

__all__ = ["SERVER_FAULTS", "RedisUrl", "Servers"]

SLOTS = 16384
"""Hash slots of a cluster."""

RELOAD_S = 0.5
"""A cluster's slots are asked for no more often."""

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")

SERVER_FAULTS = (OSError, ProtocolError, ReplyError)
"""What goes wrong between here and a server, timeouts and TLS included."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A server and how to log in.

    Attributes
    ----------
    address, db, username:
        As they stand in the URL.
    password:
        Not shown.
    tls:
        What checks the server's certificate, if it is spoken to by TLS.
    """

    address: ServerAddress
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, ca_file: str | Path | None = None) -> RedisUrl:
        """Read ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]``.

        ``rediss://`` is with TLS, against the system's authorities or those of ``ca_file``;
        ``unix://[[USER]:PASSWORD@]/PATH[?db=DB]`` is a socket.

        Raises
        ------
        InputError
            If it is not such a URL, or the file not one of certificates. A password is not shown.
        """
        from redis.connection import parse_url  # takes 0.1 s

        try:
            scheme = urlsplit(url).scheme
            redis_url = url.replace("valkey", "redis", 1) if scheme.startswith("valkey") else url
            found: dict[str, Any] = (
                parse_url(redis_url) if scheme in SCHEMES else {}  # type: ignore[no-untyped-call]
            )
        except ValueError:  # whose text may show a part of the password
            raise InputError(
                "not a Redis URL: write it like redis://USER:PASSWORD@HOST:6379/0, with #, / and @"
                " of a password as %23, %2F and %40"
            ) from None
        if scheme not in SCHEMES:
            raise InputError(f"a Redis URL begins with {', '.join(SCHEMES)}://")
        try:
            address = ServerAddress(path=found.pop("path", ""))
            if not address.path:
                address = ServerAddress(found.pop("host", "localhost"), found.pop("port", 6379))
        except ValueError as fault:
            raise InputError(f"not a Redis URL: {fault}") from None
        found.pop("connection_class", None)
        db, username = found.pop("db", 0), found.pop("username", "")
        password = found.pop("password", "")
        try:
            (username + password).encode()
        except UnicodeEncodeError:
            raise InputError("the user or password of a Redis URL is not UTF-8") from None
        if found:
            raise InputError(
                f"a Redis URL has no {', '.join(sorted(found))} here: see docs/redis.md"
            )
        tls = None
        if scheme in ("rediss", "valkeys"):
            try:
                tls = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as fault:
                raise InputError(f"{ca_file} has no certificates to check by: {fault}") from None
        elif ca_file is not None:
            raise InputError("a CA file is for TLS: write the URL as rediss://")
        return cls(address, db, username, password, tls)


class Servers:
    """One server, or the nodes of a cluster; used from threads.

    Parameters
    ----------
    url:
        The server, or any node.
    cluster:
        Whether it is a node of a cluster.
    connect_s:
        Most time for a connection to be ready.
    """

    def __init__(self, url: RedisUrl, *, cluster: bool, connect_s: float) -> None:
        if cluster and (url.db or url.address.path):
            raise InputError("a cluster has neither databases nor Unix sockets")
        self._url, self._cluster, self._connect_s = url, cluster, connect_s
        self._resolver = Resolver()
        self._lock = threading.Lock()
        self._idle: defaultdict[ServerAddress, deque[RespConnection]] = defaultdict(deque)
        self._closed = False
        self._node_of: list[ServerAddress | None] = []
        self._stale = cluster
        self._loaded_s = -RELOAD_S

    @property
    def is_stale(self) -> bool:
        """Whether `load` is to be called first, for slots may have moved."""
        return self._stale and time.monotonic() - self._loaded_s >= RELOAD_S

    def mark_stale(self) -> None:
        """Slots may have moved: a node said so, or fails."""
        self._stale = self._cluster

    def moved(self, reply: ReplyError) -> None:
        """Note where a slot is now: ``MOVED SLOT HOST:PORT``.

        Raises
        ------
        ProtocolError
            If there can be no such slot or server.
        """
        self.mark_stale()  # others may have moved with it
        match str(reply).split():
            case [_, slot, where]:
                host, _, port = where.rpartition(":")
                try:
                    place, node = int(slot), ServerAddress(host, int(port))
                except ValueError:
                    raise ProtocolError(f"a slot that moved to {where[:80]!r}") from None
                if host and 0 <= place < len(self._node_of):
                    self._node_of[place] = node

    def of(self, names: Sequence[bytes]) -> dict[ServerAddress, list[int]]:
        """Which places of ``names`` are on which node, in order.

        Raises
        ------
        ReplyError
            If nobody has the slot of one, or slots were never loaded.
        """
        if not self._cluster:
            return {self._url.address: list(range(len(names)))}
        from redis.crc import key_slot

        places: defaultdict[ServerAddress, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            node = self._node_of[key_slot(name)] if self._node_of else None
            if node is None:
                raise ReplyError("CLUSTERDOWN no node is known for a hash slot")
            places[node].append(place)
        return places

    def load(self, deadline: Deadline) -> None:
        """Ask the nodes which slots they have.

        Raises
        ------
        OSError, ProtocolError, ReplyError
            If none answers.
        """
        fault: Exception = OSError("no node is known")
        nodes = dict.fromkeys([*filter(None, self._node_of), self._url.address])
        self._loaded_s = time.monotonic()
        for tried, node in enumerate(nodes):
            share = Deadline(deadline.left_s() / (len(nodes) - tried))
            try:
                with self.connection(node, share) as connection:
                    found = connection.ask(share, b"CLUSTER", b"SLOTS")
                if isinstance(found, ReplyError):
                    raise found
                self._node_of = _slot_table(found, node)
                self._stale = False
                return
            except SERVER_FAULTS as problem:
                fault = problem
        raise fault

    @contextmanager
    def connection(self, node: ServerAddress, deadline: Deadline) -> Iterator[RespConnection]:
        """A connection for one thread; closed if it fails, else kept for the next.

        Raises
        ------
        OSError, ProtocolError, ReplyError
            If there is none to be had.
        """
        connection = self._take_idle(node) or self._connect(node, deadline)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle[node].append(connection)
                return
        connection.close()

    def _take_idle(self, node: ServerAddress) -> RespConnection | None:
        while True:
            with self._lock:
                if not self._idle[node]:
                    return None
                connection = self._idle[node].pop()
            if connection.is_quiet():
                return connection
            connection.close()  # the server has closed it, or was restarted

    def _connect(self, node: ServerAddress, deadline: Deadline) -> RespConnection:
        ready = Deadline(deadline.left_s(self._connect_s))
        url = self._url
        connection = RespConnection(node, ready, self._resolver, url.tls)
        try:
            if url.password or url.username:
                user = [url.username.encode()] if url.username else []
                _expect_ok(connection.ask(ready, b"AUTH", *user, url.password.encode()))
            if url.db:
                _expect_ok(connection.ask(ready, b"SELECT", b"%d" % url.db))
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close all connections; those in use when that ends."""
        with self._lock:
            self._closed = True
            idle = [connection for each in self._idle.values() for connection in each]
            self._idle.clear()
        for connection in idle:
            with suppress(OSError):
                connection.close()


def _expect_ok(reply: Reply) -> None:
    if isinstance(reply, ReplyError):
        raise reply
    if reply != b"OK":
        raise ProtocolError(f"{str(reply)[:20]} in place of OK")


def _slot_table(found: Reply, asked: ServerAddress) -> list[ServerAddress | None]:
    """Node of each slot, of a reply to ``CLUSTER SLOTS``: ranges, each with its nodes."""
    table: list[ServerAddress | None] = [None] * SLOTS
    match found:
        case [_, *_]:
            pass
        case _:
            raise ProtocolError("no node has any hash slot")
    for each in found:
        match each:
            case [int(first), int(last), [host, int(port), *_], *_] if 0 <= first <= last < SLOTS:
                # An empty host is that of the node asked.
                try:
                    name = host.decode() if isinstance(host, bytes) and host else asked.host
                    node = ServerAddress(name, port)
                except ValueError:
                    raise ProtocolError(f"hash slots at {host!r}"[:80]) from None
                table[first : last + 1] = [node] * (last + 1 - first)
            case _:
                raise ProtocolError("hash slots that are none")
    return table
