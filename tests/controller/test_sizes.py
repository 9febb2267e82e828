"""Sizes to choose from."""

import pytest

from greencache.controller.sizes import Candidates, Sizes
from greencache.errors import InputError


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
