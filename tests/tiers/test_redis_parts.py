"""Blocks of several records: all of them, by one writer, or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from greencache.tiers.records import WRITER_BYTES
from tests.conformance.prompts import check, load, prompt, settled, store, the_bytes
from tests.tiers.test_redis import tier_at
from tests.tiers.valkeys import Server

MIB = 2**20
PARTS = 4
BLOCK_BYTES = 3 * 1000 + 1


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greencache.tiers.records.PART_BYTES", 1000)


async def test_large_blocks_are_stored_in_parts_and_found_whole(valkey: Server) -> None:
    keys, size = prompt("a", "b"), 9 * MIB + 5
    async with (
        tier_at(valkey, block_bytes=size) as tier,
        tier_at(valkey, block_bytes=size) as other,
    ):
        assert await store(tier, keys) == 2
        assert valkey.client.dbsize() == 2 * 3
        assert max(map(valkey.client.strlen, valkey.client.keys())) < 4 * MIB + 100
        assert await load(other, keys) == 2
        assert await tier.delete(keys[:1]) == 2
        assert await settled(lambda: valkey.client.dbsize() == 0)


def _truncate(valkey: Server, names: list[bytes]) -> None:
    valkey.client.set(names[2], valkey.client.get(names[2])[:-1])


def _spoil(valkey: Server, names: list[bytes]) -> None:
    valkey.client.setrange(names[3], 60, b"!?")


def _swap(valkey: Server, names: list[bytes]) -> None:
    first, second = (valkey.client.get(name) for name in names[1:3])
    valkey.client.set(names[1], second)
    valkey.client.set(names[2], first)


def _other_type(valkey: Server, names: list[bytes]) -> None:
    valkey.client.delete(names[1])
    valkey.client.rpush(names[1], b"x")


@pytest.mark.parametrize("harm", [_truncate, _spoil, _swap, _other_type])
async def test_a_block_with_a_bad_part_is_missed_and_goes(
    valkey: Server, small_parts: None, harm: Callable[[Server, list[bytes]], None]
) -> None:
    keys = prompt("a", "b", "c")
    async with tier_at(valkey, block_bytes=BLOCK_BYTES) as tier:
        assert await store(tier, keys) == 3
        names = tier._records.names(keys[1])
        assert len(names) == PARTS
        harm(valkey, names)
        assert await load(tier, keys) == 1
        assert tier.stats().failures == {"damaged record": 1}
        assert await settled(lambda: valkey.client.dbsize() == PARTS)
        assert await store(tier, keys) == 2
        assert await load(tier, keys) == 3


@pytest.mark.parametrize("part", range(PARTS))
async def test_a_block_of_which_the_server_evicted_a_part_is_missed(
    valkey: Server, small_parts: None, part: int
) -> None:
    keys = prompt("a", "b")
    async with tier_at(valkey, block_bytes=BLOCK_BYTES) as tier:
        assert await store(tier, keys) == 2
        valkey.client.delete(tier._records.names(keys[1])[part])
        assert await tier.match(keys) == 1
        assert await settled(lambda: valkey.client.dbsize() == PARTS), "its other parts go"
        assert await store(tier, keys) == 1
        assert await load(tier, keys) == 2


async def test_a_part_that_goes_between_lookup_and_read_ends_the_prefix(
    valkey: Server, small_parts: None
) -> None:
    keys = prompt("a", "b")
    async with tier_at(valkey, block_bytes=BLOCK_BYTES) as tier:
        await store(tier, keys)
        lease = await tier.acquire(keys)
        valkey.client.delete(tier._records.names(keys[1])[2])
        assert await check(tier, lease) == 1
        tier.release(lease)
        assert await tier.match(keys) == 1


async def test_parts_of_two_writers_are_no_block(valkey: Server, small_parts: None) -> None:
    """Two hosts computed the same block, not to the same last bit, and committed it at once."""
    (key,) = prompt("a")
    mine = the_bytes([key], BLOCK_BYTES)
    async with (
        tier_at(valkey, block_bytes=BLOCK_BYTES) as tier,
        tier_at(valkey, block_bytes=BLOCK_BYTES) as other,
    ):
        one, two = await tier.reserve([key]), await other.reserve([key])
        assert await tier.write(one, mine)
        assert await other.write(two, mine ^ np.uint8(1))
        await tier.commit(one)
        draft = other._records.draft_names(key, two.handle.writer)[2]
        valkey.client.rename(draft, other._records.names(key)[2])
        assert await load(tier, [key]) == 0
        assert tier.stats().failures == {"damaged record": 1}
        other.abort(two)
        assert await settled(lambda: valkey.client.dbsize() == 0)


async def test_each_write_has_a_writer_of_its_own(valkey: Server) -> None:
    async with tier_at(valkey) as tier:
        writers = {(await tier.reserve(prompt(name))).handle.writer for name in "abc"}
    assert len(writers) == 3
    assert {len(writer) for writer in writers} == {WRITER_BYTES}
