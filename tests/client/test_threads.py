"""Threads that share a client, and processes that are forked from one that has one."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from greencache.client import AsyncClient, Client
from greencache.client.address import connect
from greencache.errors import UnavailableError
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.processes import process_context
from tests.service.daemons import RunningDaemon, settled

BLOCK_BYTES = 16 * 1024
KEYS = prompt(*range(8))


def test_threads_share_one_connection(tmp_path: Path) -> None:
    def work(thread: int) -> None:
        for turn in range(20):
            keys = prompt((thread, turn), *range(thread % 5))
            assert client.store(keys, the_bytes(keys, BLOCK_BYTES)) == len(keys)
            into = np.empty((len(keys), BLOCK_BYTES), np.uint8)
            assert client.load(keys, into) == len(keys)
            assert wrong_blocks(keys, into) == 0
            assert client.lookup(keys) == {"dram": len(keys)}

    with (
        RunningDaemon(tmp_path) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        for done in [pool.submit(work, thread) for thread in range(8)]:
            done.result()
        status = client.status()
        assert (status["counts"]["Hello"], status["transactions"]) == (1, 0)


def test_a_question_too_large_for_the_socket_does_not_hold_others_up(tmp_path: Path) -> None:
    """A million bytes of keys are sent in parts, while others read their answers."""
    many = prompt(*range(60_000))

    def look_up(keys: list[bytes]) -> None:
        for _ in range(5):
            assert client.lookup(keys) == {"dram": 0}

    with (
        RunningDaemon(tmp_path) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        for done in [pool.submit(look_up, many[:count]) for count in (60_000, 9, 60_000, 9, 1)]:
            done.result()


def test_closing_ends_what_other_threads_wait_for(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        client = Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=30.0)
        client.lookup(KEYS)
        daemon.pause()
        ends: list[BaseException] = []

        def wait() -> None:
            try:
                client.lookup(KEYS)
            except UnavailableError as fault:
                ends.append(fault)

        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        client.close()
        for thread in threads:
            thread.join(10.0)
        daemon.resume()
    assert len(ends) == 4


def _exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fork_with_client(socket: Path) -> None:
    into = np.empty((8, BLOCK_BYTES), np.uint8)
    with Client(BLOCK_BYTES, socket=socket, timeout_s=20.0) as client:
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        lease = client.acquire(KEYS)
        child = os.fork()
        if child == 0:
            try:
                lease.release()  # which is the parent's, so that nobody is told
                assert client.load(KEYS, into) == 8
                assert wrong_blocks(KEYS, into) == 0
                assert client.status()["transactions"] == 1, "the parent's lease"
                client.close()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert _exit_code(child) == 0
        assert wrong_blocks(KEYS, np.stack(lease.views())) == 0
        assert client.status()["transactions"] == 1
        lease.release()
        status = client.status()
        assert status["transactions"] == 0
        assert status["counts"]["Hello"] == 2


async def _fork_with_async_client(socket: Path) -> None:
    into = np.empty((8, BLOCK_BYTES), np.uint8)
    async with AsyncClient(BLOCK_BYTES, socket=socket, timeout_s=20.0) as client:
        await client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        waiting = asyncio.create_task(client.lookup(KEYS))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            try:
                assert asyncio.run(client.load(KEYS, into)) == 8
                assert wrong_blocks(KEYS, into) == 0
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert await asyncio.to_thread(_exit_code, child) == 0
        assert await waiting == {"dram": 8}
        assert await client.load(KEYS, into) == 8
        assert (await client.status())["counts"]["Hello"] == 2


def _fork_async(socket: Path) -> None:
    asyncio.run(_fork_with_async_client(socket))


@pytest.mark.parametrize("work", [_fork_with_client, _fork_async])
def test_a_forked_child_leaves_its_parents_connection_alone(work: object, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        process = process_context().Process(target=work, args=(daemon.socket,))  # type: ignore[arg-type]
        process.start()
        process.join(60.0)
        assert process.exitcode == 0


def test_an_asyncio_client_goes_from_one_event_loop_to_the_next(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        client = AsyncClient(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0)

        async def use() -> None:
            assert await client.lookup(KEYS) == {"dram": 0}

        for _ in range(3):
            asyncio.run(use())
        asyncio.run(client.close())


async def test_a_cancelled_task_gives_back_what_it_had(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        async with AsyncClient(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client:
            blocks = the_bytes(KEYS, BLOCK_BYTES)
            for turn in range(60):
                keys = prompt(("turn", turn), *range(7))
                tasks = [
                    asyncio.create_task(client.store(keys, blocks)),
                    asyncio.create_task(client.load(KEYS, np.empty_like(blocks))),
                ]
                await asyncio.sleep(turn * 5e-5)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            while (await client.status())["transactions"]:  # until late answers are given back
                await asyncio.sleep(0.001)
            assert await client.store(KEYS, blocks) == 8


def test_a_call_that_a_signal_breaks_off_leaves_nothing_in_use(tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    def break_off(*_: object) -> None:
        raise BrokenOffError

    with (
        RunningDaemon(tmp_path) as daemon,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as client,
        Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0) as other,
    ):
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        daemon.pause()
        before = signal.signal(signal.SIGALRM, break_off)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(BrokenOffError):
                client.acquire(KEYS)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            daemon.resume()
        client.lookup(KEYS)
        assert settled(lambda: other.status()["transactions"] == 0)


def test_without_a_file_to_be_had_there_is_no_daemon(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(UnavailableError, match="Too many open files"):
            connect(tmp_path / "daemon.sock")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
