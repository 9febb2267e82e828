"""Clients pin the daemon's memory: none of it is given back meanwhile, all of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.cli.status import _notes
from greencache.client import AsyncClient, Client
from greencache.client.messages import Done, Ended, Goodbye, Lookup, Unpin
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.pinning import PagePinning
from tests.processes import process_context
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.raw import RawClient

BLOCK_BYTES = 128 * 1024
WHOLE = 16 * MIB
SMALL = 4 * MIB
KEYS = prompt("pinned", *range(20))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("daemon"), dram=WHOLE) as found:
        yield found


@pytest.fixture
def watcher(running: RunningDaemon) -> Iterator[Client]:
    """A client that pins nothing; there is all of the memory, and nobody has any of it pinned."""
    with Client(BLOCK_BYTES, socket=running.socket, timeout_s=20.0) as client:
        client.resize(dram=WHOLE)
        assert settled(lambda: dram(client)["backed_bytes"] == WHOLE)
        assert settled(lambda: dram(client)["pinned_bytes"] == 0)
        yield client


@pytest.fixture
def daemon(running: RunningDaemon, watcher: Client) -> RunningDaemon:
    return running


def dram(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.status()["pools"][0]["tiers"]["dram"]
    return found


def taken(daemon: RunningDaemon) -> int:
    """Memory of blocks that the daemon has, as the kernel counts it."""
    found: dict[int, int] = {}
    for link in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:greencache" in str(link.readlink()):
                status = link.stat()
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def pinning(daemon: RunningDaemon, device: PagePinning, **options: Any) -> Client:
    """A client that pins."""
    return pinning_at(daemon.socket, device, **options)


def has_pinned(client: Client, size_bytes: int = WHOLE) -> bool:
    return settled(lambda: client.pinned_bytes == size_bytes)


def stores_and_loads(client: Client, *names: object) -> None:
    keys = prompt(*names)
    client.store(keys, the_bytes(keys, BLOCK_BYTES))
    into = np.zeros((len(keys), BLOCK_BYTES), np.uint8)
    assert client.load(keys, into) == len(keys)
    assert wrong_blocks(keys, into) == 0


def test_an_idle_client_unpins_what_a_smaller_tier_needs_and_pins_it_again(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    with pinning(daemon, device) as client:
        assert has_pinned(client)
        assert dram(watcher)["pinned_bytes"] == WHOLE == taken(daemon)
        assert watcher.status()["pinned"] == [{"pid": os.getpid(), "extents": 1, "asked_back": 0}]
        assert watcher.resize(dram=SMALL) == {"dram": WHOLE - SMALL}
        assert settled(lambda: taken(daemon) == SMALL)
        watcher.resize(dram=WHOLE)
        assert has_pinned(client), "it is offered anew"
        assert taken(daemon) == WHOLE
        stores_and_loads(client, "again", *range(30))
        assert device.sees_the_file()
    assert watcher.status()["pinned"] == []


def test_nothing_is_pinned_before_the_first_copy_and_all_of_it_can_be_had_back(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    with Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0, pinning=device) as client:
        client.lookup([])
        assert dram(watcher)["pinned_bytes"] == WHOLE
        watcher.resize(dram=SMALL)
        assert settled(lambda: taken(daemon) == SMALL)
        assert device.done == []


def test_copies_are_waited_for_and_later_ones_run_unpinned(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    with pinning(daemon, device) as client:
        assert has_pinned(client)
        stores_and_loads(client, "pinned", *range(20))
        entered, found = threading.Event(), list[int]()
        with client.acquire(KEYS[:4]) as lease:
            with lease.in_use():
                watcher.resize(dram=SMALL)
                assert settled(lambda: any_leaving(client))

                def copy() -> None:
                    with lease.in_use():
                        found.append(len(device.addresses))
                        entered.set()

                later = threading.Thread(target=copy)
                later.start()
                for turn in range(5):
                    stores_and_loads(watcher, "others", turn, *range(5))
                assert not entered.is_set()
                assert len(device.addresses) > 0
                assert taken(daemon) == WHOLE
                assert dram(watcher)["unpinning_bytes"] > 0
                views = lease.views()
                assert wrong_blocks(KEYS[:4], np.array(views)) == 0
            later.join(20.0)
            assert found == [0]
        assert settled(lambda: taken(daemon) == SMALL)


def any_leaving(client: Client) -> bool:
    assert client._pins is not None
    return any(pin.leaving for pin in list(client._pins._pins.values()))


def test_two_clients_pin_the_same_and_each_has_to_unpin(
    daemon: RunningDaemon, watcher: Client
) -> None:
    one, other = PagePinning(), PagePinning()
    with pinning(daemon, one) as first, pinning(daemon, other) as second:
        assert has_pinned(first)
        assert has_pinned(second)
        assert dram(watcher)["pinned_bytes"] == WHOLE
        stores_and_loads(first, "pinned", *range(20))
        with second.acquire(KEYS[:4]) as lease, lease.in_use():
            watcher.resize(dram=SMALL)
            assert settled(lambda: one.addresses == [])
            time.sleep(0.05)
            assert taken(daemon) == WHOLE
            assert len(other.addresses) > 0
        assert settled(lambda: taken(daemon) == SMALL)
        assert other.addresses == []


# Clients that end, or do not go on.


def _pins(orders: Connection, path: Path) -> None:
    device = PagePinning()
    with pinning_at(path, device) as client:
        assert has_pinned(client)
        orders.send("pinned")
        if orders.recv() == "hang up":
            assert client._link is not None
            client._link._socket.shutdown(socket.SHUT_RDWR)
            os.kill(os.getpid(), signal.SIGSTOP)
        orders.send(device.sees_the_file())


def pinning_at(path: Path, device: PagePinning, **options: Any) -> Client:
    client = Client(BLOCK_BYTES, socket=path, timeout_s=20.0, pinning=device, **options)
    client.lookup([])
    with client.in_use([]):  # the first copy
        return client


class Process:
    """A client in a process of its own."""

    def __init__(self, daemon: RunningDaemon) -> None:
        context = process_context()
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_pins, args=(theirs, daemon.socket), daemon=True)
        self.process.start()
        theirs.close()
        assert self._ours.poll(30.0), "it pins nothing"
        assert self._ours.recv() == "pinned"

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def tell(self, order: str) -> None:
        self._ours.send(order)

    def end(self) -> bool:
        """End it; whether what it had pinned was what is mapped."""
        self.tell("end")
        assert self._ours.poll(30.0)
        return bool(self._ours.recv())

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self._ours.close()


@pytest.fixture
def other(daemon: RunningDaemon) -> Iterator[Process]:
    process = Process(daemon)
    yield process
    process.close()


def test_what_a_killed_client_had_pinned_is_given_back(
    daemon: RunningDaemon, watcher: Client, other: Process
) -> None:
    other.signal(signal.SIGSTOP)
    watcher.resize(dram=SMALL)
    time.sleep(0.1)
    assert taken(daemon) == WHOLE
    other.signal(signal.SIGKILL)
    assert settled(lambda: taken(daemon) == SMALL)
    assert watcher.status()["pinned"] == []


def test_a_client_that_was_cut_off_and_killed_is_watched_all_the_while(
    daemon: RunningDaemon, watcher: Client, other: Process
) -> None:
    """It holds no lease, so that nothing else of it is known any more."""
    other.tell("hang up")
    assert settled(lambda: watcher.status()["connections"] == 1)
    watcher.resize(dram=SMALL)
    time.sleep(1.1)  # whom nothing is known of is forgotten within a second
    assert taken(daemon) == WHOLE
    other.signal(signal.SIGKILL)
    assert settled(lambda: taken(daemon) == SMALL)


def test_a_stopped_client_keeps_what_it_has_pinned_and_harms_nobody(
    daemon: RunningDaemon, watcher: Client, other: Process
) -> None:
    other.signal(signal.SIGSTOP)
    assert watcher.resize(dram=SMALL) == {"dram": WHOLE - SMALL}
    with pinning(daemon, PagePinning()) as neighbour:
        for turn in range(10):
            stores_and_loads(neighbour, "others", turn, *range(8))
        assert neighbour.pinned_bytes == 0, "nothing is offered while memory is to be given back"
    assert taken(daemon) == WHOLE
    assert dram(watcher)["unpinning_bytes"] == WHOLE - SMALL
    status = watcher.status()
    said = "\n".join(_notes(status))
    assert f"12 MiB are given back once unpinned by process {other.process.pid}" in said
    assert dram(watcher)["failures"] == {}
    other.signal(signal.SIGCONT)
    assert settled(lambda: taken(daemon) == SMALL)
    assert dram(watcher)["unpinning_bytes"] == 0
    assert other.end()


def test_a_lost_connection_unpins_nothing_until_the_client_says_so(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    with pinning(daemon, device) as client:
        assert has_pinned(client)
        stores_and_loads(client, "pinned", *range(20))
        lease = client.acquire(KEYS)
        with lease.in_use():
            assert client._link is not None
            client._link._socket.shutdown(socket.SHUT_RDWR)
            assert settled(lambda: len(client._lost) == 1 and client._link is not None)
            watcher.resize(dram=SMALL)
            time.sleep(0.1)
            assert taken(daemon) == WHOLE
            assert device.addresses != []
        lease.release()
        assert settled(lambda: client._lost == [])
        assert settled(lambda: taken(daemon) == SMALL)
        assert device.addresses == []
    assert watcher.status()["pinned"] == []


# What cannot be pinned, or unpinned.


def test_what_cannot_be_pinned_is_said_once_and_copies_go_on(
    daemon: RunningDaemon, watcher: Client, caplog: pytest.LogCaptureFixture
) -> None:
    device = PagePinning()
    device.fails = True
    with caplog.at_level(logging.WARNING), pinning(daemon, device) as client:
        assert settled(lambda: watcher.status()["pinned"] == [] and failed(client) == 1)
        time.sleep(1.2)  # the daemon offers what is new every second
        assert failed(client) == 1
        assert len([each for each in caplog.records if "cannot be pinned" in each.message]) == 1
        stores_and_loads(client, "unpinned", *range(10))
        watcher.resize(dram=SMALL)
        assert taken(daemon) == SMALL


def failed(client: Client) -> int:
    assert client._pins is not None
    return client._pins.failed


# Ends.


def test_everything_is_unpinned_before_it_is_unmapped(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    device.slow_s = 0.1
    with pinning(daemon, device) as client:
        assert has_pinned(client)
    assert device.addresses == []
    assert [what for what, _ in device.done] == ["pin", "unpin"]
    assert "memfd:greencache" not in Path("/proc/self/maps").read_text()
    with pinning(daemon, device):
        pass  # while it pins
    assert device.addresses == []
    assert watcher.status()["pinned"] == []
    client.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon of which this process may go on to have memory pinned."""
    with RunningDaemon(tmp_path_factory.mktemp("daemon"), dram=WHOLE) as found:
        yield found


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_client_that_is_forgotten_leaves_nothing_pinned(lasting: RunningDaemon) -> None:
    device = PagePinning()
    client = pinning(lasting, device)
    assert has_pinned(client)
    stores_and_loads(client, "pinned", *range(20))
    lease = client.acquire(KEYS[:2])
    view = lease.views()[0]
    del client, lease
    gc.collect()
    assert device.addresses != [], "somebody looks into it"
    assert view.any()
    del view

    def forgotten() -> bool:
        gc.collect()
        return "memfd:greencache" not in Path("/proc/self/maps").read_text()

    assert settled(forgotten)
    assert device.addresses == []


