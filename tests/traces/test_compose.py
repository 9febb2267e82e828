"""Composed streams: the load is followed, sessions are copied whole, and nothing leaks between."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.errors import InputError, UnknownNameError
from greencache.quantities import HOUR_S
from greencache.tiers.directory import KeyDirectory
from greencache.traces.compose import ComposedWorkload, compose, compose_sessions, starts_for
from greencache.traces.loads import LoadSeries, SpanOfLoad, find_load, flat_load
from greencache.traces.recordings import Recording
from greencache.traces.sessions import WORKLOADS, SessionLibrary, session_library
from tests.bench.traces import make_trace


@cache
def day(workload: str, seed: int = 1) -> ComposedWorkload:
    return compose(
        workload, find_load("m-large"), hours=24, warmup_hours=6, mean_rate=1.0, seed=seed
    )


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_same_seed_gives_the_same_stream_and_another_seed_another(workload: str) -> None:
    load = find_load("m-large")
    a, b, c = (
        compose(workload, load, hours=2, mean_rate=0.2, seed=seed).trace for seed in (7, 7, 8)
    )
    for name in ("arrival_s", "input_tokens", "output_tokens", "block_names", "block_starts"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
        assert not np.array_equal(getattr(a, name), getattr(c, name))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_ids_are_chained_and_dense_as_a_directory_of_keys_would_give_them(workload: str) -> None:
    trace = compose(workload, find_load("m-large"), hours=3, mean_rate=0.2, seed=2).trace
    ids = trace.block_ids
    assert ids is trace.block_names
    assert ids.dtype == np.int32
    interned = KeyDirectory().intern_chains(ids.astype(np.int64), trace.block_starts)
    # Were a block reached through two parents, the directory would give it two ids.
    assert np.array_equal(interned, ids)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_copies_share_system_prompts_and_nothing_else(workload: str) -> None:
    composed = day(workload)
    trace = composed.trace
    assert trace.sessions is not None
    of_entry = np.repeat(trace.sessions, np.diff(trace.block_starts))
    owner = np.empty(trace.unique_blocks, np.int64)
    owner[trace.block_ids] = of_entry
    shared = np.unique(trace.block_ids[owner[trace.block_ids] != of_entry])
    assert len(shared) == composed.library.shared_blocks
    if composed.library.shared_blocks:
        first = trace.block_ids[trace.block_starts[:-1]]
        assert np.array_equal(shared, [0])
        assert (first == 0).all()  # every one of Mooncake's prompts begins with it


@pytest.mark.parametrize("workload", WORKLOADS)
def test_whole_sessions_come_out_as_they_were_recorded(workload: str) -> None:
    """Gaps, lengths and block structure of copies that no end of the stream cuts."""
    composed = compose(workload, flat_load(), hours=56, mean_rate=0.1, seed=4)
    trace, library = composed.trace, composed.library
    recorded = {
        _fingerprint(
            library.offset_s[a:b],
            library.input_tokens[a:b],
            library.output_tokens[a:b],
            library.blocks[library.block_starts[a] : library.block_starts[b]],
        )
        for a, b in zip(library.session_starts[:-1], library.session_starts[1:], strict=True)
    }
    assert trace.sessions is not None
    checked = 0
    for session in range(0, int(trace.sessions.max()), max(1, int(trace.sessions.max()) // 150)):
        rows = np.flatnonzero(trace.sessions == session)
        begun_s = trace.arrival_s[rows[0]]
        if not library.longest_s <= begun_s < composed.span_s - library.longest_s:
            continue
        checked += 1
        ids = np.concatenate(
            [trace.block_ids[trace.block_starts[r] : trace.block_starts[r + 1]] for r in rows]
        )
        private = np.full(len(ids), -1)
        own = ids[ids != 0] if library.shared_blocks else ids
        private[ids != 0 if library.shared_blocks else slice(None)] = own - own.min()
        assert (
            _fingerprint(
                trace.arrival_s[rows] - begun_s,
                trace.input_tokens[rows],
                trace.output_tokens[rows],
                _by_first_appearance(private),
            )
            in recorded
        )
    assert checked > (10 if workload == "agentic" else 50)


def _by_first_appearance(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: dict[int, int] = {-1: -1}
    return np.array([numbers.setdefault(block, len(numbers) - 1) for block in blocks.tolist()])


def _fingerprint(
    offset_s: NDArray[np.float64], *arrays: NDArray[np.int64] | NDArray[np.int32]
) -> tuple[bytes, ...]:
    milliseconds = np.round(offset_s * 1e3).astype(np.int64)
    return tuple(array.astype(np.int64).tobytes() for array in (milliseconds, *arrays))


@pytest.mark.parametrize(
    ("workload", "most"), [("conversation", 0.03), ("document", 0.06), ("agentic", 0.12)]
)
def test_the_request_rate_follows_the_load_from_the_first_hour_on(
    workload: str, most: float
) -> None:
    """Requests come in sessions, so counts vary more than Poisson's do, most with agents."""
    load = find_load("m-large")
    hours, rate = 12, 3.0
    wanted = load.requests_per_s[: hours * 6].reshape(hours, 6).mean(axis=1)
    wanted *= rate / wanted.mean()
    counts = np.zeros(hours)
    for seed in range(4):
        trace = compose(workload, load, hours=hours, mean_rate=rate, seed=seed).trace
        counts += np.histogram(trace.arrival_s, np.arange(hours + 1) * HOUR_S)[0]
    got = counts / 4 / HOUR_S
    assert np.abs(got / wanted - 1).max() < most
    assert np.corrcoef(got, wanted)[0, 1] > 0.95
    assert got.mean() == pytest.approx(rate, rel=most / 2)


