"""Blocks on a real server: what stands there, who finds it, and what is not believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from greencache.errors import InputError
from greencache.tiers.base import TierLease
from greencache.tiers.redis import Deadlines, RedisTier
from greencache.tiers.servers import RedisUrl
from tests.conformance.prompts import check, load, prompt, settled, store, the_bytes
from tests.tiers.valkeys import Server

BLOCK_BYTES = 3000
PATIENT = Deadlines(connect_s=20, lookup_s=20, read_s=20, write_s=20)


def tier_at(
    valkey: Server, blocks: int = 16, *, block_bytes: int = BLOCK_BYTES, **options: Any
) -> RedisTier:
    options.setdefault("deadlines", PATIENT)
    room = RedisTier(valkey.url, block_bytes, 0).bytes_for(blocks)
    return RedisTier(valkey.url, block_bytes, room, **options)


def name_of(tier: RedisTier, key: bytes) -> bytes:
    return tier._records.names(key)[0]


# What stands there.


async def test_a_record_says_what_it_is_and_has_a_time_to_live(valkey: Server) -> None:
    (key,) = prompt("a")
    async with tier_at(valkey, namespace=b"m", ttl_s=500) as tier:
        await store(tier, [key])
        (name,) = valkey.client.keys()
        assert name.startswith(b"greencache:")
        assert name.endswith(b":{" + key.hex().encode() + b"}")
        record = valkey.client.get(name)
        assert isinstance(record, bytes)
        body, checksum = record[:-16], record[-16:]
        assert body[:4] == b"GCKV"
        assert body[32:48] == key
        assert body[56:] == the_bytes([key], BLOCK_BYTES).tobytes()
        assert xxhash.xxh3_128(body).digest() == checksum
        assert 400_000 < valkey.client.pttl(name) <= 500_000


async def test_the_time_to_live_begins_anew_when_a_prefix_is_asked_for(valkey: Server) -> None:
    keys = prompt("a", "b", "c")
    async with tier_at(valkey, ttl_s=500) as tier:
        await store(tier, keys)
        for key in keys:
            valkey.client.pexpire(name_of(tier, key), 10_000)
        await tier.match(keys)
        tier.release(await tier.hold(keys))
        assert all(valkey.client.pttl(name_of(tier, key)) <= 10_000 for key in keys)
        tier.release(await tier.acquire(keys[:2]))

        def lives(key: bytes) -> int:
            return int(valkey.client.pttl(name_of(tier, key)))

        assert await settled(lambda: min(map(lives, keys[:2])) > 400_000)
        assert lives(keys[2]) <= 10_000


async def test_what_nobody_asks_for_goes_and_is_counted_no_more(valkey: Server) -> None:
    now_s = [0.0]
    keys = prompt("a", "b")
    async with tier_at(valkey, ttl_s=0.2, clock=lambda: now_s[0]) as tier:
        await store(tier, keys)
        assert tier.stats().blocks == 2
        await asyncio.sleep(0.25)
        now_s[0] = 0.25
        assert await tier.match(keys) == 0
        assert tier.stats().blocks == 0
        assert valkey.client.dbsize() == 0


async def test_a_draft_is_seen_by_nobody_and_goes_by_itself(valkey: Server) -> None:
    """A writer that is killed leaves one: it has a time to live of its own."""
    keys = prompt("a", "b")
    async with tier_at(valkey) as tier, tier_at(valkey) as other:
        reservation = await tier.reserve(keys)
        assert await tier.write(reservation, the_bytes(keys, BLOCK_BYTES))
        assert await other.match(keys) == 0
        drafts = valkey.client.keys()
        assert len(drafts) == 2
        assert all(0 < valkey.client.pttl(name) <= 80_000 for name in drafts)
        await tier.commit(reservation)
        assert await load(other, keys) == 2
        assert valkey.client.dbsize() == 2
        aborted = await tier.reserve(prompt("c"))
        assert await tier.write(aborted, the_bytes(prompt("c"), BLOCK_BYTES))
        tier.abort(aborted)
        assert await settled(lambda: valkey.client.dbsize() == 2)


# Who finds it.


async def test_hosts_share_what_is_there_and_namespaces_nothing(valkey: Server) -> None:
    keys = prompt("a", "b", "c")
    async with (
        tier_at(valkey, namespace=b"one") as tier,
        tier_at(valkey, namespace=b"one") as other,
        tier_at(valkey, namespace=b"two") as stranger,
        tier_at(valkey, namespace=b"one", prefix="elsewhere") as away,
        tier_at(valkey, namespace=b"one", block_bytes=BLOCK_BYTES + 1) as larger,
    ):
        await store(tier, keys)
        assert await load(other, keys) == 3
        assert other.stats().blocks == 0, "no share of its own"
        assert await store(other, [*keys, *prompt("z")]) == 1
        for none in (stranger, away, larger):
            assert await none.match(keys) == 0
            assert await store(none, keys) == 3
            assert await load(none, keys) == 3
        assert await load(tier, keys) == 3
        assert valkey.client.dbsize() == 13


async def test_two_hosts_may_write_the_same_at_once(valkey: Server) -> None:
    keys = prompt(*range(6))
    async with tier_at(valkey) as one, tier_at(valkey) as other:
        first, second = await one.reserve(keys), await other.reserve(keys)
        assert len(first) == len(second) == 6
        for tier, room in ((one, first), (other, second)):
            assert await tier.write(room, the_bytes(keys, BLOCK_BYTES))
        await one.commit(first)
        await other.commit(second)
        assert await load(one, keys) == await load(other, keys) == 6
        assert valkey.client.dbsize() == 6


async def test_a_share_is_of_what_a_host_wrote_itself(valkey: Server) -> None:
    async with tier_at(valkey, 4) as one, tier_at(valkey, 4) as other:
        await store(one, prompt("a", "b", "c"))
        assert await store(other, prompt("a", "b", "d", "e")) == 2
        assert await store(other, prompt("x", "y", "z")) == 3
        assert other.stats().evicted_blocks == 1, "e, the last of the oldest prompt"
        assert await other.match(prompt("a", "b", "d", "e")) == 3
        assert await other.resize(0) == 0
        assert await load(other, prompt("a", "b", "c")) == 3, "left to whoever wrote it"
        assert valkey.client.dbsize() == 3


async def test_what_others_wrote_can_be_deleted(valkey: Server) -> None:
    keys = prompt("a", "b", "c")
    async with tier_at(valkey) as one, tier_at(valkey) as other:
        await store(one, keys)
        assert await other.delete(keys[:2]) == 1
        assert await other.delete(keys[:2]) == 0
        assert await load(one, keys) == 1
        assert one.stats().blocks == 1, "what built on it is of no use"
        assert await settled(lambda: valkey.client.dbsize() == 1)
        assert await store(one, keys) == 2


# What is not believed.


async def test_a_gap_ends_what_is_found(valkey: Server) -> None:
    keys = prompt(*range(8))
    async with tier_at(valkey) as tier, tier_at(valkey) as other:
        await store(tier, keys)
        lease = await other.acquire(keys)
        mine = await tier.acquire(keys)
        valkey.client.delete(name_of(tier, keys[3]))
        for reader, held in ((other, lease), (tier, mine)):
            assert await check(reader, held) == 3
            assert await reader.match(keys) == 3
            reader.release(held)
        assert tier.stats().blocks == 3
        assert tier.stats().evicted_blocks == 5
        assert await store(tier, keys) == 5
        assert await load(other, keys) == 8


@pytest.mark.parametrize("block_bytes", [100, 200_000])
@pytest.mark.parametrize("damage", ["cut", "long", "bit", "header", "swapped", "empty", "list"])
async def test_what_does_not_verify_is_dropped_and_counted(
    valkey: Server, damage: str, block_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    keys = prompt(*range(5))
    async with tier_at(valkey, block_bytes=block_bytes) as tier:
        await store(tier, keys)
        lease = await tier.acquire(keys)
        name = name_of(tier, keys[2])
        record = bytearray(valkey.client.get(name) or b"")
        if damage == "bit":
            record[len(record) // 2] ^= 4
        elif damage == "header":
            record[5] ^= 1
        elif damage == "swapped":
            record = bytearray(valkey.client.get(name_of(tier, keys[3])) or b"")
        elif damage == "long":
            record += b"x"
        else:
            del record[-1 if damage == "cut" else 0 :]
        if damage == "list":
            valkey.client.delete(name)
            valkey.client.lpush(name, "a")
        else:
            valkey.client.set(name, bytes(record))
        assert await check(tier, lease) == 2
        tier.release(lease)
        assert tier.stats().failures == {"damaged record": 1}
        assert caplog.text.count("damaged record") == 1
        assert await tier.match(keys) == 2
        assert await settled(lambda: valkey.client.dbsize() == 2)
        assert await store(tier, keys) == 3
        assert await load(tier, keys) == 5
        assert tier.breakers["reads"].opened == 0, "the server did nothing wrong"


async def test_a_record_of_another_length_is_not_even_found(valkey: Server) -> None:
    keys = prompt("a", "b")
    async with tier_at(valkey) as tier:
        await store(tier, keys)
        valkey.client.setrange(name_of(tier, keys[1]), BLOCK_BYTES + 72, "x")
        assert await tier.match(keys) == 1
        assert tier.stats().failures == {"damaged record": 1}
        assert await settled(lambda: valkey.client.dbsize() == 1)


# What it costs.


async def test_long_prompts_are_asked_for_in_parts(valkey: Server) -> None:
    keys = prompt(*range(2500))
    async with tier_at(valkey, 2500, block_bytes=16) as tier:
        assert await store(tier, keys) == 2500
        assert await load(tier, keys) == 2500
        valkey.client.delete(name_of(tier, keys[100]))
        valkey.client.config_resetstat()
        assert await tier.match(keys) == 100
        assert valkey.client.info("commandstats")["cmdstat_strlen"]["calls"] == 1024


@pytest.mark.parametrize(
    ("block_bytes", "asked"), [(1000, 40), (256 << 10, 15), (2 << 20, 2), (32 << 20, 2)]
)
async def test_what_a_server_has_to_keep_for_a_reader_is_bounded(
    block_bytes: int, asked: int
) -> None:
    """It is asked a little ahead: as many records as 4 MiB hold, or two."""
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            heard.extend(data)
        writer.close()
        await writer.wait_closed()

    peer = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
    impatient = Deadlines(read_s=0.3)
    async with RedisTier(url, block_bytes, 0, deadlines=impatient, connections=1) as tier:
        into = [np.empty(block_bytes, np.uint8)] * 40
        assert await tier.read(TierLease(prompt(*range(40)), []), into) == 0
    assert heard.count(b"GET") == asked
    peer.close()
    await peer.wait_closed()


async def test_connections_are_used_again(valkey: Server) -> None:
    keys = prompt(*range(8))
    async with tier_at(valkey, connections=2) as tier:
        for _ in range(20):
            await store(tier, keys)
            await load(tier, keys)
            await tier.delete(keys[:1])
        assert len(valkey.client.client_list()) <= 1 + 4
    end_s = time.monotonic() + 5
    while len(valkey.client.client_list()) > 1 and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    assert len(valkey.client.client_list()) == 1


# URLs.


def test_urls_are_read_and_passwords_not_shown() -> None:
    url = RedisUrl.parse("redis://alice:s%40crt@host:7000/3")
    assert (str(url.address), url.db, url.username, url.password) == (
        "host:7000",
        3,
        "alice",
        "s@crt",
    )
    assert "s@crt" not in repr(url)
    assert str(RedisUrl.parse("valkey://host").address) == "host:6379"
    assert RedisUrl.parse("rediss://:pw@host").tls is not None
    local = RedisUrl.parse("unix://:pw@/run/valkey.sock?db=2")
    assert (str(local.address), local.db, local.password) == ("/run/valkey.sock", 2, "pw")


@pytest.mark.parametrize(
    "url",
    [
        "redis://alice:hunter2#x@host",
        "redis://alice:hunter2/x@host",
        "redis://alice:hunter2\u2100@host",
        "redis://:hunter2@host:port",
        "redis://:hunter2@cache..internal",
    ],
)
def test_no_password_is_in_what_is_said_of_a_wrong_url(url: str) -> None:
    with pytest.raises(InputError, match="not a Redis URL") as refused:
        RedisUrl.parse(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://host",
        "redis://host:port",
        "redis://host?timeout=1",
        "redis://[::1",
        "redis://cache..internal:6379",
        f"redis://{'a' * 70}.internal:6379",
        "redis://cache%00.internal",
        "redis://:\udcff@host",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="Redis URL"):
        RedisTier(url, 10, 0)


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    makers: list[Callable[[], RedisTier]] = [
        lambda: RedisTier("redis://host", 10, 0, ca_file=tmp_path / "ca.pem"),
        lambda: RedisTier("rediss://host", 10, 0, ca_file=tmp_path / "ca.pem"),
        lambda: RedisTier("rediss://host", 10, 0, ca_file=tmp_path / "none.pem"),
        lambda: RedisTier("redis://host/1", 10, 0, cluster=True),
        lambda: RedisTier("unix:///run/x", 10, 0, cluster=True),
        lambda: RedisTier("redis://host", 0, 0),
        lambda: RedisTier("redis://host", 10, -1),
        lambda: RedisTier("redis://host", 10, 0, ttl_s=0),
        lambda: RedisTier("redis://host", 10, 0, connections=0),
    ]
    for make in makers:
        with pytest.raises(InputError):
            make()
