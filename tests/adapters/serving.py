"""A local HTTP server on a real socket that answers as a test says."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """A question that arrived."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    """An answer: its body is text, bytes, or anything else as JSON."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    endless: bool = False
    """The body over and over, until the other side hangs up."""

    @property
    def raw(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


Answerer = Callable[[Asked], Reply]


class Site:
    """What a server was asked, and what it answers from now on."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""
        self.closing = threading.Event()

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        params = {key: values[0] for key, values in parse_qs(parts.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = Asked(parts.path, params, headers)
        self.site.asked.append(asked)
        reply = self.site.answer(asked)
        deadline = time.monotonic() + reply.wait_s
        while time.monotonic() < deadline and not self.site.closing.is_set():
            time.sleep(0.01)
        try:
            self._send(reply)
        except OSError:
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if not reply.endless:
            self.send_header("Content-Length", str(len(reply.raw)))
            self.end_headers()
            self.wfile.write(reply.raw)
            return
        self.close_connection = True
        self.end_headers()
        while not self.site.closing.is_set():
            self.wfile.write(reply.raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(answer: Answerer) -> Iterator[Site]:
    """Run a server for the time of a ``with``."""
    site = Site(answer)
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield site
        finally:
            site.closing.set()
            server.shutdown()
            thread.join()
