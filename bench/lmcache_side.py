"""LMCache's backends as sides of the tier benchmarks.

Its pins differ from ours, so it lives in an environment of its own (``make lmcache-env``) and is
driven there by `greencache.bench.lmcache_worker`, a process that answers lines of JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from greencache.bench import lmcache_worker
from greencache.bench.lmcache_worker import BUFFERED, CPU, DIRECT, RESP, TOKEN_BYTES
from greencache.bench.tier_rounds import Batch, Case, Side, SideError

__all__ = ["LMCACHE_DISK_SIDES", "LmcacheSide"]

NAMES = {
    CPU: "LMCache CPU",
    BUFFERED: "LMCache disk, buffered",
    DIRECT: "LMCache disk, direct",
    RESP: "LMCache resp://",
}
NOTES = {
    BUFFERED: "flushed and dropped from the page cache before reads: cold",
}
LMCACHE_DISK_SIDES = (NAMES[BUFFERED], NAMES[DIRECT])

HOW_TO_GET = "not given: `make lmcache-env`, then --lmcache .venv-lmcache/bin/python"


class LmcacheSide(Side):
    """One backend of LMCache.

    Parameters
    ----------
    store:
        Which: `CPU`, `BUFFERED`, `DIRECT` or `RESP`.
    python:
        An interpreter that has LMCache; None if there is none.
    folder:
        Where its files go.
    url:
        Where its server is, if it has one.
    depth:
        Threads that do I/O, if not as many as the case says.
    """

    def __init__(
        self,
        store: str,
        python: Path | None,
        folder: Path,
        *,
        url: str = "",
        depth: int | None = None,
    ) -> None:
        self.name = NAMES[store] + (f", {depth} threads" if depth else "")
        self._url, self._depth = url, depth
        self.note = NOTES.get(store, "")
        self._store = store
        self._python = python
        self._folder = folder / f"lmcache-{store}"
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None

    def _start(self) -> subprocess.Popen[str]:
        if self._python is None:
            raise SideError(HOW_TO_GET)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            return subprocess.Popen(
                [self._python, "-I", lmcache_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        except OSError as fault:
            raise SideError(f"cannot run {self._python}: {fault.strerror}") from fault

    def _last_words(self) -> str:
        assert self._said is not None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _ask(self, op: str, **request: object) -> float:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op} | request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            words = self._last_words()
            self.close()
            raise SideError(f"its process ended: {words}")
        result = json.loads(answer)
        if "error" in result:
            raise SideError(result["error"])
        return float(result["seconds"])

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        if case.block_bytes % TOKEN_BYTES:
            raise SideError(f"is driven with blocks of multiples of {TOKEN_BYTES} bytes")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._ask(
            "open",
            store=self._store,
            folder=str(self._folder),
            pool=str(batch.path),
            pool_bytes=batch.pool_bytes(case),
            block_bytes=case.block_bytes,
            blocks=case.blocks,
            batches=case.batches,
            depth=self._depth or case.depth,
            url=self._url,
        )

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        return self._ask("put", batch=batch)

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        return self._ask("get", batch=batch)

    def settle(self) -> float:
        """As `Side.settle`."""
        return self._ask("settle")

    def end_case(self) -> None:
        """As `Side.end_case`."""
        if self._store == RESP:
            self.close()  # closing LMCache's connection to a server takes for ever (0.5.6)
        elif self._process is not None:
            self._ask("close")
        shutil.rmtree(self._folder)

    def close(self) -> None:
        """As `Side.close`."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None
