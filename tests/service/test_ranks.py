"""The processes of one engine: shards of a block are committed apart, and found only together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from greencache.client import Client
from greencache.client.messages import (
    Acquire,
    Commit,
    Committed,
    Done,
    Ended,
    Failed,
    Goodbye,
    Join,
    Leased,
    Release,
    Reserve,
    Reserved,
    Welcome,
    join_keys,
)
from tests.conformance.prompts import prompt, the_bytes
from tests.processes import process_context
from tests.service.daemons import MIB, RunningDaemon, settled
from tests.service.raw import RawClient

BLOCK_BYTES = 64 * 1024
SHARDS = 2
KEYS = prompt("ranks", *range(5))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, dram=8 * MIB) as running:
        yield running


class Rank:
    """A process that writes its shard of what it is told to join, and commits when told to."""

    def __init__(self, daemon: RunningDaemon, group: bytes, shard: int) -> None:
        context = process_context()
        self._ours, theirs = context.Pipe()
        self.process = context.Process(
            target=_rank, args=(theirs, daemon.socket, group, shard), daemon=True
        )
        self.process.start()
        theirs.close()
        assert self.hear() == "attached"

    def tell(self, *words: object) -> None:
        self._ours.send(words)

    def hear(self) -> object:
        assert self._ours.poll(30.0), "the rank says nothing"
        return self._ours.recv()

    def ask(self, *words: object) -> object:
        self.tell(*words)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._ours.close()


def _rank(orders: Connection, socket: Path, group: bytes, shard: int) -> None:
    with Client(
        BLOCK_BYTES, socket=socket, group=group, shards=SHARDS, shard=shard, timeout_s=20.0
    ) as client:
        client.lookup([])
        orders.send("attached")
        while True:
            match orders.recv():
                case ("write", number):
                    reservation = client.join_reservation(number)
                    parts = the_bytes(KEYS, BLOCK_BYTES).reshape(len(KEYS), SHARDS, -1)[:, shard]
                    for view, part in zip(reservation.views(), parts, strict=True):
                        view[:] = part
                    orders.send("written")
                case ("commit",):
                    orders.send(client.commit(reservation))
                case ("abort",):
                    client.abort(reservation)
                    client.lookup([])  # which the daemon answers after it
                    orders.send("aborted")
                case ("end",):
                    break
    orders.send("ended")


class Engine:
    """A scheduler, in this process, and two ranks in others."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.group = secrets.token_bytes(16)
        self.scheduler = RawClient(daemon.socket)
        self.scheduler.attach(BLOCK_BYTES, group=self.group, shards=SHARDS)
        self.ranks = [Rank(daemon, self.group, shard) for shard in range(SHARDS)]

    def reserve(self) -> int:
        answer = self.scheduler.ask(Reserve, keys=join_keys(KEYS))
        assert isinstance(answer, Reserved)
        return answer.reservation

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.scheduler.close()
        for rank in self.ranks:
            if rank.process.is_alive():
                rank.kill()


def looker(daemon: RunningDaemon) -> Client:
    return Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0)


