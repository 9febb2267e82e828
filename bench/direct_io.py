"""Sides of the tier benchmark that show what a disk can do: direct I/O with nothing around it.

No index, no checksum, no manifest, no eviction: blocks go between aligned buffers and one file that
was written once before, so that no block of it is allocated while it is timed. The raw loop's is
the tier's own file of slots: on a virtual disk, the same writes took twice as long in one file as
in another, by where on the disk they lay, and kept to that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from greencache.bench.tier_rounds import Batch, Case, Checked, Side, SideError

__all__ = ["RAW", "FioSide", "RawDirectSide", "filesystem_of", "wait_for_rest"]

RAW = "raw direct I/O"

FIO_TIMEOUT_S = 120.0

REST_S = 0.03
REST_WITHIN_S = 2.0


def filesystem_of(folder: Path) -> str:
    """Type of the filesystem that a folder is on, such as ``ext4``; from mountinfo, proc(5)."""
    folder = folder.resolve()
    deepest, kind = -1, "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        mounted = Path(before.split()[4].encode().decode("unicode_escape"))
        if folder.is_relative_to(mounted) and len(mounted.parts) >= deepest:
            deepest, kind = len(mounted.parts), after.split()[0]
    return kind


def wait_for_rest(folder: Path) -> None:
    """Wait until the disk under a folder did nothing for a while, but not for long.

    What a filesystem does after a file is deleted goes on behind its back, and would slow whoever
    comes next. Where the kernel does not tell what a disk does, this does not wait.
    """
    device = folder.stat().st_dev
    told = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not told.exists():
        return
    ends_s = time.monotonic() + REST_WITHIN_S
    before, now = "", told.read_text()
    while now != before and time.monotonic() < ends_s:
        time.sleep(REST_S)
        before, now = now, told.read_text()


class RawDirectSide(Side):
    """``pread`` and ``pwrite`` with ``O_DIRECT`` in as many threads as the depth.

    A batch is split evenly over the threads; each moves its part by a block at a time, or less
    where there are fewer blocks than threads.

    Parameters
    ----------
    slots:
        The file of slots of a tier that takes its turn before, and stores all batches anew at each.
    """

    name = RAW

    def __init__(self, slots: Path) -> None:
        self._path = slots
        self._file: int | None = None

    def _opened(self) -> int:
        if self._file is None:  # there once the tier had its first turn
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_DIRECT)
            except OSError as fault:
                raise SideError(f"no direct I/O to {self._path}: {fault.strerror}") from fault
        return self._file

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        self._case = case
        self._mine = Checked(batch, case.batches)
        self._pool = ThreadPoolExecutor(case.depth)

    def _move(self, batch: int, *, write: bool) -> float:
        case = self._case
        memory = self._mine.blocks.reshape(-1).data
        part = -(-case.batch_bytes // case.depth)
        part += -part % min(case.block_bytes, 2**20)  # no piece less than it must be
        piece = min(case.block_bytes, part)
        file = self._opened()

        def move(start: int) -> None:
            for at in range(start, min(start + part, case.batch_bytes), piece):
                end = min(at + piece, start + part, case.batch_bytes)
                place = batch * case.batch_bytes + at
                if write:
                    moved = os.pwrite(file, memory[at:end], place)
                else:
                    moved = os.preadv(file, [memory[at:end]], place)
                if moved != end - at:
                    raise SideError(f"{moved} of {end - at} bytes moved")

        began_s = time.perf_counter()
        for moved in [self._pool.submit(move, at) for at in range(0, case.batch_bytes, part)]:
            moved.result()
        return time.perf_counter() - began_s

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        self._mine.renew(batch)
        return self._move(batch, write=True)

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        self._mine.forget()
        seconds = self._move(batch, write=False)
        self._mine.check(batch)
        return seconds

    def settle(self) -> float:
        """As `Side.settle`."""
        began_s = time.perf_counter()
        os.fdatasync(self._opened())
        return time.perf_counter() - began_s

    def end_case(self) -> None:
        """As `Side.end_case`."""
        self._pool.shutdown()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        del self._mine


class FioSide(Side):
    """fio, if it is installed: direct reads and writes by libaio, the depth in flight.

    A call is a run of fio over all batches of a round, and its time for a batch their mean.
    """

    name = "fio"
    note = "libaio; its milliseconds are means over the batches of a round"
    whole_rounds = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "fio"

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        if shutil.which("fio") is None:
            raise SideError("not installed")
        self._case = case
        self._folder.mkdir(exist_ok=True)

    def _run(self, kind: str) -> float:
        case = self._case
        command = [
            "fio",
            "--name=blocks",
            f"--filename={self._folder / 'blocks'}",
            f"--rw={kind}",
            f"--bs={case.block_bytes}",
            f"--size={case.store_bytes}",
            "--ioengine=libaio",
            f"--iodepth={case.depth}",
            "--direct=1",
            "--fallocate=none",
            "--output-format=json",
        ]
        try:
            done = subprocess.run(command, check=True, capture_output=True, timeout=FIO_TIMEOUT_S)
            job = json.loads(done.stdout)["jobs"][0][kind]
        except (OSError, subprocess.SubprocessError, ValueError, LookupError) as fault:
            raise SideError(f"fio failed: {fault}") from fault
        return self._seconds(job) / case.batches

    @staticmethod
    def _seconds(job: dict[str, Any]) -> float:
        """Of all batches: fio gives it in whole milliseconds, and bandwidth by those."""
        if job["runtime"] <= 0:
            raise SideError("fio was done in less than the millisecond that it counts by")
        return float(job["runtime"]) / 1e3

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        return self._run("write")

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        return self._run("read")

    def end_case(self) -> None:
        """As `Side.end_case`."""
        shutil.rmtree(self._folder)
