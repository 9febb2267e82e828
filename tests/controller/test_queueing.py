"""The queue of sampled requests against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.bench.prospects_error import pollaczek_khinchine_s
from greencache.controller.queueing import Attained, Demand, attainment

COUNT = 400_000
RATE = 0.7


def queued(
    prefill_s: NDArray[np.float64],
    *,
    rate: float = RATE,
    gaps: NDArray[np.float64] | None = None,
    ttft_limit_s: float = np.inf,
    tpot_limit_s: float = np.inf,
    answers: NDArray[np.float64] | None = None,
    load_s: float = 0.0,
    chunks: float = 1.0,
    decode_s: float = 0.01,
    interval_s: float = np.inf,
    start_s: float = 0.0,
) -> Attained:
    count = len(prefill_s)
    demand = Demand(
        np.random.default_rng(1).exponential(1.0, count) if gaps is None else gaps,
        np.ones(count) if answers is None else answers,
        prefill_s[None],
        np.full((1, count), load_s),
        np.full((1, count), chunks),
        np.full((1, 1), decode_s),
    )
    return attainment(
        demand,
        np.array([rate]),
        ttft_limit_s=ttft_limit_s,
        tpot_limit_s=tpot_limit_s,
        interval_s=min(interval_s, 1e12),
        starts_s=np.array([start_s]),
    )


@pytest.mark.parametrize("limit_s", [1.0, 3.0, 8.0])
def test_poisson_and_exponential_is_m_m_1(limit_s: float) -> None:
    """Time in M/M/1 is exponential with rate ``mu - lambda`` (Kleinrock 1975, eq. 5.119)."""
    prefill_s = np.random.default_rng(2).exponential(1.0, COUNT)
    exact = 1 - np.exp(-(1 - RATE) * limit_s)
    assert queued(prefill_s, ttft_limit_s=limit_s).share[0, 0, 0] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("limit_s", [0.1, 2.0])
def test_waiting_in_m_m_1_has_an_exponential_tail(limit_s: float) -> None:
    """``P(W > x) = rho exp(-(mu - lambda) x)``, seen by requests that take no time themselves.

    Half of a Poisson stream of twice the rate is such; the other half is M/M/1.
    """
    generator = np.random.default_rng(3)
    probes = generator.random(COUNT) < 0.5
    prefill_s = np.where(probes, 0.0, generator.exponential(1.0, COUNT))
    late = np.exp(-(1 - RATE) * limit_s)
    exact = 0.5 * (1 - RATE * late) + 0.5 * (1 - late)
    seen = queued(prefill_s, rate=2 * RATE, ttft_limit_s=limit_s)
    assert seen.share[0, 0, 0] == pytest.approx(exact, abs=0.01)


def test_equal_prompts_wait_as_pollaczek_and_khinchine_say() -> None:
    """M/D/1: ``rho / (2 (1 - rho))`` of a prompt's time."""
    result = queued(np.ones(COUNT))
    exact = pollaczek_khinchine_s(RATE, 1.0, 1.0)
    assert exact == pytest.approx(RATE / (2 * (1 - RATE)))
    assert result.ttft_s[0, 0, 0] - 1 == pytest.approx(exact, rel=0.03)
    assert result.backlog_s[0, 0, 0] >= 0


def test_two_kinds_of_prompts_wait_as_pollaczek_and_khinchine_say() -> None:
    prefill_s = np.where(np.random.default_rng(5).random(COUNT) < 0.1, 5.0, 0.5)
    mean_s, square_s2 = prefill_s.mean(), (prefill_s**2).mean()
    exact = pollaczek_khinchine_s(RATE, mean_s, square_s2)
    measured = queued(prefill_s).ttft_s[0, 0, 0] - mean_s
    assert measured == pytest.approx(exact, rel=0.05)


def test_an_overloaded_engine_falls_behind_by_what_comes_too_much() -> None:
    """Over an interval, waiting rises evenly to ``(rho - 1) * interval``."""
    result = queued(np.ones(COUNT), rate=1.5, interval_s=1000.0)
    assert result.backlog_s[0, 0, 0] == pytest.approx(500, rel=0.05)
    assert result.ttft_s[0, 0, 0] == pytest.approx(251, rel=0.05)
    in_time = queued(np.ones(COUNT), rate=1.5, interval_s=1000.0, ttft_limit_s=101)
    assert in_time.share[0, 0, 0] == pytest.approx(0.2, abs=0.03)


