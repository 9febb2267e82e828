"""Daemons for tests: processes of their own, which are stopped and killed as real ones are."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from greencache.service.connection import ConnectionLimits
from greencache.service.daemon import Daemon
from greencache.settings import ServeSettings, Settings
from tests.processes import process_context

__all__ = ["MIB", "RunningDaemon", "settled"]

MIB = 1 << 20

_START_S = 60.0
"""The first one waits for the server that it is forked from to load everything."""


def _serve(options: dict[str, Any], limits: ConnectionLimits | None) -> None:
    asyncio.run(Daemon(Settings(serve=ServeSettings(**options)), limits=limits).run())


class RunningDaemon:
    """A daemon with its files in a folder; the end of a ``with`` kills it.

    Parameters
    ----------
    folder:
        For the socket, and for the SSD tier's files if there is one.
    limits:
        Of its connections.
    options:
        Of `ServeSettings`.
    """

    def __init__(
        self, folder: Path, *, limits: ConnectionLimits | None = None, **options: Any
    ) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        self.socket = folder / "daemon.sock"
        self._limits = limits
        self._options = {"socket": self.socket, "dram": 32 * MIB, "staging": MIB, **options}
        self._process: ForkServerProcess

    def start(self, *, wait: bool = True) -> Self:
        """Start it, again if it has ended, and wait until it listens."""
        self._process = process_context().Process(target=_serve, args=(self._options, self._limits))
        self._process.start()
        if wait:
            assert settled(self._listens, _START_S), "the daemon does not listen"
        return self

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def pause(self) -> None:
        """Stop it in its tracks, as a debugger or a frozen container does."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._process.kill()
        self._process.join()

    def stop(self) -> int:
        """End it as one should; its exit code."""
        self._process.terminate()
        self._process.join(30.0)
        assert self._process.exitcode is not None, "it does not stop"
        return self._process.exitcode

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._process.close()

    def _listens(self) -> bool:
        assert self._process.is_alive(), "the daemon has ended"
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(os.fspath(self.socket))
            except OSError:
                return False
        return True


def settled(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether something becomes true soon that happens elsewhere."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.002)
    return True
