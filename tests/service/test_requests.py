"""What clients tell of requests becomes what the controller is shown, each request once."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.client.messages import Seen
from greencache.controller.naming import BlockNames
from greencache.controller.prompts import Prompts
from greencache.controller.shadow import ShadowCaches, ShadowSizes
from greencache.controller.slo import Slo
from greencache.service.requests import Asked, Requests

TOKENS = 16
SLO = Slo(ttft_s=1.0, tpot_s=0.1, target=0.9)


def requests(**limits: int) -> Requests:
    return Requests(SLO, block_tokens=TOKENS, **limits)


def keys(*blocks: int) -> bytes:
    return b"".join(block.to_bytes(16, "little") for block in blocks)


def names() -> BlockNames:
    return BlockNames(ShadowCaches(ShadowSizes(4, (0, 4), (0, 8)), TOKENS))


def taken(known: Requests, since_s: float, until_s: float) -> tuple[Asked, Prompts]:
    asked, made = asyncio.run(known.take(since_s, until_s))
    return asked, made(names())


def test_a_request_is_told_of_in_three_messages() -> None:
    known = requests()
    known.seen("a", Seen(10.0, 100, 0, ended=False, request=7))
    known.acquired("a", keys(1, 2, 3), 10.5, request=7, held=1, reusable=2, found={"dram": 1})
    known.seen("a", Seen(10.0, 100, 0, 0.75, started=False, ended=False, request=7))
    known.seen("a", Seen(10.0, 100, 21, 0.75, 0.05, started=False, request=7))
    asked, prompts = taken(known, 0.0, 60.0)
    assert (asked.arrivals, asked.finished, asked.within_slo) == (1, 1, 1)
    assert (asked.prompt_tokens, asked.output_tokens) == (100, 21)
    assert asked.hit_tokens == {"hbm": 16.0, "dram": 16.0, "ssd": 0.0}
    assert asked.ttft.mean_s == 0.75
    assert asked.tpot.mean_s == 0.05
    assert prompts.ids.tolist() == [0, 1, 2]
    assert (prompts.full.tolist(), prompts.reusable.tolist()) == ([3], [2])
    assert (prompts.arrival_s.tolist(), prompts.computed_s.tolist()) == ([10.0], [10.75])
    assert (prompts.input_tokens.tolist(), prompts.output_tokens.tolist()) == ([100], [21])
    assert len(known) == 0, "nothing more can come of it"


def test_who_was_not_heard_of_for_hours_is_forgotten() -> None:
    known = requests()
    known.seen("a", Seen(10.0, 100, 20, 0.5, request=1))
    for hour, arrivals in enumerate([1, 0, 0, 0, 1]):
        since_s = hour * 3600.0
        known.acquired("a", keys(hour), since_s + 20.0)
        asked, _ = taken(known, since_s, since_s + 3600.0)
        assert asked.arrivals == arrivals, "while it tells, a prompt by itself is none"


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "kept"), [(1.0, 0.1, 1), (1.1, 0.1, 0), (0.1, 0.2, 0), (0.1, None, 1)]
)
def test_in_time_is_who_met_both_limits(ttft_s: float, tpot_s: float | None, kept: int) -> None:
    known = requests()
    known.seen("a", Seen(1.0, 5, 3, ttft_s, tpot_s, request=1))
    asked, _ = taken(known, 0.0, 60.0)
    assert (asked.finished, asked.within_slo) == (1, kept)


def test_what_ends_after_its_interval_is_not_known_when_it_ends() -> None:
    known = requests()
    known.acquired("a", keys(1), 50.0, request=1)
    known.seen("a", Seen(50.0, 20, 101, 1.0, 0.1, request=1))  # ended at 61
    known.seen("a", Seen(51.0, 20, 11, 1.0, 0.1, request=2))
    asked, _ = taken(known, 0.0, 60.0)
    assert (asked.arrivals, asked.finished) == (2, 1)


def test_requests_are_of_the_interval_they_arrived_in_and_counted_once() -> None:
    known = requests()
    known.seen("a", Seen(10.0, 100, 0, ended=False, request=1))  # waits in the engine's queue
    known.seen("a", Seen(61.0, 5, 9, 0.1, 0.01, request=2))
    first, prompts = taken(known, 0.0, 60.0)
    assert (first.arrivals, len(prompts)) == (1, 0)
    known.acquired("a", keys(1, 2), 62.0, request=1)
    known.seen("a", Seen(10.0, 100, 9, 53.0, 0.01, started=False, request=1))
    second, prompts = taken(known, 60.0, 120.0)
    assert second.arrivals == 1, "the other one"
    assert (second.finished, second.within_slo) == (2, 1)
    assert sorted(prompts.full.tolist()) == [0, 2], "its prompt is shown when it is known"
    known.seen("a", Seen(10.0, 100, 9, 53.0, 0.01, started=False, request=1))
    third, prompts = taken(known, 120.0, 180.0)
    assert (third.arrivals, third.finished, len(prompts)) == (0, 0, 0)


@pytest.mark.parametrize("at_once", [False, True])
def test_who_is_late_counts_as_late_in_the_interval_it_ends_in(at_once: bool) -> None:
    known = requests()
    known.seen("a", Seen(1.0, 20, 2, 0.5, 0.05, request=1))
    known.acquired("a", keys(1, 2), 50.0, request=2)
    if not at_once:
        known.seen("a", Seen(50.0, 40, 0, ended=False, request=2))
        known.seen("a", Seen(50.0, 40, 0, 8.0, started=False, ended=False, request=2))
    first, prompts = taken(known, 0.0, 60.0)
    assert (first.arrivals, first.finished, first.within_slo) == (2, 1, 1)
    assert len(prompts) == 2
    known.seen("a", Seen(50.0, 40, 101, 8.0, 0.05, started=at_once, request=2))  # until 63
    second, prompts = taken(known, 60.0, 120.0)
    assert (second.arrivals, second.finished, second.within_slo) == (0, 1, 0)
    assert second.ttft.mean_s == 8.0
    assert len(prompts) == 0, "the shadow caches know it"
    counted = known.counted
    assert (counted.requests, counted.finished, counted.within_slo) == (2, 2, 1)
    assert len(known) == 0


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.floats(0, 299), st.floats(0.1, 200), st.integers(1, 50), st.booleans()),
        max_size=30,
    )
)
def test_each_counts_once_as_come_and_once_as_ended(
    load: list[tuple[float, float, int, bool]],
) -> None:
    """As the replay's windows count them: arrivals when they come, latencies when they end."""
    known = requests()
    arrived_s = np.array([arrived_s for arrived_s, *_ in load])
    ends_s = np.array([come_s + ttft_s + 1.5 * (n - 1) for come_s, ttft_s, n, _ in load])
    for until_s in np.arange(60.0, 660.0, 60.0).tolist():
        since_s = until_s - 60.0
        for r, (come_s, ttft_s, outputs, asked) in enumerate(load, 1):
            if since_s <= come_s < until_s:
                known.seen("a", Seen(come_s, 40, 0, ended=False, request=r))
                if asked:
                    known.acquired("a", keys(r), come_s, request=r)
            if since_s < ends_s[r - 1] <= until_s:
                ended = Seen(come_s, 40, outputs, ttft_s, 1.5, started=False, request=r)
                known.seen("a", ended)
        window, _ = taken(known, since_s, until_s)
        assert window.arrivals == ((arrived_s >= since_s) & (arrived_s < until_s)).sum()
        assert window.finished == ((ends_s > since_s) & (ends_s <= until_s)).sum()
    assert len(known) == 0
    assert known.counted.lost == {}


