"""The tiers there are, held to the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from greencache.tiers.base import Tier
from greencache.tiers.dram import DramTier
from greencache.tiers.ssd import SsdTier
from tests.conformance.minimal import MinimalTier
from tests.conformance.suite import BLOCK_BYTES, MakeTier, TierConformance


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


class TestMinimal(TierConformance):
    page_bytes = 1

    @pytest.fixture
    def make(self) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return MinimalTier(block_bytes, capacity_bytes)

        return make
