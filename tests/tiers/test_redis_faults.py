"""A server that is killed, hangs, is full, evicts or refuses: misses, within the deadline."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from greencache.errors import TierClosedError, TierError
from greencache.tiers.breaker import BreakerState
from greencache.tiers.redis import Deadlines, RedisTier
from tests.conformance.prompts import check, load, prompt, the_bytes
from tests.tiers.scarce import few_threads, our_threads
from tests.tiers.valkeys import Server, a_server

BLOCK_BYTES = 3000
LIMIT_S = 0.8
QUICK = Deadlines(connect_s=LIMIT_S, lookup_s=LIMIT_S, read_s=LIMIT_S, write_s=LIMIT_S)
SLACK_S = 1.0
"""What a machine that is busy may add."""


@pytest.fixture
def valkey() -> Iterator[Server]:
    with a_server() as server:
        yield server


class Host:
    """A tier, and a clock that goes on only when it is put forward."""

    def __init__(self, valkey: Server, blocks: int = 64, **options: Any) -> None:
        self.skipped_s = 0.0
        options.setdefault("block_bytes", BLOCK_BYTES)
        options.setdefault("deadlines", QUICK)
        options.setdefault("url", valkey.url)
        room = RedisTier(valkey.url, options["block_bytes"], 0).bytes_for(blocks)
        self.tier = RedisTier(capacity_bytes=room, clock=lambda: self.skipped_s, **options)

    async def __aenter__(self) -> Host:
        await self.tier.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tier.close()

    def states(self) -> dict[str, BreakerState]:
        return {what: breaker.state for what, breaker in self.tier.breakers.items()}

    @property
    def failures(self) -> dict[str, int]:
        return dict(self.tier.stats().failures)

    async def put(self, keys: list[bytes]) -> int:
        """Store what can be; how many blocks were committed."""
        room = await self.tier.reserve(keys)
        blocks = the_bytes(room.keys, self.tier.block_bytes)
        if not await self.tier.write(room, blocks):
            return 0
        before = self.tier.stats().blocks - len(room)
        await self.tier.commit(room)
        return self.tier.stats().blocks - before

    async def until_it_works(self, works: Callable[[], Any]) -> None:
        """Let time pass until the breaker has let somebody try."""
        for _ in range(20):
            self.skipped_s += 50
            if await works():
                return
        raise AssertionError("it never worked again")


OPEN, CLOSED = BreakerState.OPEN, BreakerState.CLOSED


async def costs_at_most(limit_s: float, steps: Any) -> Any:
    """What something gives, and that it took no longer than that."""
    began_s = time.monotonic()
    found = await steps
    assert time.monotonic() - began_s < limit_s + SLACK_S
    return found


# Killed and restarted.


async def test_a_server_killed_and_restarted(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    keys = prompt(*range(6))
    async with Host(valkey) as host:
        assert await host.put(keys) == 6
        lease = await host.tier.acquire(keys)
        room = await host.tier.reserve(prompt("x"))
        valkey.kill()
        assert await costs_at_most(LIMIT_S, check(host.tier, lease)) == 0
        assert not await host.tier.write(room, the_bytes(room.keys, BLOCK_BYTES))
        for _ in range(6):
            assert await costs_at_most(LIMIT_S, host.tier.match(keys)) == 0
            assert await costs_at_most(LIMIT_S, host.put(prompt("y"))) == 0
        assert host.states()["lookups"] is OPEN
        assert host.failures["lookup: connection"] == 5, "asked no more after that"
        assert host.tier.breakers["lookups"].refused > 0
        assert caplog.text.count("lookups stop for now") == 1
        valkey.restart()
        assert await host.tier.match(keys) == 0, "it is not asked yet"
        await host.until_it_works(lambda: host.put(keys))
        assert host.states()["lookups"] is CLOSED
        assert caplog.text.count("lookups go on") == 1
        assert await load(host.tier, keys) == 6
        host.tier.release(lease)


async def test_a_restart_between_two_requests_is_not_even_noticed(valkey: Server) -> None:
    """Connections that the server has closed are not used again; what it held is gone."""
    keys = prompt(*range(4))
    async with Host(valkey) as host:
        assert await host.put(keys) == 4
        valkey.kill()
        valkey.restart()
        assert await host.tier.match(keys) == 0
        assert host.tier.stats().blocks == 0
        assert await host.put(keys) == 4
        assert await load(host.tier, keys) == 4
        assert host.failures == {}


async def test_nothing_is_there_from_the_start(valkey: Server) -> None:
    valkey.kill()
    async with Host(valkey) as host:
        assert await host.tier.match(prompt("a")) == 0
        assert await host.put(prompt("a")) == 0
        assert await host.tier.delete(prompt("a")) == 0
        assert await host.tier.resize(0) == 0
        valkey.restart()
        await host.tier.resize(1 << 20)
        assert await host.put(prompt("a")) == 1


# Hung.


@pytest.mark.slow
async def test_a_hung_server_costs_the_deadline_and_then_nothing(valkey: Server) -> None:
    keys = prompt(*range(6))
    async with Host(valkey) as host:
        tier = host.tier
        assert await host.put(keys) == 6
        leases = [await tier.acquire(keys) for _ in range(6)]
        rooms = [await tier.reserve(prompt(name, "x")) for name in "abcdef"]
        valkey.hang()
        lookups = [tier.match(keys) for _ in range(6)]
        assert await costs_at_most(LIMIT_S, asyncio.gather(*lookups)) == [0] * 6
        reads = [tier.read(lease, np.empty((6, BLOCK_BYTES), np.uint8)) for lease in leases]
        assert await costs_at_most(LIMIT_S, asyncio.gather(*reads)) == [0] * 6
        writes = [tier.write(room, the_bytes(room.keys, BLOCK_BYTES)) for room in rooms]
        assert await costs_at_most(LIMIT_S, asyncio.gather(*writes)) == [False] * 6
        assert set(host.states().values()) == {OPEN}
        assert [breaker.opened for breaker in tier.breakers.values()] == [1, 1, 1]
        began_s = time.monotonic()
        for _ in range(50):
            assert await tier.match(keys) == 0
            assert await host.put(prompt("more")) == 0
        assert time.monotonic() - began_s < LIMIT_S, "nobody waits any more"
        valkey.go_on()
        for lease in leases:
            tier.release(lease)
        await host.until_it_works(lambda: host.put(prompt("more")))
        await host.until_it_works(lambda: load(tier, keys))
        assert set(host.states().values()) == {CLOSED}


async def test_many_at_once_wait_no_longer_than_one(valkey: Server) -> None:
    """Those that wait for a thread as well: each kind has its own, with one deadline."""
    async with Host(valkey, connections=2) as host:
        await host.put(prompt(*range(4)))
        lease = await host.tier.acquire(prompt(*range(4)))
        rooms = [await host.tier.reserve(prompt(name)) for name in range(100, 130)]
        valkey.hang()
        work: list[Any] = [
            host.tier.write(room, the_bytes(room.keys, BLOCK_BYTES)) for room in rooms
        ]
        work += [host.tier.read(lease, np.empty((4, BLOCK_BYTES), np.uint8)) for _ in range(30)]
        work += [host.tier.match(prompt(*range(4))) for _ in range(30)]
        found = await costs_at_most(LIMIT_S, asyncio.gather(*work))
        assert not any(found)
        valkey.go_on()
        host.tier.release(lease)


async def test_a_server_that_hangs_in_the_middle_gives_what_came_before(valkey: Server) -> None:
    block_bytes, blocks = 4 << 20, 10
    keys = prompt(*range(blocks))
    slow = Deadlines(connect_s=10, lookup_s=10, read_s=1.0, write_s=20)
    async with Host(valkey, block_bytes=block_bytes, deadlines=slow, connections=1) as host:
        assert await host.put(keys) == blocks
        lease = await host.tier.acquire(keys)
        into = np.zeros((blocks, block_bytes), np.uint8)
        reading = asyncio.create_task(host.tier.read(lease, into))
        while not into[1].any():
            await asyncio.sleep(0)
        valkey.hang()
        good = await reading
        valkey.go_on()
        assert 1 <= good <= blocks
        assert (into[:good] == the_bytes(keys[:good], block_bytes)).all()
        host.tier.release(lease)
        assert await load(host.tier, keys) == blocks, "nothing was lost, nor mixed up"


async def test_closing_waits_for_a_hung_server_no_longer_than_that(valkey: Server) -> None:
    host = Host(valkey)
    await host.tier.open()
    await host.put(prompt(*range(4)))
    lease = await host.tier.acquire(prompt(*range(4)))
    valkey.hang()
    await host.tier.delete(prompt(0))
    host.tier.release(lease)
    await costs_at_most(2 * LIMIT_S, host.tier.close())
    valkey.go_on()


async def test_who_gives_up_closing_leaves_nothing_open(valkey: Server) -> None:
    before = our_threads()
    async with Host(valkey, deadlines=Deadlines(lookup_s=0.1)) as host:
        keys = prompt(*range(4))
        await host.put(keys)
        lease = await host.tier.acquire(keys)
        valkey.hang()  # before it renews them
        await host.tier.delete(keys[:1])
        closing = asyncio.create_task(host.tier.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        host.tier.release(lease)  # and now they leave as well
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert our_threads() <= before
        with pytest.raises(TierClosedError):
            await host.tier.match(keys)
        assert await costs_at_most(0.1, host.tier.close()) is None
        valkey.go_on()


async def test_a_name_server_that_hangs_costs_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Deadlines(connect_s=0.1, lookup_s=0.1, read_s=0.1, write_s=0.1)
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait(10) and [])
    async with RedisTier("redis://cache.example", BLOCK_BYTES, 1 << 20, deadlines=limit) as tier:
        began_s = time.monotonic()
        assert await tier.match(prompt("a")) == 0
        assert time.monotonic() - began_s < 0.1 + SLACK_S
        assert tier.stats().failures == {"lookup: timeout": 1}
    answers.set()


# Full, and evicting.


async def test_a_full_server_takes_no_more_and_is_read_as_before() -> None:
    with a_server(**{"maxmemory": "4mb", "maxmemory-policy": "noeviction"}) as valkey:
        async with Host(valkey, 1000, block_bytes=100_000) as host:
            stored = 0
            while await host.put(prompt(stored)):
                stored += 1
            assert stored > 5
            for name in range(stored, stored + 10):
                assert await host.put(prompt(name)) == 0
            assert host.failures == {"write: OOM": 5}
            assert host.states() == {"lookups": CLOSED, "reads": CLOSED, "writes": OPEN}
            assert host.tier.stats().blocks == stored
            for name in range(stored):
                assert await load(host.tier, prompt(name)) == 1
            valkey.client.flushdb()
            await host.until_it_works(lambda: host.put(prompt("again")))
            assert set(host.states().values()) == {CLOSED}


async def test_an_evicting_server_loses_blocks_and_never_a_byte() -> None:
    with a_server(**{"maxmemory": "6mb", "maxmemory-policy": "allkeys-lru"}) as valkey:
        async with (
            Host(valkey, 1000, block_bytes=100_000) as host,
            Host(valkey, 1000, block_bytes=100_000) as other,
        ):
            found = 0
            for turn in range(60):
                keys = prompt(turn % 7, *range(turn % 11, turn % 11 + 6))
                await host.put(keys)
                found += await load(other.tier, keys)
                found += await load(host.tier, prompt((turn + 3) % 7))
            assert found > 60
            stats = host.tier.stats()
            assert stats.evicted_blocks > 0
            assert valkey.client.info("stats")["evicted_keys"] > 0
            assert not any("lookup" in each or "read" in each for each in stats.failures)


# Refusing.


@pytest.mark.parametrize("threads", [1, 5, 9])
async def test_without_threads_it_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    before = our_threads()
    few_threads(monkeypatch, threads)
    with pytest.raises(TierError, match="no threads"):
        await RedisTier("redis://127.0.0.1:1", BLOCK_BYTES, 1 << 20).open()
    assert our_threads() <= before


async def refused(valkey: Server, what: str, url: str | None = None) -> None:
    """A host is refused until breakers open, and counts it."""
    async with Host(valkey, url=url or valkey.url) as host:
        for _ in range(8):
            assert await host.tier.match(prompt("a")) == 0
            assert await host.put(prompt("a")) == 0
        assert host.failures == {what: 5}
        assert OPEN in host.states().values()


async def test_wrong_credentials(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    valkey.client.acl_setuser("alice", enabled=True, passwords=["+right"])
    await refused(valkey, "lookup: WRONGPASS", f"redis://alice:wr0ng@127.0.0.1:{valkey.port}")
    assert "wr0ng" not in caplog.text


async def test_credentials_are_missing() -> None:
    with a_server() as valkey:
        valkey.client.config_set("requirepass", "secret")
        await refused(valkey, "lookup: NOAUTH")


COMMANDS = ["+strlen", "+pexpire", "+get", "+set", "+rename", "+unlink"]


async def test_a_user_needs_six_commands_on_names_with_the_prefix(valkey: Server) -> None:
    def allow(*commands: str) -> None:
        valkey.client.acl_setuser(
            "alice",
            enabled=True,
            reset=True,
            passwords=["+secret"],
            commands=list(commands),
            keys=["greencache:*"],
        )

    url = f"redis://alice:secret@127.0.0.1:{valkey.port}"
    allow(*COMMANDS)
    keys = prompt(*range(4))
    async with Host(valkey, url=url) as host:
        assert await host.put(keys) == 4
        assert await load(host.tier, keys) == 4
        assert await host.tier.delete(keys[2:3]) == 2
        assert host.failures == {}
    for missing in COMMANDS[2:5]:
        allow(*(each for each in COMMANDS if each != missing))
        async with Host(valkey, url=url) as host:
            await host.put(prompt(missing, "x"))
            await load(host.tier, prompt(0, 1))
            (failure,) = host.failures
            assert failure.endswith(": NOPERM")
    allow(*COMMANDS)
    async with Host(valkey, url=url, prefix="elsewhere") as host:
        assert await host.tier.match(keys) == 0
        assert host.failures == {"lookup: NOPERM": 1}


async def test_a_replica_that_takes_no_writes_is_read(valkey: Server) -> None:
    with a_server() as replica:
        valkey.client.config_set("repl-diskless-sync-delay", 0)
        replica.client.replicaof("127.0.0.1", valkey.port)
        keys = prompt(*range(4))
        async with Host(valkey) as host, Host(replica) as reader:
            await host.put(keys)
            end_s = time.monotonic() + 10
            while await reader.tier.match(keys) < 4 and time.monotonic() < end_s:
                await asyncio.sleep(0.02)
            assert await reader.put(prompt("x")) == 0
            assert reader.failures["write: READONLY"] == 1
            lease = await reader.tier.hold(keys)
            assert await check(reader.tier, lease) == 4
            reader.tier.release(lease)


async def test_a_server_that_is_loading_answers_so() -> None:
    options = {"enable-debug-command": "local", "loading-process-events-interval-bytes": "1024"}
    with a_server(**options) as valkey:
        async with Host(valkey, 4000, block_bytes=200) as host:
            await host.put(prompt(*range(2000)))
            valkey.client.config_set("key-load-delay", "300")  # microseconds
            reload = asyncio.to_thread(valkey.client.execute_command, "DEBUG", "RELOAD")
            reloading = asyncio.create_task(reload)
            while not reloading.done():
                found = await costs_at_most(LIMIT_S, host.tier.match(prompt(0)))
                assert found == 1 or host.failures
                await asyncio.sleep(0.02)
            await reloading
            assert host.failures["lookup: LOADING"] > 0
            await host.until_it_works(lambda: host.tier.match(prompt(0)))


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1\r\n" * 3000])
async def test_whatever_answers_in_its_place_is_no_server(
    caplog: pytest.LogCaptureFixture, says: bytes
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(says)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    impostor = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = impostor.sockets[0].getsockname()[1]
    tier = RedisTier(f"redis://127.0.0.1:{port}", BLOCK_BYTES, 1 << 20, deadlines=QUICK)
    async with tier:
        with caplog.at_level(logging.WARNING):
            for _ in range(6):
                assert await tier.match(prompt("a")) == 0
        assert tier.stats().failures == {"lookup: garbage": 5}
    impostor.close()
    await impostor.wait_closed()