def test_who_gets_no_answer_never_ends() -> None:
    known = requests()
    known.seen("a", Seen(1.0, 20, 0, ended=False, request=1))
    known.seen("a", Seen(1.0, 20, 0, started=False, request=1))  # given up
    asked, _ = taken(known, 0.0, 60.0)
    assert (asked.arrivals, asked.finished) == (1, 0)
    assert len(known) == 0


def test_an_end_that_nobody_tells_is_waited_for_only_so_long() -> None:
    known = requests(most_key_bytes=64)
    known.acquired("a", keys(1, 2, 3, 4), 1.0, request=1)
    known.seen("a", Seen(1.0, 70, 0, ended=False, request=1))
    taken(known, 0.0, 60.0)
    known.acquired("a", keys(1, 2, 3, 4), 61.0, request=2)
    assert known.counted.lost == {}, "keys are not kept of prompts that were handed over"
    taken(known, 60.0, 120.0)
    assert len(known) == 2
    taken(known, 3660.0, 3720.0)
    assert len(known) == 1
    taken(known, 3720.0, 3780.0)
    assert len(known) == 0
    assert known.counted.lost == {"requests: not told to the end": 2}


def test_a_prompt_that_was_not_computed_by_then_is_not_stored_in_the_shadow() -> None:
    known = requests()
    known.acquired("a", keys(1), 59.0, request=1)
    known.seen("a", Seen(59.0, 20, 0, ended=False, request=1))
    _, prompts = taken(known, 0.0, 60.0)
    assert np.isnan(prompts.computed_s).tolist() == [True]


