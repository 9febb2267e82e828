"""Composed streams beside their sources: the figures are right, and the two resemble each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from greencache.bench.workload_statistics import (
    WorkloadComparison,
    compare_with_sources,
    stream_statistics,
)
from greencache.bench.workloads import comparison_rows, comparison_table
from greencache.traces import RequestTrace
from greencache.traces.compose import ComposedWorkload, compose
from greencache.traces.loads import find_load
from greencache.traces.sessions import WORKLOADS
from greencache.traces.statistics import Spread
from tests.bench.traces import make_trace


@pytest.fixture(scope="module", params=WORKLOADS)
def compared(request: pytest.FixtureRequest) -> tuple[ComposedWorkload, WorkloadComparison]:
    """A day as long as the sessions last, at the rate of Mooncake's hour."""
    rate = 0.5 if request.param == "agentic" else 3.4
    composed = compose(
        request.param, find_load("m-large"), hours=24, warmup_hours=6, mean_rate=rate, seed=11
    )
    return composed, compare_with_sources(composed)


def close(composed: Spread | None, source: Spread | None, rel: float) -> None:
    assert composed is not None
    assert source is not None
    for name in ("mean", "p50", "p90"):
        assert getattr(composed, name) == pytest.approx(getattr(source, name), rel=rel), name


@pytest.mark.slow
def test_lengths_and_turns_resemble_the_source(
    compared: tuple[ComposedWorkload, WorkloadComparison],
) -> None:
    """Conversation keeps sessions that were followed long enough, so they are a little longer."""
    composed, comparison = compared
    rel = 0.12 if composed.workload == "conversation" else 0.06
    ours, source = comparison.composed, comparison.source
    close(ours.prompt_tokens, source.prompt_tokens, rel)
    close(ours.output_tokens, source.output_tokens, rel)
    assert ours.requests_per_session == pytest.approx(source.requests_per_session, rel=0.12)
    close(ours.session_gap_s, source.session_gap_s, 0.18)
    assert ours.seen_share == pytest.approx(source.seen_share, abs=0.015)


@pytest.mark.slow
def test_hit_rates_over_capacity_resemble_the_source(
    compared: tuple[ComposedWorkload, WorkloadComparison],
) -> None:
    """In an hour that begins with an empty cache; agentic sessions have no common clock."""
    composed, comparison = compared
    assert comparison.composed.hit_rates is not None
    assert list(comparison.composed.hit_rates) == sorted(comparison.composed.hit_rates)
    if composed.workload == "agentic":
        assert comparison.source.hit_rates is None
        return
    assert comparison.source.hit_rates is not None
    assert comparison.composed.hit_rates == pytest.approx(comparison.source.hit_rates, abs=0.05)


@pytest.mark.slow
def test_the_load_is_followed(compared: tuple[ComposedWorkload, WorkloadComparison]) -> None:
    composed, comparison = compared
    assert abs(comparison.rate_error) < (0.08 if composed.workload == "agentic" else 0.03)
    assert comparison.hourly_correlation is not None
    assert comparison.hourly_correlation > (0.7 if composed.workload == "agentic" else 0.98)
    assert comparison.busiest_hour_wanted_per_s is not None
    assert comparison.composed.busiest_hour_per_s == pytest.approx(
        comparison.busiest_hour_wanted_per_s, rel=0.3 if composed.workload == "agentic" else 0.05
    )


@pytest.mark.slow
def test_the_table_names_its_sources(
    compared: tuple[ComposedWorkload, WorkloadComparison],
) -> None:
    composed, comparison = compared
    console = Console(width=140, file=StringIO())
    console.print(comparison_table(composed, comparison))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ServeGen" in text
    assert "semi-synthetic" in " ".join(composed.notes)
    assert all(row[0] in text for row in comparison_rows(comparison))
    assert comparison.as_json()["composed"]["requests"] == comparison.composed.requests


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, 1), min_size=1, max_size=4)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 6),
)
def test_reuse_is_counted_as_by_hand(requests: list[tuple[int, list[int]]], since: int) -> None:
    """With a request a second, prompts of whole blocks, and a last block that must be computed.

    Others come first, so that a block must be in more than three requests to be common.
    """
    others = 300
    requests = [(10 + i, [100 + i, 0]) for i in range(others)] + requests
    prompts = [(float(i), 512 * len(chain), 1, chain) for i, (_, chain) in enumerate(requests)]
    trace = replace(make_trace(prompts), sessions=np.array([session for session, _ in requests]))
    since = min(others + since, len(requests) - 1)
    got = stream_statistics(trace, since_s=float(since), has_clock=False)
    chains = [[tuple(chain[: i + 1]) for i in range(len(chain))] for _, chain in requests]
    through = Counter(prefix for prefixes in chains for prefix in prefixes)
    last: dict[tuple[int, ...], int] = {}
    gaps, seen = [], 0
    for r, prefixes in enumerate(chains):
        if r >= since:
            seen += sum(prefix in last for prefix in prefixes[:-1])
            gaps += [r - last[p] for p in prefixes if p in last and through[p] <= 3]
        last |= dict.fromkeys(prefixes, r)
    assert got.seen_share == pytest.approx(seen / sum(len(each) for each in chains[since:]))
    assert got.reuse_gap_s == Spread.of(np.array(gaps))
    assert got.requests == len(requests) - since


def test_gaps_leave_out_system_prompts() -> None:
    """200 sessions of two requests, 50 s apart, that share their first block with all."""
    prompts = []
    for i in range(200):
        prompts += [(100.0 * i, 1024, 1, [7, i]), (100.0 * i + 50, 1536, 1, [7, i, 1])]
    trace = replace(make_trace(prompts), sessions=np.arange(400) // 2)
    got = stream_statistics(trace)
    assert got.reuse_gap_s == Spread(50.0, 50.0, 50.0, 50.0)
    assert got.session_gap_s == Spread(50.0, 50.0, 50.0, 50.0)
    assert got.requests_per_session == 2
    assert got.busiest_hour_per_s == 72 / 3600
    # The first block always but once, the second of each session's second request.
    assert got.seen_share == pytest.approx((399 + 200) / (200 * 5))


def test_an_hour_without_reuse_has_no_hits(conversation: RequestTrace) -> None:
    first = replace(
        conversation,
        block_names=np.arange(len(conversation.block_names)),
        sessions=np.arange(len(conversation)),
    )
    got = stream_statistics(first)
    assert set(got.hit_rates or ()) == {0.0}
    assert got.seen_share == 0
    assert got.reuse_gap_s is None
    assert got.session_gap_s is None
