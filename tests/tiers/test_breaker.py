"""A breaker on a clock of its own: when it opens, whom it lets try, when it closes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from greencache.tiers.breaker import Breaker, BreakerState


class Bench:
    """A breaker, its clock and what it said."""

    def __init__(self, draw: float = 0.5, **options: float) -> None:
        self.now_s = 100.0
        self.said: list[tuple[BreakerState, str]] = []
        self.breaker = Breaker(
            lambda: self.now_s,
            lambda: draw,
            lambda state, why: self.said.append((state, why)),
            limit=3,
            first_wait_s=1.0,
            longest_wait_s=8.0,
        )

    def state(self) -> BreakerState:
        return self.breaker.state

    def try_it(self, fault: str | None = None, *, decides: bool = True) -> bool:
        with self.breaker.attempt(decides=decides) as attempt:
            if attempt is not None and fault is not None:
                attempt.failed(fault)
        return attempt is not None


def test_it_opens_after_failures_in_a_row_and_says_so_once() -> None:
    bench = Bench()
    for fault in ("a", "b", None, "c", "d"):
        assert bench.try_it(fault)
    assert bench.state() is BreakerState.CLOSED, "never three in a row"
    assert bench.try_it("timed out")
    assert bench.state() is BreakerState.OPEN
    assert not bench.try_it()
    assert not bench.breaker.would_allow
    assert (bench.breaker.opened, bench.breaker.refused) == (1, 1)
    ((state, why),) = bench.said
    assert state is BreakerState.OPEN
    assert "3 failures in a row" in why
    assert "timed out" in why


def test_one_at_a_time_may_try_again_and_waits_double() -> None:
    bench = Bench()
    for _ in range(3):
        bench.try_it("down")
    for wait_s in (1.0, 2.0, 4.0, 8.0, 8.0):
        bench.now_s += 0.99 * wait_s
        assert not bench.try_it()
        bench.now_s += 0.02 * wait_s
        with bench.breaker.attempt() as probe:
            assert probe is not None
            assert bench.state() is BreakerState.HALF_OPEN
            assert not bench.try_it(), "one is enough"
            probe.failed("still down")
    assert bench.breaker.opened == 6
    assert len(bench.said) == 1, "nothing new"
    bench.now_s += 8.1
    assert bench.try_it()
    assert bench.state() is BreakerState.CLOSED
    assert [state for state, _ in bench.said] == [BreakerState.OPEN, BreakerState.CLOSED]
    for _ in range(3):
        bench.try_it("down")
    bench.now_s += 1.01
    assert bench.breaker.would_allow, "the first wait is the shortest again"


def test_what_began_before_it_opened_neither_closes_nor_lengthens_it() -> None:
    bench = Bench()
    with bench.breaker.attempt() as slow, bench.breaker.attempt() as quick:
        assert slow is not None
        assert quick is not None
        slow.failed("timed out")
        for _ in range(3):
            bench.try_it("down")
    assert bench.state() is BreakerState.OPEN
    assert bench.breaker.opened == 1


def test_a_success_that_decides_nothing_lets_the_next_one_decide() -> None:
    """A write that has not been committed yet, say."""
    bench = Bench()
    bench.try_it("a")
    bench.try_it("b")
    bench.try_it(decides=False)
    bench.try_it("c")
    assert bench.state() is BreakerState.OPEN, "it was no success"
    bench.now_s += 2
    assert bench.try_it(decides=False)
    assert bench.state() is BreakerState.OPEN
    assert bench.try_it(), "at once"
    assert bench.state() is BreakerState.CLOSED


def test_an_attempt_that_is_cancelled_says_nothing_of_the_server() -> None:
    bench = Bench()
    for _ in range(3):
        bench.try_it("down")
    bench.now_s += 2
    with pytest.raises(KeyboardInterrupt), bench.breaker.attempt():
        raise KeyboardInterrupt
    assert bench.try_it(), "another may try at once"
    assert bench.state() is BreakerState.CLOSED

    def fail_and_be_cancelled() -> None:
        with bench.breaker.attempt() as attempt:
            assert attempt is not None
            attempt.failed("timed out")
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fail_and_be_cancelled()
    assert bench.state() is BreakerState.OPEN


@given(draw=st.floats(0, 1))
def test_waits_are_drawn_around_their_length(draw: float) -> None:
    bench = Bench(draw)
    for _ in range(3):
        bench.try_it("down")
    bench.now_s += 0.499
    assert not bench.breaker.would_allow
    bench.now_s += 1.002
    assert bench.breaker.would_allow
