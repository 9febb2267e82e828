"""Connectors under a small engine and a real daemon: what is said is right, whatever happens."""

from __future__ import annotations

import os
import pickle
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from greencache.adapters.paged.jobs import Step
from greencache.adapters.paged.statistics import Counts
from greencache.adapters.paged.telling import Telling
from greencache.client import Client, Seen
from greencache.errors import UnavailableError
from tests.adapters.paged.miniature import BLOCK, MiniatureEngine, Request, said
from tests.pinning import PagePinning
from tests.service.daemons import MIB, RunningDaemon, settled


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("daemon")
    with RunningDaemon(folder, dram=64 * MIB) as running:
        yield running


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, dram=16 * MIB) as running:
        yield running


@pytest.fixture
def namespace() -> bytes:
    """Of one test alone: others find nothing of it."""
    return secrets.token_bytes(16)


def tokens(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(count)]


def check(engine: MiniatureEngine, *requests: Request) -> None:
    assert engine.generate(*requests) == [said(each, engine.ranks) for each in requests]


def stored(engine: MiniatureEngine, prompt: list[int]) -> int:
    """Tokens of a prompt that a fresh engine would find; nothing is left of the question."""
    request = Request(secrets.token_hex(4), prompt, max_tokens=1)
    found = engine.planning.match(request, 0)
    engine.planning.finished(request, [])
    return found


def nothing_is_held(daemon: RunningDaemon) -> bool:
    with Client(4096, socket=daemon.socket, timeout_s=20.0) as client:
        return settled(lambda: client.status()["transactions"] == 0)