def test_work_left_over_is_waited_for_first() -> None:
    """Ten requests a second apart that take half of one, behind ten seconds of work."""
    gaps = np.array([0.0, *[1.0] * 9])
    alone, behind = (
        queued(np.full(10, 0.5), gaps=gaps, rate=1.0, start_s=start_s, ttft_limit_s=9.0)
        for start_s in (0.0, 10.0)
    )
    assert alone.ttft_s[0, 0, 0] == pytest.approx(0.5)
    assert alone.share[0, 0, 0] == 1
    # What was left over shrinks by half a second with each.
    assert behind.ttft_s[0, 0, 0] == pytest.approx(10.5 - 0.5 * 4.5)
    assert behind.share[0, 0, 0] == pytest.approx(0.7)


def test_more_work_left_over_is_never_better() -> None:
    generator = np.random.default_rng(7)
    prefill_s = generator.exponential(1.0, 4096)
    runs = [
        queued(prefill_s, start_s=start_s, interval_s=300.0, ttft_limit_s=5.0)
        for start_s in (0.0, 10.0, 100.0, 1000.0)
    ]
    shares = [run.share[0, 0, 0] for run in runs]
    left_s = [run.backlog_s[0, 0, 0] for run in runs]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.05 < 0.5 < shares[0]
    assert left_s == sorted(left_s)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 1.5), st.integers(1, 60))
@settings(max_examples=50)
def test_amounts_left_over_are_queued_as_if_each_were_alone(
    seed: int, load: float, stretch: int
) -> None:
    """Who comes when it is worked off is counted once for all of them."""
    generator = np.random.default_rng(seed)
    count = 200
    demand = Demand(
        generator.exponential(1.0, count),
        generator.integers(1, 50, count).astype(np.float64),
        generator.exponential(1.0, (2, count)),
        generator.exponential(0.5, (2, count)),
        np.ceil(generator.exponential(3.0, (2, count))),
        np.full((1, 2), 0.05),
    )
    starts_s = np.array([3.0, 0.0, 1.0, 10.0, 300.0])
    limits = {"ttft_limit_s": 4.0, "tpot_limit_s": 0.4, "interval_s": stretch / load}
    together = attainment(demand, np.array([load]), starts_s=starts_s, **limits)
    for at, start_s in enumerate(starts_s):
        alone = attainment(demand, np.array([load]), starts_s=np.array([start_s]), **limits)
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_[at])


def test_loading_delays_a_prompt_that_would_not_wait_longer() -> None:
    alone = queued(np.ones(100), gaps=np.full(100, 10.0), rate=1.0, load_s=3.0)
    assert alone.ttft_s[0, 0, 0] == pytest.approx(4.0)
    crowd = queued(np.ones(100), gaps=np.zeros(100), rate=1.0, load_s=3.0)
    # The first four wait for their loads, all others for those before them.
    assert crowd.ttft_s[0, 0, 0] == pytest.approx((4 * 4 + sum(range(5, 101))) / 100)


def test_answers_slow_down_while_prompts_are_computed() -> None:
    """An answer of 101 tokens, and 5 s later prompts of 10 s in 10 steps without a break."""
    gaps = np.array([0.0, 1.0 + 5.0, *[0.0] * 19])
    prefill_s = np.array([1.0, *[10.0] * 20])
    answers = np.array([101.0, *[1.0] * 20])
    # 50 tokens at 0.1 s, then 50 steps of 1 s: 55 s for 100 tokens.
    for tpot_limit_s, met in ((0.56, 1.0), (0.54, 20 / 21)):
        result = queued(
            prefill_s,
            rate=1.0,
            gaps=gaps,
            answers=answers,
            chunks=10.0,
            decode_s=0.1,
            tpot_limit_s=tpot_limit_s,
        )
        assert result.share[0, 0, 0] == pytest.approx(met)
