"""How many requests meet their latency limits at a load: recent requests, queued again.

An engine computes prompts one after the other, first come first served, ahead of everything else.
With ``a`` the arrival of request ``r``, ``S`` the seconds that its prompt takes and ``F`` when the
prompt before it was done, it is done at (Lindley, Proc. Cambridge Phil. Soc. 48, 1952)::

    F' = max(F, a) + S,    TTFT = max(F, a + L) + S - a

where ``L`` is what loading from DRAM and SSD takes. The prompts of others are computed meanwhile,
so it delays this one only.

Answers get a token a step. While prompts are computed a step takes as long as its chunk of prompt,
so the answers that run then get ``chunks`` tokens over the ``S`` seconds of a prompt; between
prompts they get one every ``decode_s``. With ``G(t)`` the tokens that an answer running all the
time would have had by ``t``, one of ``n`` tokens that begins at ``F'`` ends where
``G = G(F') + n - 1``, and TPOT is that time over ``n - 1``.

``S`` and ``chunks`` come from what each tier held of a sampled request's prefix; ``a`` from the
sampled gaps, scaled to the load asked for. Nothing is assumed of the distributions. That matters:
with the mean and variance of ``S`` alone, Pollaczek and Khinchine's formula falls well
short of the waiting that the simulated engine shows for the composed workloads, because a
session's requests, and with them long prompts, come close together (docs/controller.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine

__all__ = ["Attained", "Demand", "attainment"]

Floats = NDArray[np.float64]


class Demand(NamedTuple):
    """What sampled requests ask of an engine, under several choices of sizes.

    Attributes
    ----------
    gaps:
        Time since the request before, in mean gaps.
    answers:
        Output tokens.
    prefill_s, load_s:
        Choices by requests: seconds to compute what is not found, and until what DRAM and SSD add
        is in HBM.
    chunks:
        Choices by requests: steps that the prompt takes part in.
    decode_s:
        Loads by choices: seconds of a step without prompts.
    """

    gaps: Floats
    answers: Floats
    prefill_s: Floats
    load_s: Floats
    chunks: Floats
    decode_s: Floats


class Attained(NamedTuple):
    """What becomes of them. Arrays are work left over at first by loads by choices.

    Attributes
    ----------
    share:
        Share of requests that meet both limits.
    ttft_s:
        Mean time to the first token.
    backlog_s:
        Mean seconds of work left when an interval ends.
    """

    share: Floats
    ttft_s: Floats
    backlog_s: Floats


class _Course(NamedTuple):
    """One run of the queue, by request: prompt begun and done, `G` at both, first token."""

    arrival_s: Floats
    begin_s: Floats
    done_s: Floats
    tokens_begin: Floats
    tokens_done: Floats
    first_s: Floats


@subroutine
def _queue(
    demand: Demand,
    course: _Course,
    begin: int,
    end: int,
    at: tuple[int, int],
    rate: float,
    left_s: float,
) -> None:
    """Queue the prompts of ``begin`` to ``end`` behind work that was left over.

    ``at`` says which load and which choice.
    """
    rate_at, choice = at
    decode_s = demand.decode_s[rate_at, choice]
    now_s, done_s, tokens = 0.0, left_s, 0.0
    for r in range(begin, end):
        now_s += demand.gaps[r] / rate
        if now_s > done_s:
            tokens += (now_s - done_s) / decode_s
            done_s = now_s
        work_s = demand.prefill_s[choice, r]
        course.arrival_s[r] = now_s
        course.begin_s[r] = done_s
        course.tokens_begin[r] = tokens
        course.first_s[r] = max(done_s, now_s + demand.load_s[choice, r]) + work_s
        done_s += work_s
        tokens += demand.chunks[choice, r]
        course.done_s[r] = done_s
        course.tokens_done[r] = tokens


@subroutine
def _answered_s(demand: Demand, course: _Course, r: int, end: int, decode_s: float) -> float:
    """When the answer of ``r`` ends; ``end - 1`` is the last request that is known to come."""
    tokens = course.tokens_done[r] + demand.answers[r] - 1.0
    at = r
    while at + 1 < end and course.tokens_begin[at + 1] <= tokens:
        at += 1
    if tokens >= course.tokens_done[at]:
        return float(course.done_s[at] + (tokens - course.tokens_done[at]) * decode_s)
    share = (tokens - course.tokens_begin[at]) / (course.tokens_done[at] - course.tokens_begin[at])
    return float(course.begin_s[at] + share * (course.done_s[at] - course.begin_s[at]))


@subroutine
def _in_time(
    demand: Demand,
    course: _Course,
    r: int,
    end: int,
    decode_s: float,
    limits: tuple[float, float],
) -> bool:
    """Whether a request meets the limits on TTFT and TPOT."""
    ttft_limit_s, tpot_limit_s = limits
    if course.first_s[r] - course.arrival_s[r] > ttft_limit_s:
        return False
    later = demand.answers[r] - 1.0
    if later <= 0:
        return True
    answered_s = _answered_s(demand, course, r, end, decode_s)
    return bool(answered_s - course.first_s[r] <= tpot_limit_s * later)


@subroutine
def _alike_from(course: _Course, other: _Course, begin: int, end: int) -> int:
    """From which request on two courses are the same: once as much is left in both, they are."""
    for r in range(begin, end):
        if course.begin_s[r] == other.begin_s[r]:
            return r
    return end


@kernel
def _run(
    demand: Demand,
    first: _Course,
    course: _Course,
    in_time_from: NDArray[np.int64],
    rates: Floats,
    limits: tuple[float, float],
    starts_s: Floats,
    interval_s: float,
    result: Attained,
) -> None:
    """Queue the sample behind each amount of work left over, at each rate, under each choice.

    What is left over is soon worked off, and what comes then fares alike whatever it was: whether
    those are in time is looked up in the ``first`` course, that of the first amount.
    """
    count = len(demand.gaps)
    for rate_at in range(len(rates)):
        rate = rates[rate_at]
        stretch = min(count, max(1, int(rate * interval_s)))
        for choice in range(len(demand.prefill_s)):
            decode_s = demand.decode_s[rate_at, choice]
            at = rate_at, choice
            ended = 0
            for begin in range(0, count, stretch):
                end = min(begin + stretch, count)
                whole = end - begin == stretch
                ended += whole
                for start_at in range(len(starts_s)):
                    now = first if start_at == 0 else course
                    _queue(demand, now, begin, end, at, rate, starts_s[start_at])
                    if start_at == 0:
                        alike_from = end
                        in_time_from[end] = 0
                    else:
                        alike_from = _alike_from(now, first, begin, end)
                    met = in_time_from[alike_from]
                    for r in range(alike_from - 1, begin - 1, -1):
                        met += _in_time(demand, now, r, end, decode_s, limits)
                        if start_at == 0:
                            in_time_from[r] = met
                    ttft_s = 0.0
                    for r in range(begin, end):
                        ttft_s += now.first_s[r] - now.arrival_s[r]
                    result.share[start_at, rate_at, choice] += met
                    result.ttft_s[start_at, rate_at, choice] += ttft_s
                    if whole:
                        left_s = now.begin_s[end - 1] - now.arrival_s[end - 1]
                        result.backlog_s[start_at, rate_at, choice] += left_s
            for start_at in range(len(starts_s)):
                result.share[start_at, rate_at, choice] /= count
                result.ttft_s[start_at, rate_at, choice] /= count
                result.backlog_s[start_at, rate_at, choice] /= ended


def attainment(
    demand: Demand,
    rates: Floats,
    *,
    ttft_limit_s: float,
    tpot_limit_s: float,
    interval_s: float,
    starts_s: Floats,
) -> Attained:
    """Queue the sampled requests at each load, and count those that meet both limits.

    Parameters
    ----------
    demand:
        The sample, one request or more.
    rates:
        Loads, in requests per second, above 0.
    ttft_limit_s, tpot_limit_s:
        Latency to the first token, and of each later one.
    interval_s:
        The sample is queued in stretches of as many requests as an interval has at that load.
    starts_s:
        Seconds of work that each stretch begins with; what becomes of requests is told for each of
        them. An interval that begins late stays late for a while: what is known to be left over now
        says more about the coming interval than its load does.
    """
    count, shape = len(demand.gaps), (len(starts_s), len(rates), len(demand.prefill_s))
    first, course = (_Course(*(np.zeros(count) for _ in _Course._fields)) for _ in range(2))
    result = Attained(np.zeros(shape), np.zeros(shape), np.zeros(shape))
    limits = ttft_limit_s, tpot_limit_s
    rates, starts_s = np.asarray(rates, np.float64), np.asarray(starts_s, np.float64)
    in_time_from = np.zeros(count + 1, np.int64)
    _run(demand, first, course, in_time_from, rates, limits, starts_s, interval_s, result)
    return result
