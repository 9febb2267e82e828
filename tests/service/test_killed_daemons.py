"""The daemon is killed at random instants while engines work with it, and started again.

Engines meet misses or errors in time, connect again, and never read a wrong byte; nothing of a
daemon outlasts it but what the next one takes over.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from greencache.client import Client
from greencache.errors import UnavailableError
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.engines import BLOCK_BYTES, LONGEST, PROMPTS, Done, Engine, keys_of, load

ENGINES = 3
TIMEOUT_S = 2.0

_MEMORY_FILE = re.compile(r" (\d+) +/memfd:greencache")


def memory_files(process: Path) -> set[str]:
    """Inodes of memory files of tiers that a process has mapped or open."""
    try:
        inodes = set(_MEMORY_FILE.findall((process / "maps").read_text()))
        for descriptor in (process / "fd").iterdir():
            if str(descriptor.readlink()).startswith("/memfd:greencache"):
                inodes.add(str(descriptor.stat().st_ino))
    except OSError:
        return set()  # it has just ended
    return inodes


def memory_files_of_all() -> set[str]:
    processes = [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return set().union(*map(memory_files, processes))


def _kill_often(tmp_path: Path, times: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder = tmp_path / "daemon"
    daemon = RunningDaemon(folder, dram=MIB, ssd_dir=folder / "ssd", ssd=8 * MIB)
    seen: set[str] = set()
    with daemon:
        engines = [
            Engine(
                daemon.socket,
                tmp_path / f"engine-{number}",
                seed + number,
                pause_s=0.02,
                timeout_s=TIMEOUT_S,
                long_timeout_s=TIMEOUT_S,
            )
            for number in range(ENGINES)
        ]
        for _ in range(times):
            before = [engine.done() for engine in engines]
            if random.random() < 0.8:  # else it may be killed while it starts

                def worked(before: list[Done] = before) -> bool:
                    pairs = zip(engines, before, strict=True)
                    return all(engine.done().loaded > had.loaded for engine, had in pairs)

                assert settled(worked, 60.0), [engine.done() for engine in engines]
            time.sleep(random.uniform(0.0, 0.1))
            seen |= memory_files(Path(f"/proc/{daemon.pid}"))
            daemon.kill()
            assert daemon.socket.exists(), "as nobody could take the name away"
            daemon.start(wait=False)
        with Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client:
            assert settled(lambda: is_there(client), 60.0)
            for engine in engines:
                engine.stop()
            found = [load(client, keys_of(name, LONGEST)) for name in range(PROMPTS)]
            assert sum(wrong for _, wrong in found) == 0
            assert sum(good for good, _ in found) > 0
            assert client.status()["transactions"] == 0
            assert client.status()["pools"][0]["tiers"]["ssd"]["failures"] == {}
        total = [engine.done() for engine in engines]
        assert [(done.wrong, done.faults) for done in total] == [(0, [])] * ENGINES
        assert all(done.unavailable for done in total), "they met daemons that were gone"
        # As far as a busy machine lets a process run when it could.
        assert max(done.longest_s for done in total) < 3 * TIMEOUT_S
        assert daemon.stop() == 0
        assert sorted(path.name for path in folder.iterdir()) == ["ssd"], "no socket, no lock"
    assert seen
    assert not seen & memory_files_of_all(), "memory goes with the last process that has it"


def is_there(client: Client) -> bool:
    try:
        client.status()
    except UnavailableError:
        return False
    return True


def test_ten_daemons_killed_under_load_never_give_a_wrong_byte(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=10, seed=1)


@pytest.mark.soak
def test_two_hundred_daemons_killed_under_load_never_give_a_wrong_byte(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=200, seed=2)