WAYS: list[dict[str, Any]] = [
    {"asynchronous": True},
    {"asynchronous": True, "ahead": True},
    {"asynchronous": False},
    {"asynchronous": True, "drafting": True},
    {"ranks": 2},
    {"ranks": 2, "ahead": True},
    {"per_block": 1},
    {"per_block": 3},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_fresh_engine_finds_what_another_stored_and_says_the_same(
    daemon: RunningDaemon, namespace: bytes, way: dict[str, Any]
) -> None:
    long = tokens(90)
    prompts = [long, long[:40], long[:41] + tokens(30, 1), tokens(7, 2), tokens(64, 3)]
    with MiniatureEngine(daemon.socket, namespace=namespace, **way) as first:
        check(first, *(Request(f"{number}", each) for number, each in enumerate(prompts)))
    with MiniatureEngine(daemon.socket, namespace=namespace, **way) as second:
        check(second, *(Request(f"{number}", each) for number, each in enumerate(prompts)))
        unit = BLOCK * way.get("per_block", 2)
        assert second.external_tokens >= (90 - 1) // unit * unit
        assert second.counts.take()["hit_tokens"] == second.external_tokens
    assert nothing_is_held(daemon)


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_prompts_that_share_prefixes_of_any_length(
    daemon: RunningDaemon, data: st.DataObject
) -> None:
    """Engines come and go, forget, have little memory; some requests are aborted."""
    namespace = secrets.token_bytes(16)
    base = tokens(80, data.draw(st.integers(0, 3)))
    way = data.draw(st.sampled_from(WAYS))
    blocks = data.draw(st.sampled_from([26, 40, 128]))
    for _ in range(data.draw(st.integers(1, 3))):
        with MiniatureEngine(daemon.socket, namespace=namespace, blocks=blocks, **way) as engine:
            for turn in range(data.draw(st.integers(1, 2))):
                requests = [
                    Request(
                        f"{turn}.{number}",
                        base[: data.draw(st.integers(1, 80))]
                        + tokens(data.draw(st.integers(0, 12)), 9),
                        max_tokens=data.draw(st.integers(1, 8)),
                        stop=data.draw(st.sampled_from([None, 3])),
                    )
                    for number in range(data.draw(st.integers(1, 5)))
                ]
                engine.add(*requests)
                for _ in range(data.draw(st.integers(0, 6))):
                    engine.step()
                gone: Request | None = data.draw(st.sampled_from([None, *requests]))
                if gone is not None and gone.state != "finished":
                    engine.abort(gone)
                engine.settle()
                for each in requests:
                    if each is not gone:
                        assert each.outputs == said(each, engine.ranks)
                if data.draw(st.booleans()):
                    engine.forget()


def test_a_prefix_that_the_engine_has_may_end_within_a_stored_block(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace, per_block=4) as first:
        check(first, Request("whole", prompt))
    with MiniatureEngine(daemon.socket, namespace=namespace, per_block=4) as second:
        other = Request("other", prompt[: 5 * BLOCK] + tokens(20, 1))
        check(second, other)
        assert second.external_tokens == 4 * BLOCK
        check(second, Request("again", prompt))
        # Five of the engine's blocks are here: the second of the store's is completed from it.
        assert second.external_tokens == 4 * BLOCK + 48 - 5 * BLOCK
        seen = [each.hit_tokens for each in ended(second)]
        assert seen == [{"hbm": 0, "dram": 4 * BLOCK}, {"hbm": 5 * BLOCK, "dram": 48 - 5 * BLOCK}]


def ended(engine: MiniatureEngine) -> list[Seen]:
    return [each for each in engine.planning.take_seen() if each.ended]


def test_the_daemon_is_told_when_requests_come_and_what_of_them_waits(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        check(engine, Request("first", prompt))
        engine.forget()
        engine.planning.take_seen()
        again, other = Request("again", prompt), Request("other", tokens(30, 1))
        engine.add(again, other)
        came = engine.planning.take_seen()
        assert [(each.prompt_tokens, each.ended, each.ttft_s) for each in came] == [
            (60, False, None),
            (30, False, None),
        ]
        engine.planning.stepped()
        assert engine.mirror.take().waiting_tokens == 90
        engine.settle()
        assert engine.mirror.take().waiting_tokens == 0
        gone = engine.planning.take_seen()
        assert {each.request for each in gone} == {each.request for each in came}
        assert all(each.ended and each.ttft_s is not None for each in gone)


def test_other_salts_and_namespaces_find_nothing(daemon: RunningDaemon, namespace: bytes) -> None:
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        check(engine, Request("first", prompt))
        engine.forget()
        check(engine, Request("salted", prompt, salt=b"another tenant"))
        assert engine.external_tokens == 0
        engine.forget()
        check(engine, Request("again", prompt))
        assert engine.external_tokens == 56
    with MiniatureEngine(daemon.socket, namespace=secrets.token_bytes(16)) as other:
        check(other, Request("first", prompt))
        assert other.external_tokens == 0


def test_adapters_find_their_own_and_nothing_of_others(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    prompt = tokens(60)
    assert said(Request("one", prompt, lora="one")) != said(Request("none", prompt))
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        for lora in ("one", "other", ""):
            check(engine, Request(f"first {lora}", prompt, lora=lora))
            engine.forget()
        assert engine.external_tokens == 0
        for times, lora in enumerate(("one", "other", ""), 1):
            check(engine, Request(f"again {lora}", prompt, lora=lora))
            engine.forget()
            assert engine.external_tokens == 56 * times


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_daemon_that_dies_between_finding_and_loading(
    own_daemon: RunningDaemon, namespace: bytes, way: dict[str, Any]
) -> None:
    prompt = tokens(90)
    with MiniatureEngine(own_daemon.socket, namespace=namespace, deadline_s=2.0, **way) as engine:
        check(engine, Request("first", prompt))
        engine.forget()

        def kill(step: Step) -> None:
            if step.loads:
                own_daemon.kill()

        engine.planned = kill
        check(engine, Request("second", prompt))
        failed = engine.counts.take()["failed_loads"]
        assert failed == engine.ranks
        engine.planned = lambda step: None
        own_daemon.start()
        engine.forget()
        settled(lambda: stored(engine, prompt) == 0 and not engine.clients[0]._backoff._fault)
        assert settled(lambda: _check_store(engine, prompt))
        engine.forget()
        before = engine.external_tokens
        check(engine, Request("third", prompt))
        assert engine.external_tokens > before
        assert "failed_loads" not in engine.counts.take()
    assert nothing_is_held(own_daemon)


def _check_store(engine: MiniatureEngine, prompt: list[int]) -> bool:
    """Say it once more; whether it is stored now, as all clients have found the new daemon."""
    engine.forget()
    check(engine, Request(secrets.token_hex(4), prompt))
    return stored(engine, prompt) > 0


@contextmanager
def _failing_loads(engine: MiniatureEngine) -> Iterator[None]:
    """The daemon's memory is gone."""

    def fail(*_: object) -> None:
        raise OSError("the daemon's memory is gone")

    loads = [worker._pages.load for worker in engine.workers]
    for worker in engine.workers:
        worker._pages.load = fail  # type: ignore[assignment,method-assign]
    yield
    for worker, load in zip(engine.workers, loads, strict=True):
        worker._pages.load = load  # type: ignore[method-assign]


@pytest.mark.parametrize("drafting", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_computed_behind_a_failed_synchronous_load_is_not_stored(
    daemon: RunningDaemon, namespace: bytes, ranks: int, drafting: bool
) -> None:
    """The step computes on garbage before anybody hears of it; its blocks have good names."""
    prompt = tokens(60)
    way: dict[str, Any] = {"asynchronous": False, "drafting": drafting, "ranks": ranks}
    with MiniatureEngine(daemon.socket, namespace=namespace, **way) as engine:
        check(engine, Request("first", prompt[:40]))
        engine.forget()

        request = Request("second", prompt)
        request_said = said(request, ranks)
        with _failing_loads(engine):
            engine.add(request)
            engine.step()
            # Before the next step writes what is right where garbage is.
            assert settled(
                lambda: all(each.done() for worker in engine.workers for each in worker._saving)
            )
            assert engine.counts.take()["failed_loads"] == ranks
        engine.settle()
        assert request.outputs == request_said
        engine.forget()
        check(engine, Request("third", prompt))
        engine.forget()
        assert stored(engine, prompt) == 56
        check(engine, Request("fourth", prompt))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_cannot_be_loaded_is_tried_once_for_a_request(
    daemon: RunningDaemon, namespace: bytes, way: dict[str, Any]
) -> None:
    """Each try may take as long as a load may: a request does not wait for that twice."""
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace, **way) as engine:
        check(engine, Request("first", prompt))
        engine.forget()

        with _failing_loads(engine):
            for turn in range(2):  # the next request may find it better
                check(engine, Request(f"second {turn}", prompt))
                assert engine.counts.take()["failed_loads"] == engine.ranks
                engine.forget()
    assert nothing_is_held(daemon)


def test_copies_run_where_the_engine_does_not_compute(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    """An engine on CPUs binds the thread that begins them to where it computes, as vLLM does."""
    before, ran_on = os.sched_getaffinity(0), list[set[int]]()
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        own = engine.workers[0]._pages
        save, load = own.save, own.load

        def noted(copy: Callable[..., None]) -> Callable[..., None]:
            def and_note(*arguments: object) -> None:
                ran_on.append(os.sched_getaffinity(0))
                copy(*arguments)

            return and_note

        own.save, own.load = noted(save), noted(load)  # type: ignore[method-assign]
        os.sched_setaffinity(0, {min(before)})
        try:
            check(engine, Request("first", tokens(60)))
            engine.forget()
            check(engine, Request("second", tokens(60)))
        finally:
            os.sched_setaffinity(0, before)
        assert engine.external_tokens > 0
    assert ran_on
    assert all(each == {min(before)} | os.sched_getaffinity(os.getppid()) for each in ran_on)


def _slow_saves(engine: MiniatureEngine) -> None:
    own = engine.workers[0]._pages
    save = own.save

    def slowly(block_ids: object, blocks: object) -> None:
        settled(lambda: False, 0.01)
        save(block_ids, blocks)  # type: ignore[arg-type]

    own.save = slowly  # type: ignore[method-assign]


def test_preempted_requests_lose_blocks_only_when_these_are_saved(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    """Saves are slow here, and memory is little: blocks change hands while they are written."""
    prompts = [tokens(60, seed) for seed in range(4)]
    with MiniatureEngine(daemon.socket, namespace=namespace, blocks=30) as engine:
        _slow_saves(engine)
        check(engine, *(Request(f"{n}", each, max_tokens=24) for n, each in enumerate(prompts)))
        assert engine.preemptions > 0
    with MiniatureEngine(daemon.socket, namespace=namespace) as fresh:
        check(fresh, *(Request(f"{n}", each, max_tokens=24) for n, each in enumerate(prompts)))
        assert fresh.external_tokens >= 4 * 56


def test_blocks_of_a_finished_request_are_kept_until_saved(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        own = engine.workers[0]._pages
        save, may = own.save, list[bool]()

        def when_told(block_ids: object, blocks: object) -> None:
            assert settled(lambda: bool(may))
            save(block_ids, blocks)  # type: ignore[arg-type]

        own.save = when_told  # type: ignore[method-assign]
        request = Request("only", tokens(20), max_tokens=1)
        expected = said(request)
        engine.add(request)
        for _ in range(5):
            engine.step()
        assert request.state == "finished"
        assert request.block_ids
        may.append(True)
        engine.settle()
        assert request.outputs == expected


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_request_that_is_aborted_while_it_loads(
    daemon: RunningDaemon, namespace: bytes, ranks: int
) -> None:
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace, ranks=ranks) as engine:
        check(engine, Request("first", prompt))
        engine.forget()
        request = Request("second", prompt)
        engine.add(request)
        work, step = engine._schedule()
        assert request.state == "loading"
        engine.abort(request)
        engine._outputs.append(engine._execute(work, pickle.dumps(step)))
        engine.settle()
        engine.forget()
        check(engine, Request("third", prompt))
    assert nothing_is_held(daemon)


def test_a_request_is_aborted_that_loads_after_it_was_preempted_while_saving(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    """Its saves hold none of its blocks any more: the engine frees these when the load ends."""
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        prompt = tokens(20)
        check(engine, Request("first", prompt + tokens(40, 1)))
        engine.forget()
        _slow_saves(engine)
        request = Request("second", prompt + tokens(40, 2), max_tokens=8)
        engine.add(request)
        while request.state != "running":
            engine.step()
        engine.step()
        engine._preempt(request)
        engine.step()
        while request.state == "waiting":
            engine.step()
        engine.abort(request)
        engine.settle()
        check(engine, Request("third", prompt))


def test_a_frozen_daemon_holds_up_no_step_for_long(
    own_daemon: RunningDaemon, namespace: bytes
) -> None:
    prompt = tokens(60)
    with MiniatureEngine(own_daemon.socket, namespace=namespace, deadline_s=0.1) as engine:
        check(engine, Request("first", prompt))
        engine.forget()
        own_daemon.signal(signal.SIGSTOP)
        check(engine, Request("second", prompt))
        own_daemon.signal(signal.SIGCONT)
        assert settled(lambda: _check_store(engine, prompt), 20.0)


def test_a_save_that_one_rank_cannot_join_is_given_up_for_all(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    with MiniatureEngine(daemon.socket, namespace=namespace, ranks=2) as engine:
        joins = engine.clients[2].join_reservation

        def fail(number: int) -> object:
            raise OSError("no")

        engine.clients[2].join_reservation = fail  # type: ignore[assignment,method-assign]
        check(engine, Request("first", tokens(60)))
        assert nothing_is_held(daemon)
        assert stored(engine, tokens(60)) == 0
        engine.clients[2].join_reservation = joins  # type: ignore[method-assign]
        engine.forget()
        check(engine, Request("second", tokens(60)))
        assert stored(engine, tokens(60)) == 56


def test_requests_are_told_of_with_their_times_and_hits(
    daemon: RunningDaemon, namespace: bytes
) -> None:
    prompt = tokens(60)
    with MiniatureEngine(daemon.socket, namespace=namespace) as engine:
        check(engine, Request("first", prompt))
        (first,) = ended(engine)
        engine.forget()
        check(engine, Request("second", prompt, max_tokens=1))
        check(engine, Request("third", prompt[:30]))
        second, third = ended(engine)
        assert engine.planning.take_seen() == []
    assert (first.prompt_tokens, first.output_tokens) == (60, 3)
    assert first.ttft_s is not None
    assert first.ttft_s > 0
    assert first.tpot_s is not None
    assert first.tpot_s > 0
    assert first.hit_tokens == {"hbm": 0}
    assert second.tpot_s is None
    assert second.hit_tokens == {"hbm": 0, "dram": 56}
    assert third.hit_tokens["hbm"] == 28
    assert len({each.request for each in (first, second, third)} - {0}) == 3


@pytest.mark.slow
def test_the_daemon_mirrors_what_the_engine_has_by_itself(
    own_daemon: RunningDaemon, namespace: bytes
) -> None:
    def hbm() -> dict[str, int]:
        with Client(4096, socket=own_daemon.socket, timeout_s=20.0) as client:
            found: dict[str, int] = client.status()["hbm"]
        return found

    with MiniatureEngine(own_daemon.socket, namespace=namespace, blocks=32) as engine:
        telling = Telling(engine.clients[0], engine.counts)
        telling.mirror = engine.mirror
        check(engine, Request("first", tokens(60)))
        assert settled(lambda: hbm()["engines"] == 1)
        told = hbm()
        assert told["capacity_bytes"] == engine.kv.nbytes
        assert told["blocks"] == 15  # of 4 tokens each; of the last said there is no KV
        assert told["used_bytes"] == 15 * engine.kv.nbytes // 32
        assert told["kept_bytes"] == 16 * engine.kv.nbytes // 32, "while it ran"
        assert settled(lambda: hbm()["kept_bytes"] == 0), "none runs any more"
        assert hbm()["blocks"] == 15, "what is cached stays"
        engine.forget()
        assert settled(lambda: hbm()["blocks"] == 0)
        own_daemon.kill()
        own_daemon.start()
        assert settled(lambda: hbm()["engines"] == 1, 20.0), "a new daemon hears of it, too"
        telling.close()


def test_who_ends_does_not_wait_for_a_daemon_that_is_lost(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute.sock"))
        listener.listen()
        listener.setblocking(False)
        with Client(4096, socket=tmp_path / "mute.sock") as client:
            counts = Counts()
            counts.failed("untold_requests", UnavailableError("it was lost"))
            telling = Telling(client, counts)
            telling.tell([Seen(0.0, 1, 1)] * 3)
            telling.close()
            telling._send()  # as it does once more if it was closed while it waited
        assert counts.take()["untold_requests"] == 4
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_step_does_not_wait_for_a_frozen_daemon_to_take_blocks_away(
    own_daemon: RunningDaemon, namespace: bytes
) -> None:
    with MiniatureEngine(own_daemon.socket, namespace=namespace) as engine:
        own = engine.clients[1]
        own.timeout_s = 3.0
        own.lookup([])
        request = Request("first", tokens(60), max_tokens=8)
        engine.add(request)

        def freeze(step: Step) -> None:
            if step.saves:
                own_daemon.pause()

        engine.planned = freeze
        engine.step()
        assert settled(lambda: all(each.done() for _, each in engine.planning._rooms._asked))
        engine.step()
        engine.clients[0].timeout_s = 0.1
        engine._preempt(request)
        work, step = engine._schedule()
        assert step.wait
        began_s = time.monotonic()
        engine.workers[0].before(step)
        assert time.monotonic() - began_s < 2.0
        engine.planned = lambda step: None
        engine._outputs.append(engine._execute(work, pickle.dumps(step)))
        own_daemon.resume()
        engine.settle()
        assert request.outputs == said(request)
    assert nothing_is_held(own_daemon)


def test_workers_pin_and_nothing_is_unpinned_where_they_copy(own_daemon: RunningDaemon) -> None:
    device, prompts = PagePinning(), [tokens(80, seed) for seed in range(12)]
    with (
        MiniatureEngine(own_daemon.socket, pinning=device) as engine,
        Client(4096, socket=own_daemon.socket, timeout_s=20.0) as person,
    ):
        worker, pages = engine.clients[1], engine.workers[0]._pages
        check(engine, Request("first", prompts[0]))
        assert settled(lambda: worker.pinned_bytes > 0)
        held: list[bool] = []

        def watched(move: Callable[..., None]) -> Callable[..., None]:
            def moving(*arguments: object) -> None:
                before = list(device.done)
                move(*arguments)
                assert worker._pins is not None
                held.append(bool(worker._pins._uses))
                assert [each for each in device.done if each[0] == "unpin"] == [
                    each for each in before if each[0] == "unpin"
                ]

            return moving

        pages.save, pages.load = watched(pages.save), watched(pages.load)  # type: ignore[method-assign]
        for turn in range(3):
            for number, prompt in enumerate(prompts):
                request = Request(f"{turn}-{number}", prompt)
                assert engine.generate(request) == [said(request)]
                if number % 3 == 0:
                    engine.forget()
                    person.resize(dram=2 * MIB if number % 2 else 16 * MIB)
        assert len(held) > 20
        assert all(held)
        assert any(what == "unpin" for what, _ in device.done)
        assert not any(engine.counts.take().get(name) for name in ("failed_loads", "failed_saves"))
