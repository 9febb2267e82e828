"""A small HTTP server for pages that are read: metrics and health, on loopback.

It knows GET and HEAD, reads no body, and answers one request on a connection. Whoever asks is held
to limits: on the length of what is asked, on the time that asking and reading may take, and on how
many ask at once. Beyond loopback it serves only who knows its token, but for pages that are public.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from greencache.errors import ServiceError, SettingsError

__all__ = ["HttpServer", "Page", "Reply"]

REQUEST_BYTES = 8 << 10
"""Of a request's line and headers: as nginx's largest header (large_client_header_buffers, 8k)."""

EXCHANGE_S = 10.0
"""From a connection's start until its request is there, and from then until its answer is read.
Prometheus itself gives up after 10 s (scrape_timeout)."""

CONNECTIONS = 64

_LINGER_S = 1.0
"""For who asked to close the connection, once the answer is out."""

_log = logging.getLogger("greencache.service")


class Reply(NamedTuple):
    """What a page says."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


Page: TypeAlias = Callable[[str], Awaitable[Reply]]
"""Is given the ``Accept`` header, empty if there is none."""


class _RefusalError(Exception):
    """A request that gets no page."""

    def __init__(self, status: HTTPStatus, *headers: str) -> None:
        super().__init__(status.phrase)
        self.status, self.headers = status, headers


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]


class HttpServer:
    """Serves pages until it is closed; opened and closed by ``async with``.

    Parameters
    ----------
    pages:
        By path.
    address, port:
        Where to listen; port 0 takes any that is free, see `port`.
    token:
        What ``Authorization: Bearer TOKEN`` has to say. Needed beyond loopback.
    public:
        Paths of pages that are served without it: what a probe asks that can send no token.
    exchange_s, connections:
        How long one request may take each way, and how many there may be at once.

    Raises
    ------
    SettingsError
        If the address is not of this host's loopback and there is no token.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        public: Collection[str] = (),
        exchange_s: float = EXCHANGE_S,
        connections: int = CONNECTIONS,
    ) -> None:
        if not token and not _is_loopback(address):
            raise SettingsError(
                f"{address} can be reached from other hosts: set a token that they have to know"
                " (GREENCACHE_SERVE__METRICS_TOKEN), or serve on 127.0.0.1"
            )
        self._pages, self._address, self._port = dict(pages), address, port
        self._token = token.encode() if token else None
        self._public = frozenset(public)
        self._exchange_s, self._most = exchange_s, connections
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are being served."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._address, self._port, limit=REQUEST_BYTES
            )
        except (OSError, OverflowError) as fault:
            reason = getattr(fault, "strerror", None) or fault
            raise ServiceError(
                f"cannot listen on {self._address}:{self._port} for metrics ({reason}); choose"
                " another GREENCACHE_SERVE__METRICS_PORT"
            ) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= self._most:
            writer.write(_response(_RefusalError(HTTPStatus.SERVICE_UNAVAILABLE)))
            writer.close()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(self._exchange_s):
                answer = await self._answer(reader)
            writer.write(answer)
            async with asyncio.timeout(self._exchange_s):
                await writer.drain()
            async with asyncio.timeout(_LINGER_S):
                # Bytes left unread would make the system take the answer back.
                writer.write_eof()
                while await reader.read(REQUEST_BYTES):
                    pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # it went away, or is too slow, or the server ends
        finally:
            writer.transport.abort()
            self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        request = None
        try:
            request = await _read(reader)
            if request.method not in ("GET", "HEAD"):
                raise _RefusalError(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET, HEAD")
            if not self._may(request):
                raise _RefusalError(HTTPStatus.UNAUTHORIZED, "WWW-Authenticate: Bearer")
            page = self._pages.get(request.path)
            if page is None:
                raise _RefusalError(HTTPStatus.NOT_FOUND)
            reply: Reply | _RefusalError = await page(request.headers.get("accept", ""))
        except _RefusalError as refused:
            reply = refused
        except Exception:
            _log.exception("a page failed")
            reply = _RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(reply, head=request is not None and request.method == "HEAD")

    def _may(self, request: _Request) -> bool:
        if self._token is None or request.path in self._public:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # a name: wherever it leads today


async def _read(reader: asyncio.StreamReader) -> _Request:
    """The request's line and headers."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _RefusalError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    except asyncio.IncompleteReadError:
        raise _RefusalError(HTTPStatus.BAD_REQUEST) from None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _RefusalError(HTTPStatus.BAD_REQUEST)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _RefusalError(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    return _Request(parts[0], parts[1].partition("?")[0], headers)


def _response(reply: Reply | _RefusalError, *, head: bool = False) -> bytes:
    if isinstance(reply, _RefusalError):
        extra, status = reply.headers, reply.status
        body, content_type = f"{status.phrase}\n".encode(), Reply(b"").content_type
    else:
        extra, (body, content_type, status) = (), reply
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *extra,
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if head else body)
