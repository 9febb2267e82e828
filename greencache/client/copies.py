"""Copying blocks between the daemon's memory and callers' buffers, in batches.

numpy copies without the interpreter's lock, so a large batch is split over threads: one thread does
not move what memory can.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from greencache.buffers import Blocks
from greencache.client.arena import Bytes, Standing

__all__ = ["Copiers", "Copy", "reading", "writing"]

_PART_BYTES = 8 << 20
"""What a thread is given at the least, if a copy is split over several."""

Copy = Callable[[], None]


def reading(standing: Standing, first: int, into: Blocks, threads: int) -> list[Copy]:
    """What has to be done to read the blocks from ``first`` on into buffers, in parts."""
    return [
        functools.partial(_read, standing, first, begin, end, into)
        for begin, end in _split(len(into), standing.part_bytes, threads)
    ]


def writing(standing: Standing, blocks: Blocks, threads: int) -> list[Copy]:
    """What has to be done to write all blocks from buffers, in parts."""
    return [
        functools.partial(_write, standing, begin, end, blocks)
        for begin, end in _split(len(blocks), standing.part_bytes, threads)
    ]


def _split(blocks: int, block_bytes: int, threads: int) -> list[tuple[int, int]]:
    parts = max(1, min(threads, blocks, blocks * block_bytes // _PART_BYTES))
    return list(itertools.pairwise(blocks * part // parts for part in range(parts + 1)))


def _read(standing: Standing, first: int, begin: int, end: int, into: Blocks) -> None:
    for run in standing.runs(first + begin, first + end):
        _copy_run(run.extent.readable, run.begin, into, run.first - first, run.count, _out)


def _write(standing: Standing, begin: int, end: int, blocks: Blocks) -> None:
    for run in standing.runs(begin, end):
        _copy_run(run.extent.writable, run.begin, blocks, run.first, run.count, _in)


def _copy_run(
    memory: Bytes,
    at: int,
    blocks: Blocks,
    first: int,
    count: int,
    move: Callable[[Bytes, Bytes], None],
) -> None:
    if isinstance(blocks, np.ndarray):
        outside = blocks[first : first + count].reshape(-1)
        move(memory[at : at + len(outside)], outside)
        return
    for block in blocks[first : first + count]:
        move(memory[at : at + len(block)], block)
        at += len(block)


def _out(memory: Bytes, outside: Bytes) -> None:
    np.copyto(outside, memory)


def _in(memory: Bytes, outside: Bytes) -> None:
    np.copyto(memory, outside)


class Copiers:
    """Threads that copy; there are none until a copy is large enough to be split.

    Parameters
    ----------
    threads:
        Over how many a copy is split.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, copy: Copy) -> Future[None]:
        """Let another thread do a copy."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "greencache-copy")
            return self._pool.submit(copy)

    def run(self, copies: list[Copy]) -> None:
        """Do all copies, one of them here, and return when all have ended.

        They end before an exception goes on to the caller, who would give the memory up.
        """
        others = [self.submit(copy) for copy in copies[1:]]
        try:
            for copy in copies[:1]:
                copy()
        finally:
            _end(others)
        for other in others:
            other.result()

    def close(self) -> None:
        """Let the threads end."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


def _end(copies: list[Future[None]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    for copy in copies:
        while not copy.done():
            try:
                copy.exception()
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted
