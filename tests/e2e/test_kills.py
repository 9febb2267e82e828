"""SIGKILL in the midst of copies: who starts next says what is right, and finds what was stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greencache.bench.vllm_engine import Engine
from greencache.client import Client
from tests.e2e.conftest import StartEngine, check_hits, one_by_one, prompts
from tests.service.daemons import MIB, RunningDaemon, settled

pytestmark = pytest.mark.e2e

SLOW = {"kv_connector": "SlowConnector", "kv_connector_module_path": "tests.e2e.slow"}
SOON_S = 60.0


class Slow:
    """Starts engines with slow copies, and knows what they are in the midst of."""

    def __init__(self, start: StartEngine, folder: Path) -> None:
        self._start, self._folder = start, folder

    def engine(self, daemon: RunningDaemon, seconds: float) -> Engine:
        environment = {"SLOW_S": str(seconds), "SLOW_FOLDER": str(self._folder)}
        return self._start(daemon, environment, SLOW)

    def await_midst_of(self, what: str) -> None:
        assert settled(lambda: (self._folder / what).exists(), SOON_S), f"no {what}"
        self.forget(what)

    def forget(self, what: str) -> None:
        (self._folder / what).unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """One for each test, in which nothing is stored."""
    folder = tmp_path / "daemon"
    with RunningDaemon(folder, dram=256 * MIB, ssd_dir=folder / "ssd", ssd=512 * MIB) as running:
        yield running


@pytest.fixture
def slow(engine: StartEngine, tmp_path: Path) -> Slow:
    return Slow(engine, tmp_path)


def status(daemon: RunningDaemon) -> dict[str, Any]:
    with Client(4096, socket=daemon.socket, timeout_s=20.0) as client:
        return client.status()


def check_nothing_is_held(daemon: RunningDaemon) -> None:
    assert settled(lambda: status(daemon)["transactions"] == 0, SOON_S)
    assert status(daemon)["sessions"] <= 1  # who asks


def generate(engine: Engine, asked: list[list[int]]) -> tuple[threading.Thread, list[Any]]:
    """Begin, and go on with something else."""
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(engine.generate(asked)["tokens"]))
    thread.start()
    return thread, said


def test_engines_killed_while_they_save_and_while_they_load(
    slow: Slow, engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    saving = slow.engine(daemon, 30.0)
    saving.ask_for(prompts()[0])
    slow.await_midst_of("saving")
    saving.kill()
    check_nothing_is_held(daemon)
    storing = engine(daemon)
    assert one_by_one(storing) == expected
    storing.close()
    loading = slow.engine(daemon, 30.0)
    loading.ask_for(prompts()[0])
    slow.await_midst_of("loading")
    loading.kill()
    check_nothing_is_held(daemon)
    fresh = engine(daemon)
    assert fresh.generate([prompts()[0]])["cached"][0] >= 1792
    assert one_by_one(fresh) == expected
    check_hits(fresh)


def test_a_daemon_killed_while_an_engine_under_load_saves_and_while_it_loads(
    slow: Slow, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    """All prompts at a time: some run, some load, some wait."""
    busy = slow.engine(daemon, 1.0)

    def forgets() -> bool:  # not while it saves
        return bool(busy.ask(do="reset")["reset"])

    def is_found() -> bool:
        return forgets() and int(busy.generate([prompts()[0]])["cached"][0]) > 0

    thread, said = generate(busy, prompts())
    slow.await_midst_of("saving")
    daemon.kill()
    thread.join()
    assert said == [expected]
    daemon.start()
    assert settled(is_found, SOON_S), "the engine does not find the new daemon"
    assert settled(forgets, SOON_S)
    slow.forget("loading")
    thread, said = generate(busy, prompts())
    slow.await_midst_of("loading")
    daemon.kill()
    thread.join()
    assert said == [expected]  # what it was reading stays readable, the rest is computed
    daemon.start()
    assert settled(is_found, SOON_S), "the engine does not find the newest daemon"
    assert busy.generate(prompts())["tokens"] == expected
    assert settled(lambda: status(daemon)["transactions"] == 0, SOON_S)


def test_both_killed_find_what_was_committed(
    slow: Slow, engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    storing = engine(daemon)
    assert one_by_one(storing) == expected
    storing.close()
    with Client(4096, socket=daemon.socket, timeout_s=20.0) as client:
        client.flush()
    busy = slow.engine(daemon, 30.0)
    busy.ask_for(list(reversed(prompts()[0])))
    slow.await_midst_of("saving")
    busy.kill()
    daemon.kill()
    daemon.start()
    check_nothing_is_held(daemon)
    fresh = engine(daemon)
    assert one_by_one(fresh) == expected
    check_hits(fresh)
