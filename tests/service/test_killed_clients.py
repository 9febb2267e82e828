"""Clients are killed while they write and read: what they held comes back, nothing torn is seen."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from greencache.client import Client
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.engines import BLOCK_BYTES, LONGEST, PROMPTS, Engine, keys_of, load


def _kill_often(tmp_path: Path, times: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    stored = loaded = holding = 0
    folder = tmp_path / "daemon"
    options = {"dram": MIB, "ssd_dir": folder / "ssd", "ssd": 8 * MIB}  # some is evicted
    with (
        RunningDaemon(folder, **options) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client,
    ):

        def nothing_is_held() -> bool:
            status = client.status()
            return status["transactions"] == 0 and status["processes"] == 1

        for number in range(times):
            log = tmp_path / f"engine-{number}"
            engine = Engine(
                daemon.socket, log, int(random.integers(2**32)), pause_s=0.05, timeout_s=20.0
            )
            assert settled(lambda engine=engine: engine.busy, 60.0)  # type: ignore[misc]
            time.sleep(random.uniform(0.0, 0.15))
            holding += client.status()["transactions"] > 0
            engine.kill()
            assert settled(nothing_is_held), client.status()
            pool = client.status()["pools"][0]
            assert settled(lambda: client.status()["pools"][0]["waiting_bytes"] == 0)
            assert settled(lambda: client.status()["pools"][0]["pinned_blocks"]["dram"] == 0), pool
            done = engine.done()
            assert (done.wrong, done.faults) == (0, [])
            stored, loaded = stored + done.stored, loaded + done.loaded
            found = [load(client, keys_of(name, LONGEST)) for name in range(PROMPTS)]
            assert sum(wrong for _, wrong in found) == 0
        assert sum(good for good, _ in found) > 0
        for tier in client.status()["pools"][0]["tiers"].values():
            assert tier["failures"] == {}
    assert stored > times, "much was stored between the kills"
    assert holding > times / 4, "many were killed while they held something"


def test_ten_clients_killed_at_work_leave_nothing_behind(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=10, seed=1)


@pytest.mark.soak
def test_two_hundred_clients_killed_at_work_leave_nothing_behind(tmp_path: Path) -> None:
    _kill_often(tmp_path, times=200, seed=2)