def test_a_falling_load_is_followed_although_requests_come_after_their_sessions_start() -> None:
    """A load that halves after an hour, sessions of two requests half an hour apart.

    Starts in proportion to the load would give 3/4 of the first rate in the half hour after.
    """
    library = _two_requests(gap_s=1800.0)
    rates = np.repeat([2.0, 1.0, 2.0, 1.0], 6)
    span = LoadSeries("steps", "a test", "none", 600.0, rates).over(
        4 * HOUR_S, before_s=2 * HOUR_S, mean_rate=1.5
    )
    trace = compose_sessions(library, span, before_s=0.0, span_s=4 * HOUR_S, seed=0)
    by_half_hour = np.histogram(trace.arrival_s, np.arange(9) * 1800.0)[0] / 1800.0
    assert by_half_hour == pytest.approx([2, 2, 1, 1, 2, 2, 1, 1], rel=0.08)


def _two_requests(gap_s: float) -> SessionLibrary:
    trace = make_trace([(0.0, 1100, 1, [1, 2]), (gap_s, 1100, 1, [1, 2])])
    return SessionLibrary.of_trace(
        replace(trace, sessions=np.zeros(2, np.int64)), "made", Recording("a test", "none")
    )


@given(
    st.lists(st.floats(0.0, 10.0), min_size=30, max_size=60),
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=5).filter(lambda k: k[0] > 0.1),
)
@settings(max_examples=50)
def test_a_load_that_sessions_can_follow_is_followed(
    starts: list[float], requests_by_window: list[float]
) -> None:
    """A load made of known starts, the first of which went on like that for long before."""
    kernel, history = np.array(requests_by_window), len(requests_by_window)
    made_of = 1.0 + np.array([starts[0]] * history + starts)
    wanted = np.convolve(made_of, kernel)[history : len(made_of)]
    found = starts_for(wanted, kernel)
    assert (found >= 0).all()
    expected = np.convolve(found, kernel)[: len(starts)]
    assert np.abs(expected - wanted)[history:].mean() < 0.05 * wanted.mean()


