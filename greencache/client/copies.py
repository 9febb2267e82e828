"""Copying blocks between the daemon's memory and callers' buffers, in batches.

numpy copies without the interpreter's lock, so threads share a large batch: one thread does not
move what memory can. A batch is cut into pieces, of which each thread takes one after the other. So
a thread that the system does not let run takes none, and holds nobody up.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from greencache.buffers import Blocks, copy_bytes
from greencache.client.arena import Bytes, Standing

__all__ = ["Copiers", "Work", "copy_all", "reading", "writing"]

PIECE_BYTES = 2 << 20
"""What a thread copies in 0.1 ms, about."""

Pair: TypeAlias = tuple[Bytes, Bytes]
"""Bytes in the daemon's memory, and as many outside."""

Work: TypeAlias = deque[list[Pair]]
"""Pieces that are still to be copied: pairs of where to and where from."""


def reading(standing: Standing, first: int, into: Blocks) -> Work:
    """What has to be copied to read the blocks from ``first`` on into buffers."""
    pairs = _pairs(standing, first, into, writable=False)
    return deque(_pieces((outside, memory) for memory, outside in pairs))


def writing(standing: Standing, blocks: Blocks) -> Work:
    """What has to be copied to write all blocks from buffers."""
    return deque(_pieces(_pairs(standing, 0, blocks, writable=True)))


def _pairs(standing: Standing, first: int, blocks: Blocks, *, writable: bool) -> Iterator[Pair]:
    for run in standing.runs(first, first + len(blocks)):
        memory = run.extent.writable if writable else run.extent.readable
        outside = blocks[run.first - first : run.first - first + run.count]
        parts = [outside.reshape(-1)] if isinstance(outside, np.ndarray) else outside
        begin = run.begin
        for part in parts:
            yield memory[begin : begin + len(part)], part
            begin += len(part)


def _pieces(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    piece: list[Pair] = []
    room = PIECE_BYTES
    for to, source in pairs:
        begin = 0
        while begin < len(to):
            end = min(len(to), begin + room)
            piece.append((to[begin:end], source[begin:end]))
            room -= end - begin
            begin = end
            if room == 0:
                yield piece
                piece, room = [], PIECE_BYTES
    if piece:
        yield piece


def copy_all(work: Work, for_s: float = math.inf) -> bool:
    """Copy pieces until none is left, or for that long; any number of threads may do so at once.

    Returns
    -------
    bool
        Whether none is left.
    """
    end_s = time.perf_counter() + for_s
    while True:
        try:
            piece = work.popleft()
        except IndexError:
            return True
        for to, source in piece:
            copy_bytes(to, source)
        if time.perf_counter() >= end_s:
            return False


class Copiers:
    """Threads that copy; there are none until a copy is worth more than one.

    Parameters
    ----------
    threads:
        How many share a copy.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, work: Work, threads: int) -> list[Future[bool]]:
        """Let up to so many other threads do work, each at least two pieces; none once closed."""
        with self._lock:
            if self._closed:
                return []
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "greencache-copy")
            count = min(threads, max(1, len(work) // 2))
            return [self._pool.submit(copy_all, work) for _ in range(count)]

    def run(self, work: Work) -> None:
        """Do all work, here and in other threads, and return when nothing is being copied.

        That holds also for an exception, after which the caller gives the memory up.
        """
        helpers = self.submit(work, self.threads - 1) if len(work) >= 4 and self.threads > 1 else []
        try:
            copy_all(work)
        finally:
            work.clear()
            _end([helper for helper in helpers if not helper.cancel()])
        for helper in helpers:
            if not helper.cancelled():
                helper.result()

    def close(self) -> None:
        """Let the threads end."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._closed = True
        if pool is not None:
            pool.shutdown()


def _end(helpers: list[Future[bool]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    for helper in helpers:
        while not helper.done():
            try:
                helper.exception()
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted
