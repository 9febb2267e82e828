"""Taking turns: how tiers and what they are measured against are timed side by side.

Other work on a machine slows down whatever runs at that moment, so a ratio of two times means
something only if both were taken close to one another. All sides of a *case* do the same in rounds:
each stores some batches of new blocks, makes them outlast a loss of power, forgets what the page
cache has of them, and reads them back. Who begins changes from round to round. A ratio is taken
within each round, and the median over rounds is reported. Each begins when the one before has left
nothing behind that still goes on, such as discards of deleted files.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.quantities import format_bytes
from greencache.shared_memory import HUGE_PAGE_BYTES, map_shared
from greencache.tiers.syscalls import into_huge_pages

__all__ = [
    "DRAM",
    "SSD",
    "Batch",
    "Case",
    "Checked",
    "Side",
    "SideError",
    "buffer",
    "measure_case",
    "size_text",
]

Bytes = NDArray[np.uint8]

DRAM, SSD = "dram", "ssd"

PERCENTILES = (50, 90, 99)

STAMP_BYTES = 16
"""At the front of every block: which batch it is of, of which turn, and its place there."""


class SideError(Exception):
    """A side cannot take part; its text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Case:
    """What all sides do.

    Attributes
    ----------
    tier:
        `DRAM` or `SSD`.
    block_bytes:
        Bytes of a block.
    blocks:
        Blocks of a batch.
    batches:
        Batches that a store has room for; a round stores and reads each once.
    depth:
        Threads that do I/O, or requests that are under way at once.
    """

    tier: str
    block_bytes: int
    blocks: int
    batches: int
    depth: int = 1

    @property
    def batch_bytes(self) -> int:
        """Bytes of a batch."""
        return self.blocks * self.block_bytes

    @property
    def store_bytes(self) -> int:
        """Bytes of all batches of a round."""
        return self.batches * self.batch_bytes


def size_text(size_bytes: int) -> str:
    """A size as `format_bytes`, in KiB where that is exact."""
    if size_bytes < 2**20 and size_bytes % 2**10 == 0:
        return f"{size_bytes // 2**10} KiB"
    return format_bytes(size_bytes)


