"""The tiers there are, held to the suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from greencache.tiers.base import Tier
from greencache.tiers.dram import DramTier
from greencache.tiers.records import RecordFormat
from greencache.tiers.redis import Deadlines, RedisTier
from greencache.tiers.ssd import SsdTier
from tests.conformance.minimal import MinimalTier
from tests.conformance.suite import BLOCK_BYTES, MakeTier, TierConformance
from tests.tiers.valkeys import Server, a_server

PATIENT = Deadlines(connect_s=20, lookup_s=20, read_s=20, write_s=20)
"""For a machine that is busy with other tests."""

tests = itertools.count()


class TestDram(TierConformance):
    """With extents of a few slots."""

    @pytest.fixture
    def make(self) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return DramTier(block_bytes, capacity_bytes, extent_bytes=64 * 1024)

        return make


class TestDramWithoutPrefault(TierConformance):
    @pytest.fixture
    def make(self) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return DramTier(block_bytes, capacity_bytes, prefault=False)

        return make


class TestSsd(TierConformance):
    """With files of a few slots."""

    keeps_blocks = True
    own_bytes = 128 * 1024

    def room_for(self, blocks: int, block_bytes: int = BLOCK_BYTES) -> int:
        return SsdTier("unused", block_bytes, 0)._needed(blocks)

    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return SsdTier(tmp_path / place, block_bytes, capacity_bytes, extent_bytes=64 * 1024)

        return make


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with a_server() as server:
        yield server


class TestRedis(TierConformance):
    """On a real server."""

    keeps_blocks = True
    keeps_beyond_capacity = True

    def room_for(self, blocks: int, block_bytes: int = BLOCK_BYTES) -> int:
        return RedisTier("redis://unused", block_bytes, 0).bytes_for(blocks)

    @pytest.fixture
    def make(self, valkey: Server) -> MakeTier:
        test = next(tests)

        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return RedisTier(
                valkey.url,
                block_bytes,
                capacity_bytes,
                namespace=f"{test} {place}".encode(),
                deadlines=PATIENT,
            )

        return make


class TestRedisInParts(TestRedis):
    """With blocks of four records each."""

    @pytest.fixture(autouse=True)
    def parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("greencache.tiers.records.PART_BYTES", 1500)
        assert RecordFormat(BLOCK_BYTES, b"", "p").parts == 4


class TestMinimal(TierConformance):
    page_bytes = 1

    @pytest.fixture
    def make(self) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return MinimalTier(block_bytes, capacity_bytes)

        return make
