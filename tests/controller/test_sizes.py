"""Sizes to choose from."""

from pathlib import Path

import pytest

from greencache.controller.sizes import Candidates, Sizes
from greencache.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"


def test_candidates_are_shares_or_whole_steps() -> None:
    installed = Sizes(512, 16_000)
    assert len(Candidates.of(installed).pairs()) == 81
    stepped = Candidates.of(installed, dram_step_bytes=128, ssd_step_bytes=1_000)
    assert stepped.dram_bytes == (0, 128, 256, 384, 512)
    assert len(stepped.ssd_bytes) == 17
    assert Candidates.of(Sizes(0, 10), ssd_step_bytes=4).pairs() == [
        (0, 0),
        (0, 4),
        (0, 8),
        (0, 10),
    ]


def test_the_documents_count_them_alike() -> None:
    installed = Sizes(512 << 30, 16 * 10**12)
    default = Candidates.of(installed)
    stepped = Candidates.of(installed, dram_step_bytes=128 << 30, ssd_step_bytes=10**12)
    replay, controller, planner = (
        " ".join((DOCS / f"{name}.md").read_text().split())
        for name in ("replay", "controller", "planner")
    )
    assert f"all of each tier, {len(default.pairs())} pairs" in replay
    for sizes in (default, stepped):
        dram, ssd, pairs = len(sizes.dram_bytes), len(sizes.ssd_bytes), len(sizes.pairs())
        assert f"1 + {dram} + {ssd} caches answer for {pairs} pairs of sizes" in controller
        assert f"{dram} \N{MULTIPLICATION SIGN} {ssd} = {pairs}" in planner


@pytest.mark.parametrize("step", [0, -5, 1])
def test_a_step_that_cannot_be_is_refused(step: int) -> None:
    with pytest.raises(InputError, match="SSD"):
        Candidates.of(Sizes(0, 1000), ssd_step_bytes=step)


def test_candidates_in_whole_blocks_are_each_there_once() -> None:
    sizes = Candidates.of(Sizes(24, 100)).in_blocks(10)
    assert sizes.dram_bytes == (0, 10, 20)
    assert sizes.ssd_bytes == (0, 10, 20, 30, 50, 70, 100)
    assert sizes.largest == Sizes(20, 100)


def test_dram_may_have_a_least_size_and_either_may_be_fixed() -> None:
    sizes = Candidates((0, 10, 20), (0, 50))
    assert sizes.at_least(15).dram_bytes == (15, 20)
    assert sizes.at_least(50).dram_bytes == (50,)
    assert sizes.fixed(None, 7) == Candidates((0, 10, 20), (7,))
    assert sizes.fixed(10, None) == Candidates((10,), (0, 50))