def test_what_cannot_be_unpinned_is_never_said_to_be(
    lasting: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greencache.client.pinning._stuck", [])
    device = PagePinning()
    with Client(BLOCK_BYTES, socket=lasting.socket, timeout_s=20.0) as watcher:
        client = pinning(lasting, device)
        with client:
            assert has_pinned(client)
            device.stuck = True
            watcher.resize(dram=SMALL)
            while failed(client) == 0:
                time.sleep(0.01)
            stores_and_loads(client, "stuck", *range(10))
        assert watcher.status()["counts"].get("Goodbye", 0) == 0
        assert dram(watcher)["unpinning_bytes"] == taken(lasting) - SMALL == WHOLE - SMALL
        del client
        gc.collect()
        assert device.sees_the_file(), "it stays mapped, too"
    device.stuck = False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_unpins_nothing_of_its_parents(daemon: RunningDaemon) -> None:
    device = PagePinning()
    with pinning(daemon, device) as client:
        assert has_pinned(client)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = client.pinned_bytes
                del client
                gc.collect()
                code = 0 if own == 0 and not any(what == "unpin" for what, _ in device.done) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert device.sees_the_file()


async def test_an_asyncio_client_pins_too(daemon: RunningDaemon, watcher: Client) -> None:
    device = PagePinning()

    async def becomes(holds: Callable[[], bool]) -> bool:
        return await asyncio.to_thread(settled, holds)

    client = AsyncClient(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0, pinning=device)
    async with client:
        await client.lookup([])
        with client.in_use([]):
            assert await becomes(lambda: client.pinned_bytes == WHOLE)
        await asyncio.to_thread(lambda: watcher.resize(dram=SMALL))
        assert await becomes(lambda: taken(daemon) == SMALL)
    assert device.addresses == []
    assert watcher.status()["pinned"] == []


# Whoever says what is not so.


def test_what_a_client_says_of_others_pins_means_nothing(
    daemon: RunningDaemon, watcher: Client
) -> None:
    device = PagePinning()
    with pinning(daemon, device) as client, RawClient(daemon.socket) as hostile:
        assert has_pinned(client)
        name = hostile.attach(BLOCK_BYTES)
        with hold(client):
            watcher.resize(dram=SMALL)
            for extents in ([], list(range(1000)), [-1, 2**63 - 1, -(2**63)]):
                assert isinstance(hostile.ask(Unpin, extents=extents), Done)
            assert isinstance(hostile.ask(Ended, sessions=[name + b"x", b"", name]), Done)
            assert isinstance(hostile.ask(Goodbye), Done)
            time.sleep(0.1)
            assert taken(daemon) == WHOLE
        assert settled(lambda: taken(daemon) == SMALL)


@contextlib.contextmanager
def hold(client: Client) -> Iterator[None]:
    """A copy that runs in all extents."""
    assert client._pins is not None
    with client._pins.in_use(list(client._pins._pins)):
        yield


def test_who_never_unpins_keeps_what_it_was_offered_as_long_as_its_session(
    daemon: RunningDaemon, watcher: Client
) -> None:
    """And whoever does not say that it pins is offered nothing."""
    with RawClient(daemon.socket) as silent, RawClient(daemon.socket) as plain:
        silent.attach(BLOCK_BYTES, pins=True)
        plain.attach(BLOCK_BYTES)
        silent.ask(Lookup, keys=b"")
        plain.ask(Lookup, keys=b"")
        assert sum(size for _, _, size in silent.offered) == WHOLE
        assert plain.offered == []
        watcher.resize(dram=SMALL)
        assert taken(daemon) == WHOLE
        silent.ask(Lookup, keys=b"")
        assert silent.asked_back == [silent.offered[0][0]]
        assert isinstance(silent.ask(Unpin, extents=[]), Done)
        assert taken(daemon) == WHOLE
        assert isinstance(silent.ask(Goodbye), Done)
        assert settled(lambda: taken(daemon) == SMALL)
