"""vLLM's environment, models, daemons and engines for the end-to-end tests."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greencache.bench.vllm_engine import Engine, connector, make_model
from tests.service.daemons import MIB, RunningDaemon

ROOT = Path(__file__).parent.parent.parent
EXTERNAL_HITS = "vllm:external_prefix_cache_hits"
OUR_HITS = "vllm:greencache_hit_tokens"

StartEngine = Callable[..., Engine]


def environment(**more: str) -> dict[str, str]:
    """Of an engine. Where tests run side by side, each engine computes on a core of its own."""
    side = os.environ.get("PYTEST_XDIST_WORKER", "")
    cores = sorted(os.sched_getaffinity(0))
    if side:
        more["VLLM_CPU_OMP_THREADS_BIND"] = str(cores[int(side[2:]) % len(cores)])
    # Others may have the machine meanwhile.
    deadlines = {"GREENCACHE_VLLM__DEADLINE": "5s", "GREENCACHE_VLLM__LOAD_DEADLINE": "30s"}
    return {**deadlines, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """Python of vLLM's environment: `make vllm-env`."""
    python = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
    assert python.exists(), f"{python} is missing: run `make vllm-env`, or name it in VLLM_PYTHON"
    return python


@pytest.fixture(scope="session")
def model(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(vllm_python, tmp_path_factory.mktemp("model"), 0)


@pytest.fixture(scope="session")
def other_model(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the same shape with other weights."""
    return make_model(vllm_python, tmp_path_factory.mktemp("other"), 1)


@pytest.fixture(scope="session")
def expected(
    vllm_python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[list[int]]:
    """What the engine says to each prompt by itself."""
    log = tmp_path_factory.mktemp("alone") / "engine.log"
    with Engine(
        vllm_python,
        log,
        environment(),
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=8,
        enable_prefix_caching=False,
    ) as alone:
        return one_by_one(alone)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with DRAM and SSD, for all tests of a module."""
    folder = tmp_path_factory.mktemp("daemon")
    ssd = folder / "ssd"
    with RunningDaemon(folder, dram=768 * MIB, ssd_dir=ssd, ssd=1024 * MIB) as running:
        yield running


@pytest.fixture
def engine(
    vllm_python: Path, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartEngine]:
    """Starts engines, which end with the test."""
    started: list[Engine] = []

    def start(
        daemon: RunningDaemon | None = None,
        more: dict[str, str] | None = None,
        transfer: dict[str, object] | None = None,
        **arguments: object,
    ) -> Engine:
        socket = {}
        if daemon is not None:
            socket["GREENCACHE_SERVE__SOCKET"] = str(daemon.socket)
            arguments["kv_transfer_config"] = connector(**(transfer or {}))
        running = Engine(
            vllm_python,
            tmp_path / "engine.log",
            {**environment(), **socket, **(more or {})},
            **{
                "model": str(model),
                "dtype": "float32",
                "enforce_eager": True,
                "max_model_len": 8192,
                "max_num_seqs": 8,
                "prefix_caching_hash_algo": "sha256_cbor",
                "disable_log_stats": False,
                **arguments,
            },
        )
        started.append(running)
        return running

    yield start
    for each in started:
        each.close()


def prompts(seed: int = 7) -> list[list[int]]:
    """Prompts of many lengths, some of which share prefixes of many lengths."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(260, 1000) for _ in range(count)]

    long = tokens(2048)
    shared = [long[:length] + tokens(150) for length in (255, 256, 257, 640, 1500, 2047)]
    return [long, tokens(1999), tokens(700), tokens(100), *shared, long[:1024]]


def one_by_one(engine: Engine) -> list[list[int]]:
    """Tokens after each prompt, one after another: in batches, sums differ in their last bits."""
    return [engine.generate([prompt])["tokens"][0] for prompt in prompts()]


def check_hits(engine: Engine) -> None:
    """The engine found KV outside, and counts as we do."""
    hits = engine.metrics()
    assert hits[EXTERNAL_HITS] > 0
    assert hits[EXTERNAL_HITS] == hits[OUR_HITS]
    assert hits.get("vllm:greencache_failed_loads", 0) == 0
