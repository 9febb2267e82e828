"""How much a run could use, over time."""

import numpy as np

from greencache.bench.sizes import SizesOverTime
from greencache.controller.sizes import Sizes

BEGUN = SizesOverTime.of(Sizes(10, 100))


def test_a_size_that_stays_is_no_change() -> None:
    assert BEGUN.then(60.0, Sizes(10, 100)) == BEGUN
    assert BEGUN.changes == 0


def test_a_bin_in_which_the_size_changes_is_charged_the_larger_one() -> None:
    sizes = BEGUN.then(90.0, Sizes(0, 40)).then(200.0, Sizes(5, 60))
    dram, ssd = sizes.by_bin(5, 60.0)
    assert dram.tolist() == [10, 10, 0, 5, 5]
    assert ssd.tolist() == [100, 100, 40, 60, 60]


def test_the_mean_is_over_the_window_asked_for() -> None:
    sizes = BEGUN.then(100.0, Sizes(0, 40))
    assert sizes.mean(0.0, 200.0) == (5, 70)
    assert sizes.mean(100.0, 200.0) == (0, 40)
    assert sizes.changes_since(50.0) == 1
    assert sizes.changes_since(100.0) == 0
    assert sizes.largest == (10, 100)


def test_every_bin_is_charged_something_that_was_there() -> None:
    dram, ssd = BEGUN.then(1e9, Sizes()).by_bin(3, 60.0)
    assert np.all(dram == 10)
    assert np.all(ssd == 100)