def buffer(size_bytes: int) -> Bytes:
    """Memory that begins on a page, in huge pages where there are any.

    Every page of it has been touched, so that no first touch is timed. numpy asks for huge pages
    too, for arrays as large as these.
    """
    memory = mmap.mmap(-1, size_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    return array


class Batch:
    """Memory that a batch is stored from and read into, the same for all sides of a case.

    How scattered memory is decides how fast a disk moves it: direct I/O hands the drive a list of
    the pieces that adjoin. Of 64 MiB in thousands of pieces a virtual disk read a third as fast as
    of 64 MiB in a hundred. So all sides use this memory, another process too, for which it is a
    memory file; and it is in huge pages where there are any.

    Blocks are random bytes, so that nothing on the way can compress them or share their pages.

    Attributes
    ----------
    blocks:
        An array [blocks, block_bytes].
    path:
        Of the memory file, `pool_bytes` long, for other processes.
    in_huge_pages:
        Whether all of it is in huge pages.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        shape = (case.blocks, case.block_bytes)
        self._file = os.memfd_create("greencache-batches")
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._file}")
        os.ftruncate(self._file, self.pool_bytes(case))
        pool = map_shared(self._file, self.pool_bytes(case))
        pool[:] = 1
        self.in_huge_pages = into_huge_pages(pool.ctypes.data, len(pool))
        self.blocks = pool[: case.batch_bytes].reshape(shape)
        random = np.random.default_rng(seed).bytes(case.batch_bytes)
        self.content = np.frombuffer(random, np.uint8).reshape(shape)

    @staticmethod
    def pool_bytes(case: Case) -> int:
        """Room for a batch, and for four blocks that an allocator may want to spare."""
        needed = case.batch_bytes + 4 * case.block_bytes
        return -(-needed // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES

    def close(self) -> None:
        """Give the memory back once all that use it are gone."""
        os.close(self._file)


class Checked:
    """What one side stores of a `Batch`, with means to tell what was read.

    Each block begins with a stamp that is of one batch of one turn.
    """

    def __init__(self, batch: Batch, batches: int) -> None:
        self.blocks = batch.blocks
        self._content = batch.content
        self._turns = [0] * batches

    def _stamps(self, batch: int) -> Bytes:
        stamps = np.empty((len(self.blocks), STAMP_BYTES // 4), np.uint32)
        stamps[:] = (batch, self._turns[batch], 0, 0)
        stamps[:, 2] = np.arange(len(self.blocks))
        return stamps.view(np.uint8)

    def renew(self, batch: int) -> None:
        """Fill ``blocks`` with the next turn of a batch."""
        self._turns[batch] += 1
        np.copyto(self.blocks, self._content)
        self.blocks[:, :STAMP_BYTES] = self._stamps(batch)

    def forget(self) -> None:
        """Make sure that what ``blocks`` holds then was read after this."""
        self.blocks[:, :STAMP_BYTES] = 0

    def check(self, batch: int) -> None:
        """Make sure that ``blocks`` holds what was stored last for a batch.

        Raises
        ------
        SideError
            If it does not: a side that loses blocks is not to be timed.
        """
        wrong = (self.blocks[:, :STAMP_BYTES] != self._stamps(batch)).any(axis=1)
        if batch == 0:  # the rest of its bytes too; of all batches that would take too long
            wrong |= (self.blocks[:, STAMP_BYTES:] != self._content[:, STAMP_BYTES:]).any(axis=1)
        if wrong.any():
            raise SideError(f"read back {wrong.sum()} of {len(wrong)} blocks wrong")


class Side(ABC):
    """One way to keep blocks. It times itself, so that what a check or a pipe takes counts not.

    Attributes
    ----------
    name:
        What the table calls it.
    note:
        What a reader has to know about how it was measured.
    whole_rounds:
        Whether one call handles all batches of a round, for sides that cost much to start.
    """

    name: str
    note: str = ""
    whole_rounds: bool = False

    @abstractmethod
    def prepare(self, case: Case, batch: Batch) -> None:
        """Make everything ready for a case, and warm.

        Raises
        ------
        SideError
            If this side cannot do it.
        """

    @abstractmethod
    def put(self, batch: int) -> float:
        """Store new blocks in place of those of a batch; seconds for a batch."""

    @abstractmethod
    def get(self, batch: int) -> float:
        """Read and check what was stored for a batch; seconds for a batch."""

    def settle(self) -> float:
        """Make what was stored outlast a loss of power; seconds. Then forget cached pages of it."""
        return 0.0

    def end_case(self) -> None:  # noqa: B027 - not all have something to give back
        """Give back what `prepare` took, if it did not fail."""

    def close(self) -> None:  # noqa: B027 - not all have something running
        """End what the side has running."""


@dataclass
class _Times:
    """What one side took: by round, each call's seconds for a batch; first puts are apart."""

    first_put_s: list[list[float]] = field(default_factory=list)
    put_s: list[list[float]] = field(default_factory=list)
    get_s: list[list[float]] = field(default_factory=list)
    settle_s: list[float] = field(default_factory=list)


def _one_round(side: Side, case: Case, times: _Times, rest: Callable[[], None]) -> None:
    batches = range(1 if side.whole_rounds else case.batches)
    rest()
    times.put_s.append([side.put(batch) for batch in batches])
    times.settle_s.append(side.settle())
    rest()
    times.get_s.append([side.get(batch) for batch in batches])


def _of_rounds(seconds: list[list[float]]) -> NDArray[np.float64]:
    """Mean seconds for a batch, by round."""
    return np.array([np.mean(each) for each in seconds])


def _gb_per_s(case: Case, seconds: NDArray[np.float64]) -> float:
    return float(np.median(case.batch_bytes / seconds)) / 1e9


def _latency_ms(seconds: list[list[float]]) -> dict[str, float]:
    values = np.percentile(np.concatenate(seconds), PERCENTILES) * 1e3
    return {f"p{p}": float(v) for p, v in zip(PERCENTILES, values, strict=True)}


def _durable_s(case: Case, times: _Times) -> NDArray[np.float64]:
    """Seconds for a batch with its share of the flush after all of them, by round."""
    return _of_rounds(times.put_s) + np.array(times.settle_s) / case.batches


def _summary(case: Case, times: _Times) -> dict[str, Any]:
    return {
        "put_gb_per_s": _gb_per_s(case, _of_rounds(times.put_s)),
        "durable_put_gb_per_s": _gb_per_s(case, _durable_s(case, times)),
        "get_gb_per_s": _gb_per_s(case, _of_rounds(times.get_s)),
        "first_put_gb_per_s": _gb_per_s(case, _of_rounds(times.first_put_s)),
        "put_ms": _latency_ms(times.put_s),
        "get_ms": _latency_ms(times.get_s),
        "timed_puts": sum(map(len, times.put_s)),
        "timed_gets": sum(map(len, times.get_s)),
    }


def _ratios(case: Case, ours: _Times, other: _Times) -> dict[str, float]:
    """How many times as fast as another: the median over rounds."""
    return {
        "put": float(np.median(_of_rounds(other.put_s) / _of_rounds(ours.put_s))),
        "durable_put": float(np.median(_durable_s(case, other) / _durable_s(case, ours))),
        "get": float(np.median(_of_rounds(other.get_s) / _of_rounds(ours.get_s))),
    }


def measure_case(
    case: Case, sides: Sequence[Side], rounds: int, rest: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Let all sides take turns at a case; one round more goes before, while stores are empty.

    In that one they take turns in the order given.

    ``rest`` waits until nothing goes on that an earlier turn began.

    Returns
    -------
    dict
        The case, and for each side its bandwidth and latency, what its puts were while it was
        empty, and under ``times`` how many times as fast as each other side it is; or ``missing``:
        why it could not be measured.
    """
    times: dict[str, _Times] = {}
    missing: dict[str, str] = {}
    ready: list[Side] = []
    batch = Batch(case)
    try:
        for side in sides:
            try:
                side.prepare(case, batch)
            except SideError as fault:
                missing[side.name] = str(fault)
            else:
                ready.append(side)
        for turn in range(-1, rounds):
            first = max(turn, 0) % max(len(ready), 1)
            for side in ready[first:] + ready[:first]:
                mine = times.setdefault(side.name, _Times())
                try:
                    _one_round(side, case, mine, rest)
                    if turn < 0:
                        times[side.name] = _Times(first_put_s=mine.put_s)
                except SideError as fault:
                    missing[side.name] = str(fault)
                    times.pop(side.name, None)
                    ready.remove(side)
                    side.end_case()
    finally:
        for side in ready:
            side.end_case()
        batch.close()
    results: dict[str, Any] = {}
    for side in sides:
        if side.name in missing:
            results[side.name] = {"missing": missing[side.name]}
            continue
        mine = times[side.name]
        results[side.name] = _summary(case, mine) | {
            "note": side.note,
            "times": {
                name: _ratios(case, mine, other)
                for name, other in times.items()
                if name != side.name
            },
        }
    return {
        "tier": case.tier,
        "block_bytes": case.block_bytes,
        "batch_bytes": case.batch_bytes,
        "batches": case.batches,
        "depth": case.depth,
        "in_huge_pages": batch.in_huge_pages,
        "rounds": rounds,
        "sides": results,
    }
