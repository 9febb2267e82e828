"""Eight engines, resizes and faults for a long time: no wrong byte, and nothing leaks.

It takes ``SOAK_S`` seconds of the environment, 60 if nothing is said.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from greencache.client import Client
from greencache.client.messages import Acquire, Reserve, join_keys
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.engines import BLOCK_BYTES, LONGEST, PROMPTS, Engine, keys_of
from tests.service.raw import RawClient

ENGINES = 8
LEAST_LEAK = 4 * MIB
"""Of memory: less is what an allocator keeps."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon takes."""

    private_bytes: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return Sample(
        private_bytes=int(fields["RssAnon"].split()[0]) * 1024,
        descriptors=sum(1 for _ in (process / "fd").iterdir()),
        threads=int(fields["Threads"]),
    )


class Trouble:
    """Everything that may happen to a daemon beside work, one thing at a time."""

    def __init__(self, daemon: RunningDaemon, folder: Path, random: np.random.Generator) -> None:
        self.daemon, self._folder, self._random = daemon, folder, random
        self._numbers = itertools.count()
        self.engines = [self._engine() for _ in range(ENGINES)]
        self.gone: list[Engine] = []
        self.resizes = self.kills = 0

    def _engine(self) -> Engine:
        number = next(self._numbers)
        log = self._folder / f"engine-{number}"
        return Engine(self.daemon.socket, log, number, pause_s=0.01, timeout_s=10.0)

    def happen(self, client: Client) -> None:
        match int(self._random.integers(8)):
            case 0 | 1 | 2:
                self.resizes += 1
                client.resize(dram=int(MIB * self._random.uniform(0.3, 2)))
            case 3 | 4:
                self.resizes += 1
                client.resize(ssd=int(MIB * self._random.uniform(1, 8)))
            case 5:
                place = int(self._random.integers(ENGINES))
                engine, self.engines[place] = self.engines[place], self._engine()
                engine.kill()
                self.kills += 1
                self.gone.append(engine)
            case 6:
                self._rubbish()
            case 7:
                self.daemon.pause()
                time.sleep(0.1)
                self.daemon.resume()

    def _rubbish(self) -> None:
        """Sessions that end in the middle of everything."""
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(RawClient(self.daemon.socket))
                with contextlib.suppress(OSError):
                    client.attach(BLOCK_BYTES)
                    keys = join_keys(keys_of(int(self._random.integers(PROMPTS)), LONGEST))
                    client.say(Acquire, keys=keys)
                    client.say(Reserve, keys=join_keys(keys_of(PROMPTS, 2)))
                    client.socket.sendall(self._random.bytes(int(self._random.integers(1, 5000))))


@pytest.mark.soak
def test_nothing_leaks_and_no_byte_is_wrong(tmp_path: Path) -> None:
    length_s = float(os.environ.get("SOAK_S", "60"))
    folder = tmp_path / "daemon"
    with (
        RunningDaemon(folder, dram=2 * MIB, ssd_dir=folder / "ssd", ssd=8 * MIB) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client,
    ):
        trouble = Trouble(daemon, tmp_path, np.random.default_rng(1))
        samples: list[Sample] = []
        end_s = time.monotonic() + length_s
        while time.monotonic() < end_s:
            trouble.happen(client)
            time.sleep(0.2)
            samples.append(sample(daemon.pid))
        everybody = trouble.engines + trouble.gone
        for engine in trouble.engines:
            engine.stop()
        assert sum(engine.done().wrong for engine in everybody) == 0
        assert [engine.done().faults for engine in trouble.engines] == [[]] * ENGINES
        assert trouble.resizes > len(samples) / 4
        assert trouble.kills > len(samples) / 20

        quarter = len(samples) // 4
        early, late = samples[quarter : 2 * quarter], samples[-quarter:]
        for what, most in (("private_bytes", LEAST_LEAK), ("descriptors", 20), ("threads", 2)):
            before = statistics.median(getattr(each, what) for each in early)
            after = statistics.median(getattr(each, what) for each in late)
            print(f"{what}: {before:,.0f} in the second quarter, {after:,.0f} in the last")
            assert after - before <= most, what
        assert settled(lambda: client.status()["processes"] == 1)
        done = [engine.done() for engine in everybody]
        print(
            f"{sum(each.loaded for each in done):,} blocks loaded,"
            f" {sum(each.stored for each in done):,} stored, {trouble.resizes} resizes,"
            f" {trouble.kills} engines killed, longest call"
            f" {max(each.longest_s for each in done):.2f} s"
        )
        assert daemon.stop() == 0
