"""What both clients do, with a daemon that is another process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.client import Seen
from greencache.errors import BlockStateError, InputError, RefusedError, UnavailableError
from tests.client.clients import KINDS, Face, open_client
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.service.daemons import MIB, RunningDaemon

BLOCK_BYTES = 64 * 1024
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def client_of(kind: str, daemon: RunningDaemon, **options: Any) -> Face:
    return open_client(kind, BLOCK_BYTES, **{"socket": daemon.socket, "timeout_s": 10.0, **options})


def new_prompt(blocks: int) -> list[bytes]:
    return prompt(secrets.token_hex(8), *range(blocks - 1))


def buffers(blocks: int, block_bytes: int = BLOCK_BYTES) -> NDArray[np.uint8]:
    return np.full((blocks, block_bytes), 0xA5, np.uint8)


async def transactions(client: Face) -> int:
    """Leases and reservations that the daemon keeps for anybody."""
    return int((await client.status())["transactions"])


@both
async def test_what_was_stored_is_loaded(kind: str, daemon: RunningDaemon) -> None:
    keys = new_prompt(9)
    async with client_of(kind, daemon) as client:
        assert await client.lookup(keys) == {"dram": 0}
        assert await client.load(keys, buffers(9)) == 0
        assert await client.store(keys, the_bytes(keys, BLOCK_BYTES)) == 9
        assert await client.store(keys, the_bytes(keys, BLOCK_BYTES)) == 0, "it is there already"
        assert await client.lookup(keys) == {"dram": 9}
        into = buffers(9)
        assert await client.load(keys, into) == 9
        assert wrong_blocks(keys, into) == 0
        assert await transactions(client) == 0


@both
async def test_large_copies_are_split_and_buffers_may_be_apart(kind: str, tmp_path: Path) -> None:
    block_bytes = 3 * MIB
    keys = new_prompt(9)
    blocks = the_bytes(keys, block_bytes)
    with RunningDaemon(tmp_path, dram=128 * MIB) as daemon:
        async with open_client(kind, block_bytes, socket=daemon.socket, timeout_s=10.0) as client:
            assert await client.store(keys[:4], list(blocks[:4])) == 4
            assert await client.store(keys, blocks) == 5
            into = [buffers(1, block_bytes)[0] for _ in keys]
            assert await client.load(keys, into) == 9
            assert wrong_blocks(keys, np.stack(into)) == 0
            whole = buffers(9, block_bytes)
            assert await client.load(keys, whole) == 9
            assert wrong_blocks(keys, whole) == 0


@both
async def test_what_the_engine_has_already_is_not_copied(kind: str, daemon: RunningDaemon) -> None:
    keys = new_prompt(6)
    async with client_of(kind, daemon) as client:
        assert await client.store(keys, the_bytes(keys[2:], BLOCK_BYTES), first=2) == 0
        assert await client.lookup(keys) == {"dram": 0}, "a block alone is no prefix"
        await client.store(keys[:4], the_bytes(keys[:4], BLOCK_BYTES))
        assert await client.store(keys, the_bytes(keys[2:], BLOCK_BYTES), first=2) == 2
        into = buffers(3)
        assert await client.load(keys, into, first=3) == 3
        assert wrong_blocks(keys[3:], into) == 0
        assert await client.load(keys, into[:2], first=3) == 2
        assert await client.load(keys[:5], into[:0], first=5) == 0


@both
async def test_a_lease_is_read_where_it_stands(kind: str, daemon: RunningDaemon) -> None:
    keys = new_prompt(5)
    async with client_of(kind, daemon) as client:
        await client.store(keys, the_bytes(keys, BLOCK_BYTES))
        with await client.acquire([*keys, b"not stored here!"], held=1) as lease:
            assert len(lease) == lease.ready == 5
            assert lease.found == {"dram": 4}
            views = lease.views()
            assert wrong_blocks(keys, np.stack(views)) == 0
            with pytest.raises(ValueError, match="read-only"):
                views[0][:] = 0
            assert await client.fetch(lease) == 5
            assert await transactions(client) == 1
        assert await transactions(client) == 0
        with pytest.raises(BlockStateError):
            client.release(lease)
        with pytest.raises(BlockStateError):
            lease.views()
        with await client.acquire(new_prompt(2)) as nothing:
            assert (len(nothing), nothing.ready, nothing.views()) == (0, 0, [])


@both
async def test_a_reservation_is_written_where_it_stands(kind: str, daemon: RunningDaemon) -> None:
    keys = new_prompt(4)
    async with client_of(kind, daemon) as client:
        reservation = await client.reserve(keys)
        assert (len(reservation), reservation.first) == (4, 0)
        assert await client.lookup(keys) == {"dram": 0}
        with await client.reserve(keys) as other:
            assert len(other) == 0, "somebody else is writing them"
            assert not await client.commit(other)
        for view, block in zip(reservation.views(), the_bytes(keys, BLOCK_BYTES), strict=True):
            np.copyto(view, block)
        assert await client.commit(reservation)
        into = buffers(4)
        assert await client.load(keys, into) == 4
        assert wrong_blocks(keys, into) == 0
        with pytest.raises(BlockStateError):
            await client.commit(reservation)
        with pytest.raises(BlockStateError):
            client.abort(reservation)


@both
async def test_what_was_not_committed_is_not_found(kind: str, daemon: RunningDaemon) -> None:
    keys = new_prompt(3)
    async with client_of(kind, daemon) as client:
        with await client.reserve(keys) as reservation:
            reservation.views()[0][:] = 1
        assert await client.lookup(keys) == {"dram": 0}
        assert await transactions(client) == 0
        again = await client.reserve(keys)
        assert len(again) == 3, "the room is free again"
        client.abort(again)


@both
async def test_ranks_write_their_shards_of_what_one_reserved(
    kind: str, daemon: RunningDaemon
) -> None:
    keys, group = new_prompt(3), secrets.token_bytes(16)
    shared = {"group": group, "shards": 2}
    blocks = the_bytes(keys, BLOCK_BYTES)
    halves = blocks.reshape(3, 2, BLOCK_BYTES // 2)
    async with (
        client_of(kind, daemon, **shared) as scheduler,
        client_of(kind, daemon, **shared, shard=0) as first,
        client_of(kind, daemon, **shared, shard=1) as second,
    ):
        reservation = await scheduler.reserve(keys)
        for rank, (client, last) in enumerate([(first, False), (second, True)]):
            mine = await client.join_reservation(reservation.number)
            for view, half in zip(mine.views(), halves[:, rank], strict=True):
                np.copyto(view, half)
            assert await scheduler.lookup(keys) == {"dram": 0}, "a shard is missing"
            assert await client.commit(mine) is last
        assert await scheduler.lookup(keys) == {"dram": 3}
        lease = await scheduler.acquire(keys)
        with await second.join_lease(lease.number) as joined:
            assert (np.stack(joined.views()) == halves[:, 1]).all()
        assert await transactions(second) == 1, "only who asked for a lease ends it"
        lease.release()
        part = np.empty((3, BLOCK_BYTES // 2), np.uint8)
        assert await first.load(keys, part) == 3
        assert (part == halves[:, 0]).all()
        with pytest.raises(InputError):
            await first.store(new_prompt(3), part)


@both
async def test_blocks_are_deleted_prefetched_flushed_and_resized(kind: str, tmp_path: Path) -> None:
    keys = new_prompt(6)
    with RunningDaemon(tmp_path, ssd_dir=tmp_path / "ssd", ssd=64 * MIB) as daemon:
        async with client_of(kind, daemon) as client:
            await client.store(keys, the_bytes(keys, BLOCK_BYTES))
            await client.flush()
            assert await client.lookup(keys) == {"dram": 6, "ssd": 6}
            await client.resize(dram=4 * BLOCK_BYTES)
            await client.resize(dram=32 * MIB)
            held = (await client.lookup(keys))["dram"]
            with await client.acquire(keys) as lease:
                assert (lease.blocks, lease.ready) == (6, held)
                assert await client.fetch(lease) == 6
                assert wrong_blocks(keys, np.stack(lease.views())) == 0
            assert await client.prefetch(keys) == 6
            assert await client.delete(keys[:4]) == 3
            assert await client.lookup(keys) == {"dram": 3, "ssd": 3}
            with pytest.raises(InputError, match="tier"):
                await client.resize(nvme=1)


@both
async def test_the_daemon_is_told_of_requests_and_tells_of_itself(
    kind: str, daemon: RunningDaemon
) -> None:
    async with client_of(kind, daemon, name="an engine") as client:
        await client.observe([Seen(arrived_s=1.0, prompt_tokens=9, output_tokens=3)])
        status = await client.status()
        assert status["schema"] == "greencache.status/1"
        assert status["pid"] == daemon.pid


@both
async def test_many_are_under_way_at_once(kind: str, daemon: RunningDaemon) -> None:
    prompts = [new_prompt(1 + number % 7) for number in range(40)]
    async with client_of(kind, daemon) as client:

        async def work(keys: list[bytes]) -> None:
            assert await client.store(keys, the_bytes(keys, BLOCK_BYTES)) == len(keys)
            into = buffers(len(keys))
            assert await client.load(keys, into) == len(keys)
            assert wrong_blocks(keys, into) == 0

        await asyncio.gather(*map(work, prompts))
        assert await transactions(client) == 0


@both
async def test_what_cannot_be_used_is_refused_before_it_is_asked(
    kind: str, daemon: RunningDaemon
) -> None:
    keys = new_prompt(2)
    async with client_of(kind, daemon) as client:
        with pytest.raises(InputError, match="buffers"):
            await client.store(keys, buffers(3))
        with pytest.raises(InputError, match="buffers"):
            await client.load(keys, buffers(3))
        with pytest.raises(InputError, match="C-contiguous"):
            await client.load(keys, np.empty((2, BLOCK_BYTES - 1), np.uint8))
        with pytest.raises(InputError, match="16 bytes"):
            await client.lookup([b"short"])
        with pytest.raises(InputError, match="65,536"):
            await client.lookup([bytes(16)] * 65_537)
        with pytest.raises(InputError):
            await client.acquire(keys, held=3)
        assert await client.lookup(keys) == {"dram": 0}, "the connection goes on"
    with pytest.raises(InputError, match="shards"):
        client_of(kind, daemon, shards=3)
    async with open_client(kind, 1 << 40, socket=daemon.socket) as client:
        with pytest.raises(RefusedError, match="does not fit"):
            await client.lookup(keys)


@both
async def test_a_closed_client_asks_nothing(kind: str, daemon: RunningDaemon) -> None:
    client = client_of(kind, daemon)
    await client.lookup(new_prompt(1))
    await client.close()
    await client.close()
    with pytest.raises(UnavailableError, match="closed"):
        await client.lookup(new_prompt(1))


@both
async def test_without_a_daemon_every_call_fails_at_once(kind: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with open_client(kind, BLOCK_BYTES, socket=tmp_path / "none.sock") as client:
        began_s = loop.time()
        for _ in range(100):
            with pytest.raises(UnavailableError, match="greencache serve"):
                await client.load(new_prompt(1), buffers(1))
        assert loop.time() - began_s < 5.0
