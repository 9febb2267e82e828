"""Processes that store and load as engines do, compare every byte, and say what they do.

What they say goes to a file line by line, so that it outlasts a process that is killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from greencache.client import Client
from greencache.errors import UnavailableError
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.processes import process_context

__all__ = ["BLOCK_BYTES", "LONGEST", "PROMPTS", "Done", "Engine", "keys_of", "load", "store"]

BLOCK_BYTES = 8 * 1024
PROMPTS = 24
LONGEST = 12


def keys_of(name: int, blocks: int) -> list[bytes]:
    """Leading blocks of one of `PROMPTS`."""
    return prompt(name, *range(blocks))[1:]


def store(client: Client, keys: Sequence[bytes], pause_s: float = 0.0) -> int:
    """Write what is missing of a prompt where it stands, in two halves; blocks visible then."""
    reservation = client.reserve(keys)
    if not len(reservation):
        return 0
    begin = reservation.first
    blocks = the_bytes(keys[begin : begin + len(reservation)], client.block_bytes)
    half = client.block_bytes // 2
    for view, block in zip(reservation.views(), blocks, strict=True):
        view[:half] = block[:half]
    time.sleep(pause_s)
    for view, block in zip(reservation.views(), blocks, strict=True):
        view[half:] = block[half:]
    return len(blocks) if client.commit(reservation) else 0


def load(client: Client, keys: Sequence[bytes], pause_s: float = 0.0) -> tuple[int, int]:
    """Read what is there of a prompt where it stands; how many blocks are good, and wrong."""
    lease = client.acquire(keys)
    with lease:
        if lease.ready < len(lease):
            client.fetch(lease)
        views = lease.views()
        time.sleep(pause_s)
        blocks = np.array(views, np.uint8).reshape(len(views), client.block_bytes)
    wrong = wrong_blocks(keys[: len(blocks)], blocks)
    return len(blocks) - wrong, wrong


@dataclass(slots=True)
class Done:
    """What an engine did until now."""

    loaded: int = 0
    stored: int = 0
    wrong: int = 0
    unavailable: int = 0
    longest_s: float = 0.0
    """That a call took, as far as it was not asleep."""
    faults: list[str] = field(default_factory=list)


class Engine:
    """A process that works with a daemon until it is stopped or killed.

    Parameters
    ----------
    socket:
        The daemon's.
    log:
        Where it says what it does.
    seed:
        Of what it does.
    options:
        Of its `Client`; ``pause_s`` it sleeps in the middle of writing and reading.
    """

    def __init__(self, socket: Path, log: Path, seed: int, **options: Any) -> None:
        context = process_context()
        self._log = log
        self._stop: Event = context.Event()
        self.process: ForkServerProcess = context.Process(
            target=_work, args=(socket, log, seed, self._stop, options)
        )
        self.process.start()

    @property
    def busy(self) -> bool:
        """Whether it has begun to work."""
        return self._log.exists() and self._log.stat().st_size > 0

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        """Let it end by itself."""
        self._stop.set()
        self.process.join(60.0)
        assert self.process.exitcode == 0, self.done()

    def done(self) -> Done:
        """What it has done by now."""
        done = Done()
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        for line in lines:
            kind, amount, took_s, *rest = line.split(maxsplit=3)
            match kind:
                case "loaded":
                    done.loaded += int(amount)
                case "stored":
                    done.stored += int(amount)
                case "wrong":
                    done.wrong += int(amount)
                case "unavailable":
                    done.unavailable += 1
                case _:
                    done.faults.extend(rest)
            done.longest_s = max(done.longest_s, float(took_s))
        return done


def _work(socket: Path, log: Path, seed: int, stop: Event, options: dict[str, Any]) -> None:
    random = np.random.default_rng(seed)
    pause_s = options.pop("pause_s", 0.0)
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Client(BLOCK_BYTES, socket=socket, **options) as client:
        while not stop.is_set():
            keys = keys_of(int(random.integers(PROMPTS)), int(random.integers(1, LONGEST + 1)))
            rest_s = pause_s * random.random()
            begin_s = time.monotonic()
            kind, amount, text = "stored", 0, ""
            try:
                if random.random() < 0.5:
                    amount = store(client, keys, rest_s)
                else:
                    kind = "loaded"
                    amount, wrong = load(client, keys, rest_s)
                    if wrong:
                        kind, amount = "wrong", wrong
            except UnavailableError:
                kind = "unavailable"
                time.sleep(0.01)
            except Exception as fault:  # whatever it is, a test wants to know of it
                kind, text = "fault", repr(fault)
            took_s = time.monotonic() - begin_s - rest_s
            os.write(lines, f"{kind} {amount} {took_s:.6f} {text}\n".encode())
    os.close(lines)