def test_blocks_are_found_when_the_last_shard_is_in(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, looker(daemon) as client:
        number = engine.reserve()
        for rank in engine.ranks:
            assert rank.ask("write", number) == "written"
        assert client.lookup(KEYS) == {"dram": 0}
        assert engine.ranks[1].ask("commit") is False
        assert client.lookup(KEYS) == {"dram": 0}
        assert engine.ranks[0].ask("commit") is True
        assert client.lookup(KEYS) == {"dram": len(KEYS)}
        into = np.empty((len(KEYS), BLOCK_BYTES), np.uint8)
        assert client.load(KEYS, into) == len(KEYS)
        assert (into == the_bytes(KEYS, BLOCK_BYTES)).all()
        assert client.status()["transactions"] == 0


def test_a_rank_that_dies_dooms_what_it_has_not_committed(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, looker(daemon) as client:
        number = engine.reserve()
        for rank in engine.ranks:
            assert rank.ask("write", number) == "written"
        engine.ranks[1].kill()
        assert settled(lambda: client.status()["processes"] == 2)
        assert client.status()["transactions"] == 1, "the other rank may still be writing"
        assert engine.ranks[0].ask("commit") is False
        assert client.status()["transactions"] == 0
        assert client.lookup(KEYS) == {"dram": 0}
        assert engine.reserve() == 0, "nothing can be stored without this rank"
        engine.ranks[1] = Rank(daemon, engine.group, 1)
        number = engine.reserve()
        for rank in engine.ranks:
            assert rank.ask("write", number) == "written"
        assert [rank.ask("commit") for rank in engine.ranks] == [False, True]
        assert client.lookup(KEYS) == {"dram": len(KEYS)}


def test_a_rank_that_dies_after_its_commit_harms_nothing(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, looker(daemon) as client:
        number = engine.reserve()
        for rank in engine.ranks:
            assert rank.ask("write", number) == "written"
        assert engine.ranks[1].ask("commit") is False
        engine.ranks[1].kill()
        assert settled(lambda: client.status()["processes"] == 2)
        assert engine.ranks[0].ask("commit") is True
        assert client.lookup(KEYS) == {"dram": len(KEYS)}


def test_a_rank_that_gives_up_dooms_the_others(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, looker(daemon) as client:
        number = engine.reserve()
        for rank in engine.ranks:
            assert rank.ask("write", number) == "written"
        assert engine.ranks[0].ask("abort") == "aborted"
        assert client.status()["transactions"] == 1
        assert engine.ranks[1].ask("commit") is False
        assert client.status()["transactions"] == 0
        assert client.lookup(KEYS) == {"dram": 0}


def test_what_an_engine_holds_ends_with_the_last_of_its_processes(daemon: RunningDaemon) -> None:
    """Its scheduler goes first, and ranks may still be writing and reading."""
    with looker(daemon) as client:
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        context = process_context()
        ours, theirs = context.Pipe()
        group = secrets.token_bytes(16)
        scheduler = context.Process(target=_holds, args=(theirs, daemon.socket, group))
        scheduler.start()
        assert ours.poll(30.0)
        assert ours.recv() == "holds"
        ranks = [Rank(daemon, group, shard) for shard in range(SHARDS)]
        scheduler.kill()
        scheduler.join()
        assert settled(lambda: client.status()["processes"] == 3)
        assert client.status()["transactions"] == 2
        ranks[0].kill()
        assert settled(lambda: client.status()["processes"] == 2)
        assert client.status()["transactions"] == 2
        assert ranks[1].ask("end") == "ended"
        assert settled(lambda: client.status()["transactions"] == 0)
        ranks[1].kill()


def _holds(orders: Connection, socket: Path, group: bytes) -> None:
    with RawClient(socket) as client:
        client.attach(BLOCK_BYTES, group=group, shards=SHARDS)
        lease = client.ask(Acquire, keys=join_keys(KEYS))
        assert lease.blocks == len(KEYS)
        assert client.ask(Reserve, keys=join_keys([*KEYS, b"another block's "])).reservation
        orders.send("holds")
        orders.recv()


def test_another_process_cannot_be_the_same_rank(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, RawClient(daemon.socket) as other:
        answer = other.hello(BLOCK_BYTES, group=engine.group, shards=SHARDS, shard=1)
        assert isinstance(answer, Failed)
        assert answer.kind == "refused"
        engine.ranks[1].kill()
        with RawClient(daemon.socket) as successor:
            welcome = successor.hello(BLOCK_BYTES, group=engine.group, shards=SHARDS, shard=1)
            assert isinstance(welcome, Welcome)


def test_a_lost_connection_ends_nothing_but_its_client_can(daemon: RunningDaemon) -> None:
    with looker(daemon) as client, RawClient(daemon.socket) as second:
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        with RawClient(daemon.socket) as first:
            session = first.attach(BLOCK_BYTES)
            lease = first.ask(Acquire, keys=join_keys(KEYS))
            assert first.ask(Reserve, keys=join_keys(prompt("lost"))).reservation
            views = first.views(lease.places, BLOCK_BYTES)
        connections = client.status()["connections"]
        second.attach(BLOCK_BYTES)
        assert client.status()["connections"] <= connections + 1
        assert client.status()["transactions"] == 2
        assert (np.stack(views) == the_bytes(KEYS, BLOCK_BYTES)).all()
        assert isinstance(second.ask(Release, leases=[lease.lease]), Failed), "another group's"
        assert isinstance(second.ask(Join, lease=lease.lease), Failed)
        assert isinstance(second.ask(Ended, sessions=[b"an unknown one", session]), Done)
        assert client.status()["transactions"] == 0


def test_goodbye_ends_what_is_left(daemon: RunningDaemon) -> None:
    with looker(daemon) as client, RawClient(daemon.socket) as leaving:
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        leaving.attach(BLOCK_BYTES)
        assert leaving.ask(Acquire, keys=join_keys(KEYS)).lease
        assert client.status()["transactions"] == 1
        assert isinstance(leaving.ask(Goodbye), Done)
        assert client.status()["transactions"] == 0
        assert isinstance(leaving.ask(Acquire, keys=join_keys(KEYS)), Failed)


def test_who_joins_a_lease_reads_it(daemon: RunningDaemon) -> None:
    with Engine(daemon) as engine, looker(daemon) as client:
        client.store(KEYS, the_bytes(KEYS, BLOCK_BYTES))
        lease = engine.scheduler.ask(Acquire, keys=join_keys(KEYS))
        with RawClient(daemon.socket) as reader:
            reader.attach(BLOCK_BYTES, group=engine.group, shards=SHARDS)
            joined = reader.ask(Join, lease=lease.lease)
            assert isinstance(joined, Leased)
            views = reader.views(joined.places, BLOCK_BYTES)
            assert (np.stack(views) == the_bytes(KEYS, BLOCK_BYTES)).all()
            assert isinstance(reader.ask(Join), Failed)
        assert isinstance(engine.scheduler.ask(Release, leases=[lease.lease]), Done)
        number = engine.reserve()
        assert number == 0, "all of it is stored"


def test_shards_are_committed_once(daemon: RunningDaemon) -> None:
    with RawClient(daemon.socket) as client:
        client.attach(BLOCK_BYTES, group=secrets.token_bytes(16), shards=3)
        number = client.ask(Reserve, keys=join_keys(KEYS)).reservation
        assert client.ask(Commit, reservation=number, shard=0) == Committed(3, False)
        for shard in (0, 3, -1):
            assert isinstance(client.ask(Commit, reservation=number, shard=shard), Failed)
        assert client.ask(Commit, reservation=number, shard=None).visible
