"""A process that works on an SSD tier until it is killed, and says what it does all along."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from greencache.tiers.files import Directory
from greencache.tiers.ssd import SsdTier
from tests.conformance.prompts import load
from tests.tiers.chains import chain, store

BLOCK_BYTES = 16 * 1024
CAPACITY_BYTES = 3 * 2**20
CHAINS = 40
LONGEST = 10
TASKS = 4

EVERYTHING = CHAINS * LONGEST


def hold_directory(path: Path, held: Event) -> None:
    """Open a directory and keep it until killed."""
    directory = Directory(path)
    held.set()
    signal.pause()
    directory.close()


def tier_in(path: Path) -> SsdTier:
    return SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES, extent_bytes=16 * BLOCK_BYTES)


async def found_in(tier: SsdTier) -> list[int]:
    """How long a prefix of each chain is there."""
    return [await tier.match(chain(name, LONGEST)) for name in range(CHAINS)]


class Log:
    """Lines of numbers that outlast the process: it writes each by one call to a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, numbers: Sequence[int]) -> None:
        os.write(self._file, f"{kind} {' '.join(map(str, numbers))}\n".encode())


def work(path: Path, log_path: Path, seed: int) -> None:
    """Store, read, delete, resize and flush from several tasks, until killed."""
    asyncio.run(_work(path, Log(log_path), np.random.default_rng(seed)))


async def _work(path: Path, log: Log, random: np.random.Generator) -> None:
    steps = iter(range(2**62))
    async with tier_in(path) as tier:
        log.write("state", await found_in(tier))

        async def keep_busy() -> None:
            while True:
                step, doing = next(steps), random.random()
                keys = chain(int(random.integers(CHAINS)), int(random.integers(1, LONGEST + 1)))
                if doing < 0.6:
                    log.write("begin", [step, len(keys)])  # that many may be evicted for it
                    await store(tier, keys)
                elif doing < 0.9:
                    log.write("begin", [step, 0])
                    await load(tier, keys)
                elif doing < 0.93:
                    log.write("begin", [step, EVERYTHING])
                    await tier.delete(keys)
                elif doing < 0.96:
                    log.write("begin", [step, EVERYTHING])
                    await tier.resize(int(CAPACITY_BYTES * random.choice([0.5, 1.0])))
                else:
                    log.write("begin", [step, 0])
                    await tier.flush()
                found = await found_in(tier)  # nothing comes between this and the next lines
                log.write("end", [step])
                log.write("state", found)

        await asyncio.gather(*(keep_busy() for _ in range(TASKS)))


@dataclass(frozen=True, slots=True)
class Left:
    """What a killed process had, by its log."""

    found: list[int]
    """How long a prefix of each chain it had when it last said so."""
    evictable: int
    """How many of those blocks it may have given up since."""
    steps: int


def read_log(path: Path) -> Left:
    """What a process had when it was killed."""
    found = [0] * CHAINS
    begun: dict[int, int] = {}
    since: dict[int, int] = {}
    steps = 0
    for line in path.read_text().splitlines():
        kind, *rest = line.split()
        numbers = [int(number) for number in rest]
        if kind == "begin":
            begun[numbers[0]] = since[numbers[0]] = numbers[1]
            steps += 1
        elif kind == "end":
            del begun[numbers[0]]
        else:
            found, since = numbers, dict(begun)
    return Left(found, sum(since.values()), steps)