def test_a_client_that_tells_nothing_has_requests_all_the_same() -> None:
    known = requests()
    for at_s in (1.0, 2.0):
        known.acquired("quiet", keys(1, 2), at_s)
    asked, prompts = taken(known, 0.0, 60.0)
    assert (asked.arrivals, asked.finished) == (2, 0)
    assert asked.prompt_tokens == 2 * (2 * TOKENS + TOKENS // 2)
    assert prompts.computed_s.tolist() == [2.0, 3.0], "a second later, as long as none is known"
    assert len(known) == 0


def test_prompts_without_a_number_are_not_counted_beside_what_the_client_tells() -> None:
    known = requests()
    known.acquired("a", keys(1), 1.0)
    known.seen("a", Seen(1.0, 20, 9, 0.5, 0.01))
    asked, prompts = taken(known, 0.0, 60.0)
    assert asked.arrivals == 1
    assert sorted(prompts.full.tolist()) == [0, 1]


def test_numbers_are_each_client_s_own() -> None:
    known = requests()
    for client in ("a", "b"):
        known.acquired(client, keys(1), 1.0, request=1)
        known.seen(client, Seen(1.0, 20, 9, 0.5, 0.01, request=1))
    asked, prompts = taken(known, 0.0, 60.0)
    assert asked.arrivals == asked.finished == 2
    assert prompts.ids.tolist() == [0, 0]


def test_there_is_room_for_so_much_and_no_more() -> None:
    known = requests(most=3, most_key_bytes=64)
    for r in range(1, 6):
        known.acquired("a", keys(1, 2), 1.0, request=r)
    asked, prompts = taken(known, 0.0, 60.0)
    assert asked.arrivals == 3
    assert prompts.full.tolist() == [2, 2], "the third prompt's keys were too many"
    assert known.counted.lost == {"requests: too many": 2, "prompts: too many blocks": 1}
    known.acquired("a", keys(1, 2), 61.0, request=9)
    assert taken(known, 60.0, 120.0)[0].arrivals == 1, "there is room again"


@given(
    st.lists(
        st.builds(
            Seen,
            arrived_s=st.floats(),
            prompt_tokens=st.integers(-(2**63), 2**63) | st.just(2**63),
            output_tokens=st.integers(-(2**63), 2**63) | st.just(2**63),
            ttft_s=st.none() | st.floats(),
            tpot_s=st.none() | st.floats(),
            hit_tokens=st.dictionaries(
                st.sampled_from(["hbm", "dram", "ssd", "other"]), st.integers(-5, 2**40)
            ),
            started=st.booleans(),
            ended=st.booleans(),
            request=st.integers(-3, 3),
        ),
        max_size=20,
    )
)
def test_whatever_clients_say_an_interval_can_be_made_of_it(said: list[Seen]) -> None:
    known = requests()
    for seen in said:
        known.seen("a", seen)
    asked, prompts = taken(known, 0.0, 60.0)
    assert 0 <= asked.within_slo <= asked.finished <= len(said)
    assert asked.arrivals <= len(said)
    assert np.isfinite(asked.computed_tokens).all()
    assert (asked.computed_tokens >= 1).all()
    assert len(prompts) <= len(said)
    assert (prompts.arrival_s >= 0).all()
    assert (np.diff(prompts.arrival_s) >= 0).all()
    assert (prompts.input_tokens > 0).all()
    taken(known, 60.0, 120.0)
    assert all(one.arrived_s <= 120.0 + 3600.0 for one in known._known.values())


async def test_what_is_told_while_an_interval_is_looked_at_is_not_lost() -> None:
    known = requests()
    known.seen("a", Seen(10.0, 100, 0, ended=False, request=1))
    known.acquired("a", keys(7), 59.0, request=2)
    looking = asyncio.create_task(known.take(0.0, 60.0))
    await asyncio.sleep(0)
    known.acquired("a", keys(1, 2), 60.5, request=1)
    known.acquired("a", keys(3), 60.5, request=3)
    first, _ = await looking
    second, made = await known.take(60.0, 120.0)
    assert (first.arrivals, second.arrivals) == (2, 1)
    assert sorted(made(names()).full.tolist()) in ([1], [1, 2])
    looking = asyncio.create_task(known.take(120.0, 180.0))
    await asyncio.sleep(0)
    for r, arrived_s in ((1, 10.0), (2, 59.0), (3, 60.5)):
        known.seen("a", Seen(arrived_s, 100, 9, 0.5, 0.01, started=False, request=r))
    third, _ = await looking
    fourth, _ = await known.take(180.0, 240.0)
    assert third.finished + fourth.finished == 3
    assert len(known) == 0
