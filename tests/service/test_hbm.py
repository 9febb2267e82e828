"""The HBM tier: engines keep it, the daemon keeps account of it."""

from __future__ import annotations

import pytest

from greencache.client.messages import Hbm
from greencache.errors import InputError
from greencache.service.hbm import MOST_ENGINES, EnginePools


class Watch:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 600.0

    def __call__(self) -> float:
        return self.now_s


def told(pools: EnginePools, who: str, *kept: int, cached: int = 10) -> None:
    for each in kept:
        pools.told(who, Hbm(1000, 100, cached, each))


def test_engines_are_added_up_and_count_only_while_they_tell() -> None:
    watch = Watch()
    pools = EnginePools(watch)
    told(pools, "one", 5)
    told(pools, "one", 3, cached=20)
    told(pools, "other", 7)
    assert pools.report() == {
        "engines": 2,
        "capacity_bytes": 200_000,
        "used_bytes": 30_000,
        "kept_bytes": 10_000,
        "blocks": 30,
        "waiting_tokens": 0,
    }
    watch.now_s += 8
    told(pools, "one", 3)
    watch.now_s += 8
    assert pools.report()["engines"] == 1, "the other has told nothing for long"
    watch.now_s += 8
    assert pools.report() == dict.fromkeys(pools.report(), 0)
    assert not list(pools.samples()), "a gauge of nobody is not 0: it is not there"


def test_what_waits_is_that_of_engines_that_live() -> None:
    watch = Watch()
    pools = EnginePools(watch)
    assert pools.waiting_tokens() is None, "nobody tells"
    pools.told("one", Hbm(1000, 100, 0, 0, waiting_tokens=500))
    watch.now_s += 8
    pools.told("other", Hbm(1000, 100, 0, 0, waiting_tokens=70))
    assert pools.waiting_tokens() == 570
    watch.now_s += 8
    assert pools.waiting_tokens() == 70, "the one is gone, and its requests with it"


def test_what_requests_keep_is_the_most_of_each_minute_in_the_mean() -> None:
    watch = Watch()
    pools = EnginePools(watch)
    assert pools.take_kept() == 0.0
    told(pools, "one", 10, 40, 20)
    watch.now_s += 60
    told(pools, "one", 20)
    told(pools, "other", 90)
    assert pools.take_kept() == pytest.approx(((0.4 + 0.2) / 2 + 0.9) / 2)
    assert pools.take_kept() == 0.0, "an interval is asked of once"
    told(pools, "one", 30)
    assert pools.take_kept() == pytest.approx(0.3), "who told nothing in it is not in its mean"


def test_an_engine_that_ended_in_an_interval_counts_in_it_and_is_forgotten_then() -> None:
    watch = Watch()
    pools = EnginePools(watch)
    told(pools, "one", 50)
    watch.now_s += 100
    assert pools.take_kept() == 0.5
    assert not pools._pools


def test_no_number_of_engines_takes_memory_without_end() -> None:
    watch = Watch()
    pools = EnginePools(watch)
    for number in range(MOST_ENGINES + 5):
        told(pools, f"{number}", 50)
    assert pools.report()["engines"] == MOST_ENGINES
    watch.now_s += 60
    told(pools, "who comes after they have gone", 50)
    assert pools.report()["engines"] == 1


@pytest.mark.parametrize(
    "hbm",
    [
        Hbm(0, 1, 0, 0),
        Hbm(1000, 0, 0, 0),
        Hbm(1000, 10, 11, 0),
        Hbm(1000, 10, 0, 11),
        Hbm(1000, 10, -1, 0),
        Hbm(1000, 10, 1, 1, -1),
        Hbm(1 << 60, 10, 1, 1),
    ],
)
def test_what_no_engine_has_is_refused(hbm: Hbm) -> None:
    with pytest.raises(InputError, match="no engine's pool"):
        EnginePools().told("one", hbm)
