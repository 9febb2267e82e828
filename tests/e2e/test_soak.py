"""A real engine under hours of trouble in minutes: every output is what it is without the store.

``make soak-vllm MINUTES=10``; ``SOAK_SEED`` repeats a run's choices.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from greencache.bench.vllm_engine import Engine
from greencache.client import Client
from greencache.errors import GreenCacheError
from tests.e2e.conftest import EXTERNAL_HITS, StartEngine
from tests.service.daemons import MIB, RunningDaemon

pytestmark = pytest.mark.soak_vllm

SECONDS = 60 * float(os.environ.get("MINUTES", "10"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
ARGUMENTS = {"num_gpu_blocks_override": 40, "max_num_batched_tokens": 512, "max_model_len": 4096}


class Trouble:
    """Does to a daemon, in a thread, what happens to daemons."""

    def __init__(self, daemon: RunningDaemon, ssd: Path) -> None:
        self.done: Counter[str] = Counter()
        self._daemon, self._ssd, self._rng = daemon, ssd, random.Random(SEED)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        ways = [self.resize, self.resize, self.kill, self.stop, self.freeze, self.spoil]
        while not self._over.wait(self._rng.uniform(1.0, 6.0)):
            way = self._rng.choice(ways)
            way()
            self.done[way.__name__] += 1

    def resize(self) -> None:
        sizes = {"dram": self._rng.choice([16, 32, 64, 128]), "ssd": self._rng.choice([0, 64, 256])}
        with contextlib.suppress(GreenCacheError), self._client() as client:
            client.resize(**{tier: size * MIB for tier, size in sizes.items()})

    def kill(self) -> None:
        self._daemon.kill()
        self._over.wait(self._rng.uniform(0.0, 3.0))
        self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()
        self._over.wait(self._rng.uniform(0.0, 3.0))
        self._daemon.start()

    def freeze(self) -> None:
        self._daemon.signal(signal.SIGSTOP)
        self._over.wait(self._rng.uniform(0.1, 3.0))
        self._daemon.signal(signal.SIGCONT)

    def spoil(self) -> None:
        """Overwrite a part of what is on SSD."""
        files = [each for each in self._ssd.rglob("*") if each.is_file() and each.stat().st_size]
        for path in self._rng.sample(files, min(3, len(files))):
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.seek(self._rng.randrange(path.stat().st_size))
                file.write(self._rng.randbytes(4096))

    def _client(self) -> Client:
        return Client(4096, socket=self._daemon.socket, timeout_s=10.0)


def _prompts() -> list[list[int]]:
    rng = random.Random(SEED)
    roots = [[rng.randrange(260, 1000) for _ in range(1800)] for _ in range(6)]
    return [
        rng.choice(roots)[: rng.randrange(50, 1800)]
        + [rng.randrange(260, 1000) for _ in range(rng.choice([0, 0, 5, 300]))]
        for _ in range(60)
    ]


@pytest.fixture
def troubled(tmp_path: Path) -> Iterator[tuple[RunningDaemon, Path]]:
    ssd = tmp_path / "store" / "ssd"
    with RunningDaemon(tmp_path / "store", dram=64 * MIB, ssd_dir=ssd, ssd=256 * MIB) as daemon:
        yield daemon, ssd


def _said(engine: Engine, prompt: list[int]) -> list[int]:
    tokens: list[int] = engine.generate([prompt], max_tokens=4)["tokens"][0]
    return tokens


def test_outputs_stay_the_same_whatever_happens_to_the_daemon(
    engine: StartEngine, troubled: tuple[RunningDaemon, Path]
) -> None:
    daemon, ssd = troubled
    prompts = _prompts()
    alone = engine(enable_prefix_caching=False, **ARGUMENTS)
    expected = [_said(alone, prompt) for prompt in prompts]
    alone.close()
    tested = engine(daemon, {"GREENCACHE_VLLM__DEADLINE": "100ms"}, **ARGUMENTS)
    rng, requests, longest_s = random.Random(SEED + 1), 0, 0.0
    end_s = time.monotonic() + SECONDS
    with Trouble(daemon, ssd) as trouble:
        while time.monotonic() < end_s:
            which = rng.randrange(len(prompts))
            began_s = time.monotonic()
            assert _said(tested, prompts[which]) == expected[which], f"after {requests} requests"
            longest_s = max(longest_s, time.monotonic() - began_s)
            requests += 1
    counted = tested.metrics()
    ours = {name: value for name, value in counted.items() if "greencache" in name}
    result = {
        "requests": requests,
        "longest_s": round(longest_s, 2),
        "external_hit_tokens": counted[EXTERNAL_HITS],
        **ours,
        "trouble": trouble.done,
    }
    print(json.dumps(result, indent=2))
    assert counted[EXTERNAL_HITS] > 0
    if name := os.environ.get("SOAK_RESULT"):
        Path(name).write_text(json.dumps(result))
