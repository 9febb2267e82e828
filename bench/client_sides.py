"""Sides of the daemon benchmark: a daemon in its own process, stored to and read by a client."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from greencache.bench.tier_rounds import Batch, Case, Checked, Side, SideError
from greencache.blocks import KEY_BYTES
from greencache.client import AsyncClient, Client
from greencache.errors import GreenCacheError, UnavailableError
from greencache.quantities import write_bytes

__all__ = ["AsyncClientSide", "ClientSide", "ServedDaemon", "new_keys"]

START_S = 120.0
"""The first start after an installation compiles."""

TIMEOUT_S = 30.0

Result = TypeVar("Result")


def new_keys(count: int) -> list[bytes]:
    """Keys of blocks that nobody has seen."""
    drawn = secrets.token_bytes(KEY_BYTES * count)
    return [drawn[at : at + KEY_BYTES] for at in range(0, len(drawn), KEY_BYTES)]


class ServedDaemon:
    """``greencache serve`` in a process of its own, until the end of the ``with``.

    Parameters
    ----------
    block_bytes:
        Of the blocks that will be stored: each size has a part of the memory.
    dram_bytes:
        Its DRAM.
    ssd_bytes:
        Its space on disk, in a temporary folder; None for no SSD.
    """

    def __init__(self, block_bytes: int, dram_bytes: int, ssd_bytes: int | None = None) -> None:
        self._block_bytes = block_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="greencache-bench-")
        folder = Path(self._folder.name)
        self.socket = folder / "daemon.sock"
        options = ["--socket", str(self.socket), "--dram", write_bytes(dram_bytes)]
        if ssd_bytes is not None:
            options += ["--ssd-dir", str(folder / "ssd"), "--ssd", write_bytes(ssd_bytes)]
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "greencache", "serve", *options],
            stderr=self._log,
            env={name: value for name, value in os.environ.items() if "GREENCACHE_" not in name},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Processor time that it has taken, all threads together; proc(5), stat."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self, dram_bytes: int) -> None:
        """Wait until it has taken so much memory from the system, which it does in the background.

        Raises
        ------
        SideError
            If it does not.
        """
        end_s = time.monotonic() + START_S
        with Client(self._block_bytes, socket=self.socket, timeout_s=TIMEOUT_S) as client:
            while time.monotonic() < end_s:
                (pool,) = client.status()["pools"]
                if pool["tiers"]["dram"]["backed_bytes"] >= dram_bytes:
                    return
                time.sleep(0.05)
        raise SideError(f"the daemon has not got {dram_bytes:,} bytes of memory")

    def __enter__(self) -> Self:
        """Wait until it answers.

        Raises
        ------
        SideError
            If it does not.
        """
        end_s = time.monotonic() + START_S
        with Client(self._block_bytes, socket=self.socket) as client:
            while True:
                try:
                    client.status()
                    return self
                except UnavailableError as fault:
                    if self._process.poll() is not None or time.monotonic() > end_s:
                        said = self._end()
                        raise SideError(f"no daemon: {fault}; it said: {said}") from None
                    time.sleep(0.02)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> str:
        self._process.terminate()
        try:
            self._process.wait(30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.seek(0)
        said = self._log.read()
        self._log.close()
        self._folder.cleanup()
        return said.strip()


class _ClientSide(Side):
    """A client: every batch is a prompt of its own under new keys, stored where older ones go.

    The daemon's DRAM is full after the first round, so that each batch evicts one. In that round
    the client touches the memory that it mapped for the first time. What is timed is everything
    between having the blocks and having stored or read them: asking, copying, committing.
    """

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        self._daemon = ServedDaemon(case.block_bytes, case.store_bytes).__enter__()
        self._mine = Checked(batch, case.batches)
        self._keys: list[list[bytes]] = [[] for _ in range(case.batches)]
        self._case = case
        self._connect(case.block_bytes, self._daemon.socket)
        self._daemon.settle(case.store_bytes)

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        self._mine.renew(batch)
        keys = self._keys[batch] = new_keys(len(self._mine.blocks))
        began_s = time.perf_counter()
        try:
            stored = self._store(keys, self._mine.blocks)
        except GreenCacheError as fault:
            raise SideError(str(fault)) from fault
        seconds = time.perf_counter() - began_s
        if stored < len(keys):
            raise SideError(f"stored {stored} of {len(keys)} blocks")
        return seconds

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        self._mine.forget()
        began_s = time.perf_counter()
        try:
            loaded = self._load(self._keys[batch], self._mine.blocks)
        except GreenCacheError as fault:
            raise SideError(str(fault)) from fault
        seconds = time.perf_counter() - began_s
        if loaded < len(self._mine.blocks):
            raise SideError(f"loaded {loaded} of {len(self._mine.blocks)} blocks")
        self._mine.check(batch)
        return seconds

    def end_case(self) -> None:
        """As `Side.end_case`."""
        self._disconnect()
        self._daemon.__exit__(None, None, None)
        del self._mine

    @abstractmethod
    def _connect(self, block_bytes: int, socket: Path) -> None: ...

    @abstractmethod
    def _store(self, keys: list[bytes], blocks: NDArray[np.uint8]) -> int: ...

    @abstractmethod
    def _load(self, keys: list[bytes], into: NDArray[np.uint8]) -> int: ...

    @abstractmethod
    def _disconnect(self) -> None: ...


class ClientSide(_ClientSide):
    """`greencache.client.Client`."""

    name = "Client"

    def _connect(self, block_bytes: int, socket: Path) -> None:
        self._client = Client(block_bytes, socket=socket, timeout_s=TIMEOUT_S)

    def _store(self, keys: list[bytes], blocks: NDArray[np.uint8]) -> int:
        return self._client.store(keys, blocks)

    def _load(self, keys: list[bytes], into: NDArray[np.uint8]) -> int:
        return self._client.load(keys, into)

    def _disconnect(self) -> None:
        self._client.close()


class AsyncClientSide(_ClientSide):
    """`greencache.client.AsyncClient`, one question after the other."""

    name = "AsyncClient"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)

    def _connect(self, block_bytes: int, socket: Path) -> None:
        self._client = AsyncClient(block_bytes, socket=socket, timeout_s=TIMEOUT_S)

    def _store(self, keys: list[bytes], blocks: NDArray[np.uint8]) -> int:
        return self._run(self._client.store(keys, blocks))

    def _load(self, keys: list[bytes], into: NDArray[np.uint8]) -> int:
        return self._run(self._client.load(keys, into))

    def _disconnect(self) -> None:
        self._run(self._client.close())

    def close(self) -> None:
        """As `Side.close`."""
        self._loop.close()