def test_the_warm_up_lies_before_and_the_measured_hours_do_not_change_length() -> None:
    composed = day("conversation")
    assert composed.warmup_s == 6 * HOUR_S
    assert composed.span_s == 30 * HOUR_S
    trace = composed.trace
    assert 0 <= trace.arrival_s[0] < 60
    assert composed.span_s - 60 < trace.arrival_s[-1] < composed.span_s
    assert (np.diff(trace.arrival_s) >= 0).all()
    measured = trace.arrival_s >= composed.warmup_s
    assert measured.sum() / (24 * HOUR_S) == pytest.approx(1.0, rel=0.03)
    # The warm-up has the load before the series' start: its own last six hours.
    load = find_load("m-large")
    wanted = load.requests_per_s[-36:].mean() / load.requests_per_s[:144].mean()
    assert (~measured).sum() / (6 * HOUR_S) == pytest.approx(wanted, rel=0.06)


def test_sessions_that_began_before_the_stream_are_in_it() -> None:
    """With sessions of an hour, the first half hour is mostly theirs: second requests alone."""
    library = _two_requests(gap_s=HOUR_S)
    load = flat_load().over(2 * HOUR_S, before_s=2 * HOUR_S, mean_rate=1.0)
    trace = compose_sessions(library, load, before_s=0.0, span_s=2 * HOUR_S, seed=3)
    assert trace.sessions is not None
    early = trace.arrival_s < 1800
    alone = np.bincount(trace.sessions)[trace.sessions] == 1
    assert early.sum() == pytest.approx(1800, rel=0.1)
    assert (early & alone).sum() / early.sum() == pytest.approx(0.5, abs=0.05)


def test_a_library_is_used_evenly() -> None:
    """Balanced draws: no recorded session appears twice before each has appeared once."""
    chains = [[session] for session in range(50)]
    trace = make_trace([(float(r), 600, r + 1, chain) for r, chain in enumerate(chains)])
    library = SessionLibrary.of_trace(
        replace(trace, sessions=np.arange(50)), "made", Recording("a test", "none")
    )
    load = SpanOfLoad(0.0, 100.0, np.full(50, 0.3))
    made = compose_sessions(library, load, before_s=0.0, span_s=5000.0, seed=1)
    used = np.bincount(made.output_tokens, minlength=51)[1:]
    assert len(made) > 1000
    assert used.max() - used.min() <= 2  # sessions in the last window may come after its end


def test_what_is_composed_of_what_is_told() -> None:
    composed = compose(
        "agentic", find_load("mooncake-conversation"), hours=2, mean_rate=0.1, seed=0
    )
    assert [part["role"] for part in composed.composed_from] == ["sessions", "load"]
    assert all(
        set(part) == {"role", "name", "source", "licence"} for part in composed.composed_from
    )
    assert composed.load_repeats
    assert any("repeated" in note for note in composed.notes)
    assert any("semi-synthetic" in note for note in composed.notes)
    assert not day("document").load_repeats


def test_larger_blocks() -> None:
    composed = compose("document", flat_load(), hours=1, mean_rate=0.5, seed=0, block_tokens=1024)
    assert composed.trace.block_tokens == 1024
    assert (np.diff(composed.trace.block_starts) == -(-composed.trace.input_tokens // 1024)).all()
    assert session_library("document", 1024) is composed.library


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"hours": 0.0}, "more than 0 hours"),
        ({"hours": np.nan}, "more than 0 hours"),
        ({"warmup_hours": -1.0}, "more than 0 hours"),
        ({"mean_rate": 0.0}, "a mean rate is more than 0"),
        ({"mean_rate": 1e-9}, "no request falls into the stream"),
        ({"mean_rate": 1e5, "hours": 24.0}, "is too large"),
        ({"hours": 1e9}, "spans at most"),
        ({"seed": -1}, "a seed is 0 or more"),
        ({"block_tokens": 100}, "choose a multiple"),
    ],
)
def test_streams_that_cannot_be_made_are_refused(changed: dict[str, float], reason: str) -> None:
    wanted = {"hours": 0.5, "mean_rate": 1.0, "seed": 0} | changed
    with pytest.raises(InputError, match=reason):
        compose("conversation", flat_load(), **wanted)  # type: ignore[arg-type]


def test_an_unknown_workload_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown workload 'chat'"):
        compose("chat", flat_load(), hours=1, mean_rate=1, seed=0)
