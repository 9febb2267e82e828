"""The tiers there are, held to the suite."""

from __future__ import annotations

import pytest

from greencache.tiers.base import Tier
from greencache.tiers.dram import DramTier
from tests.conformance.minimal import MinimalTier
from tests.conformance.suite import MakeTier, TierConformance


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


class TestMinimal(TierConformance):
    page_bytes = 1

    @pytest.fixture
    def make(self) -> MakeTier:
        def make(block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier:
            return MinimalTier(block_bytes, capacity_bytes)

        return make
