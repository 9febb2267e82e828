"""Copies cut into pieces: every byte once, whoever takes which piece."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from greencache.client import AsyncClient
from greencache.client.arena import Extent, Part, Standing
from greencache.client.base import CopyAll
from greencache.client.copies import PIECE_BYTES, Copiers, copy_all, reading, writing
from greencache.client.messages import Places

BLOCK_BYTES = 64
SLOTS = 12


def new_extent(size_bytes: int) -> Extent:
    descriptor = os.memfd_create("greencache-copies")
    os.ftruncate(descriptor, size_bytes)
    return Extent(descriptor, size_bytes, 1)


@given(
    slots=st.lists(st.tuples(st.integers(0, 1), st.integers(0, SLOTS - 1)), unique=True),
    first=st.integers(0, 5),
    apart=st.booleans(),
    shard=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_are_read_and_written_wherever_they_stand(
    slots: list[tuple[int, int]], first: int, apart: bool, shard: int | None, seed: int
) -> None:
    part = Part.of(BLOCK_BYTES, 2, shard)
    extents = {number: new_extent(SLOTS * BLOCK_BYTES) for number in (0, 1)}
    numbers = np.array([number for number, _ in slots], np.uint32)
    offsets = np.array([slot * BLOCK_BYTES for _, slot in slots], np.uint64)
    standing = Standing(Places.of(numbers, offsets), extents, part)
    blocks = np.random.default_rng(seed).integers(
        0, 256, (len(slots), part.size_bytes), np.uint8, endpoint=False
    )
    copy_all(writing(standing, list(blocks) if apart else blocks))
    for (number, slot), block in zip(slots, blocks, strict=True):
        begin = slot * BLOCK_BYTES + part.begin
        assert (extents[number].readable[begin : begin + part.size_bytes] == block).all()
    first = min(first, len(slots))
    into = np.zeros_like(blocks[first:])
    copy_all(reading(standing, first, list(into) if apart else into))
    assert (into == blocks[first:]).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_a_large_copy(threads: int) -> None:
    block_bytes = PIECE_BYTES * 5 // 4
    extent = new_extent(6 * block_bytes)
    places = Places.of(np.zeros(6, np.uint32), np.arange(6, dtype=np.uint64) * block_bytes)
    standing = Standing(places, {0: extent}, Part(0, block_bytes))
    blocks = np.random.default_rng(0).integers(0, 256, (6, block_bytes), np.uint8)
    copiers = Copiers(threads)
    work = writing(standing, blocks)
    assert len(work) == 8
    copiers.run(work)
    assert (extent.readable == blocks.reshape(-1)).all()
    copiers.close()


def test_a_copy_can_be_done_a_piece_at_a_time() -> None:
    block_bytes = PIECE_BYTES
    extent = new_extent(3 * block_bytes)
    places = Places.of(np.zeros(3, np.uint32), np.arange(3, dtype=np.uint64) * block_bytes)
    blocks = np.random.default_rng(0).integers(0, 256, (3, block_bytes), np.uint8)
    work = writing(Standing(places, {0: extent}, Part(0, block_bytes)), blocks)
    assert [copy_all(work, 0.0) for _ in range(4)] == [False, False, False, True]
    assert (extent.readable == blocks.reshape(-1)).all()


async def test_others_have_their_turn_while_a_client_of_their_event_loop_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that takes: the loop's thread copies for a while, then lets them."""
    monkeypatch.setattr("greencache.client.asynchronous._TURN_S", 0.0)
    turns: list[int] = []

    def slow(to: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        turns.append(others)
        np.copyto(to, source)

    monkeypatch.setattr("greencache.client.copies.copy_bytes", slow)
    blocks, others = np.ones((8, PIECE_BYTES), np.uint8), 0
    places = Places.of(np.zeros(8, np.uint32), np.arange(8, dtype=np.uint64) * PIECE_BYTES)
    extent = new_extent(blocks.size)
    work = writing(Standing(places, {0: extent}, Part(0, PIECE_BYTES)), blocks)
    client = AsyncClient(PIECE_BYTES, copy_threads=1)
    copying = asyncio.ensure_future(client._copy(CopyAll(work, blocks.size)))
    while not copying.done():
        await asyncio.sleep(0)
        others += 1
    await copying
    assert (extent.readable == 1).all()
    assert len(set(turns)) > 1
    await client.close()


def test_a_copy_that_fails_leaves_no_thread_copying() -> None:
    size_bytes = 8 * PIECE_BYTES
    extent = new_extent(size_bytes)
    places = Places.of(np.zeros(1, np.uint32), np.zeros(1, np.uint64))
    standing = Standing(places, {0: extent}, Part(0, size_bytes))
    into = np.zeros((1, size_bytes), np.uint8)
    into.flags.writeable = False
    copiers = Copiers(2)
    with pytest.raises(ValueError, match="read-only"):
        copiers.run(reading(standing, 0, into))
    copiers.close()
