"""The control-plane benchmark: both sides do the same, and memory is that of the arrays."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from greencache.bench.control_plane import OURS, PLAIN, Ours, Plain, measure, new_keys
from greencache.bench.tiers_chart import control_plane_picture
from greencache.tiers import Policy
from greencache.tiers.reuse import SEEN
from greencache.tiers.state import SLOT


@pytest.fixture
def prompts() -> list[list[bytes]]:
    return [new_keys(50) for _ in range(20)]


def test_both_sides_find_the_same_prefixes_also_after_evictions(
    prompts: list[list[bytes]],
) -> None:
    ours, plain = Ours(prompts), Plain(prompts)
    for side in (ours, plain):
        side.load(prompts[0])  # so that the second goes first
        side.store(new_keys(50))
    for keys in (prompts[0], prompts[1], prompts[5][:20] + new_keys(5), new_keys(3)):
        assert ours.match(keys) == plain.match(keys)
    assert ours.match(prompts[0]) == 50
    assert ours.match(prompts[1]) == 0
    assert [len(tier) for tier in ours.tiers] == [len(tier) for tier in plain.tiers] == [1000, 1000]


def test_memory_is_counted_by_part(prompts: list[list[bytes]]) -> None:
    parts = Ours(prompts).bytes_by_part()
    assert parts["slots"] == 2 * 1000 * (SLOT.itemsize + np.dtype(np.int32).itemsize)
    assert parts["history"] == parts["reuse"] == 0
    room = parts["keys to ids"] - 1000 * 16
    assert 1000 * 1.5 * 4 <= room <= 1000 * (3 * 4 + 16 / 16), (
        "1.5 to 3 places for each, and growth"
    )
    assert parts["ids to slots"] >= 2 * 1000 * 4
    carbon = Ours(prompts, Policy.CARBON)
    assert carbon.bytes_by_part()["reuse"] >= 1000 * SEEN.itemsize
    known = len(carbon.directory)
    carbon.remember()
    assert len(carbon.directory) == 1.2 * known, "a fifth more than there are"
    assert carbon.bytes_by_part()["slots"] == parts["slots"]
    assert carbon.bytes_by_part()["reuse"] >= 1.2 * known * SEEN.itemsize


@pytest.mark.slow
def test_everything_is_measured_and_drawn(tmp_path: Path) -> None:
    ticks = itertools.count()
    result = measure(2_000, 250, tmp_path, lambda: next(ticks) / 1e6)
    assert [row["there"] for row in result["lookups"]] == [1000, 500, 0]
    assert all(row["times_plain"] == pytest.approx(1) for row in result["lookups"])
    assert {row["blocks"] for row in result["requests"]} == {1, 32, 1000}
    assert all(set(row["us_per_block"]) == {OURS, PLAIN} for row in result["requests"])
    lru, carbon, remembering = result["memory"]
    assert lru["bytes_per_block"] < carbon["bytes_per_block"] < remembering["bytes_per_block"]
    assert lru["bytes_per_block"] == pytest.approx(sum(lru["parts"].values()))
    restart = result["restart"]
    assert restart["found"] == restart["blocks"] == 200
    assert control_plane_picture(result).startswith(b"\x89PNG")
