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
