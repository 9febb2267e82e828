"""A real cluster of three nodes: blocks of a prompt on all of them, a node lost, slots moved."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from greencache.tiers.redis import Deadlines, RedisTier
from tests.conformance.prompts import load, prompt, store
from tests.tiers.valkeys import Server, a_cluster

BLOCK_BYTES = 3000
LIMIT_S = 1.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Server]]:
    with a_cluster(3) as servers:
        yield servers


def tier_at(node: Server, blocks: int = 64, **options: Any) -> RedisTier:
    options.setdefault("deadlines", Deadlines(20, 20, 20, 20))
    room = RedisTier(node.url, BLOCK_BYTES, 0).bytes_for(blocks)
    return RedisTier(node.url, BLOCK_BYTES, room, cluster=True, **options)


async def test_blocks_of_a_prompt_are_spread_and_come_back(nodes: list[Server]) -> None:
    keys = prompt(*range(40))
    async with tier_at(nodes[0]) as tier, tier_at(nodes[2]) as other:
        assert await store(tier, keys) == 40
        held = [node.client.dbsize() for node in nodes]
        assert sum(held) == 40
        assert min(held) > 3
        assert await load(tier, keys) == await load(other, keys) == 40
        await store(tier, prompt("x", *range(30)))
        assert await load(tier, keys) == 33, "evicted on all nodes, from the end"
        assert await tier.resize(0) == 0
        assert [node.client.dbsize() for node in nodes] == [0, 0, 0]
        assert tier.stats().failures == {}


async def test_a_user_of_a_cluster_needs_its_slots_as_well(nodes: list[Server]) -> None:
    keys = prompt(*range(12))
    commands = ["+strlen", "+pexpire", "+get", "+set", "+rename", "+unlink"]
    for node in nodes:
        node.client.acl_setuser(
            "alice",
            enabled=True,
            passwords=["+secret"],
            commands=[*commands, "+cluster|slots"],
            keys=["greencache:*"],
        )
    url = f"redis://alice:secret@127.0.0.1:{nodes[0].port}"
    patient = Deadlines(20, 20, 20, 20)
    async with RedisTier(url, BLOCK_BYTES, 1 << 20, cluster=True, deadlines=patient) as tier:
        assert await store(tier, keys) == 12
        assert await load(tier, keys) == 12
        await tier.resize(0)
        assert tier.stats().failures == {}
    for node in nodes:
        node.client.acl_setuser("alice", enabled=True, commands=["-cluster|slots"])
    async with RedisTier(url, BLOCK_BYTES, 1 << 20, cluster=True, deadlines=patient) as tier:
        assert await tier.match(keys) == 0
        assert tier.stats().failures == {"lookup: NOPERM": 1}


async def test_a_gap_on_one_node_ends_the_prefix(nodes: list[Server]) -> None:
    keys = prompt(*range(20))
    async with tier_at(nodes[1]) as tier:
        await store(tier, keys)
        name = tier._records.names(keys[7])[0]
        assert sum(int(node.client.delete(name)) for node in nodes if _has(node, name)) == 1
        assert await load(tier, keys) == 7
        assert await store(tier, keys) == 13
        await tier.resize(0)


def _has(node: Server, name: bytes) -> bool:
    ranges = node.client.execute_command("CLUSTER SLOTS")
    slot = key_slot(name)
    return any(first <= slot <= last and at[1] == node.port for first, last, at in ranges)


async def test_slots_that_move_are_followed(nodes: list[Server]) -> None:
    """Clients learn of it by being told."""
    keys = prompt(*range(30))
    source, target = nodes[0], nodes[1]
    async with tier_at(target) as tier:
        await store(tier, keys)
        names = [tier._records.names(key)[0] for key in keys]
        moving = {key_slot(name) for name in names if _has(source, name)}

        def move(to: Server) -> None:
            owner = to.client.execute_command("CLUSTER MYID")
            for node in (to, *[each for each in nodes if each is not to]):
                for slot in moving:
                    node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", owner)

        source.client.flushall()
        move(target)
        found = await load(tier, keys)
        assert found < 30
        assert await store(tier, keys) == 30 - found
        assert await load(tier, keys) == 30
        assert tier.stats().failures == {}
        assert source.client.dbsize() == 0
        await tier.resize(0)
        move(source)


async def test_a_node_that_hangs_is_a_miss_within_the_deadline(nodes: list[Server]) -> None:
    keys = prompt(*range(30))
    limit = Deadlines(LIMIT_S, LIMIT_S, LIMIT_S, LIMIT_S)
    async with tier_at(nodes[0], deadlines=limit) as tier:
        await store(tier, keys)
        nodes[2].hang()
        try:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            found = await load(tier, keys)
            assert found < 30
            assert loop.time() - began_s < 2 * LIMIT_S + 1.0, "to look it up, and to read"
            assert any("timeout" in cause for cause in tier.stats().failures)
        finally:
            nodes[2].go_on()
        end_s = loop.time() + 10
        while await load(tier, keys) < 30 and loop.time() < end_s:
            await asyncio.sleep(0.05)
        assert await load(tier, keys) == 30
        await tier.resize(0)


async def test_a_server_that_is_no_node_is_refused_and_a_node_by_itself_too(
    nodes: list[Server],
) -> None:
    async with RedisTier(nodes[0].url, BLOCK_BYTES, 1 << 20) as tier:
        for name in range(10):  # as if it were alone: it says where else to ask
            await store(tier, prompt(name)) if len(await tier.hold(prompt(name))) else None
        assert set(tier.stats().failures) == {"lookup: MOVED"}


HERE = b"127.0.0.1"


@pytest.mark.parametrize(
    ("host", "port", "reply"),
    [
        (b"cache..internal", 6379, b""),
        (b"cache\0.internal", 6379, b""),
        (b"\xff", 6379, b""),
        (HERE, -1, b""),
        (HERE, 2**16, b""),
        (HERE, None, b"-MOVED 5 cache..internal:6379\r\n"),
        (HERE, None, b"-MOVED 5 127.0.0.1:65536\r\n"),
        (HERE, None, b"-MOVED %b 127.0.0.1:6379\r\n" % (b"5" * 5000)),
    ],
)
async def test_servers_that_cannot_be_are_garbage(
    host: bytes, port: int | None, reply: bytes
) -> None:
    """Whether a node says that they have its slots, or that a slot has moved there."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(1000):
            whole = (len(host), host, port or writer.get_extra_info("sockname")[1])
            slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$%d\r\n%b\r\n:%d\r\n" % whole
            writer.write(slots if b"SLOTS" in asked else reply)
        writer.close()

    node = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{node.sockets[0].getsockname()[1]}"
    async with node, RedisTier(url, BLOCK_BYTES, 1 << 20, cluster=True) as tier:
        assert await tier.match(prompt("a")) == 0
        assert tier.stats().failures == {"lookup: garbage": 1}
