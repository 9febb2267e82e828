"""A composed stream beside the recordings it is made of, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.controller.curves import hits_at, prefix_lru_stack_distances
from greencache.quantities import HOUR_S
from greencache.traces.chains import common_blocks, sessions_by_chain
from greencache.traces.compose import ComposedWorkload
from greencache.traces.recordings import recorded_trace
from greencache.traces.requests import RequestTrace
from greencache.traces.sessions import recorded_sessions
from greencache.traces.statistics import Spread

__all__ = [
    "CAPACITY_SHARES",
    "StreamStatistics",
    "WorkloadComparison",
    "compare_with_sources",
    "stream_statistics",
]

CAPACITY_SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Capacities of an LRU cache, as shares of the different blocks that an hour asks for. The hour
begins with an empty cache, as a recording's does. More requests an hour ask for more blocks in the
same proportion, so hours of different rates compare."""


@dataclass(frozen=True)
class StreamStatistics:
    """Figures of a request trace whose sessions are known.

    Attributes
    ----------
    name:
        The trace.
    requests:
        How many.
    requests_per_s, busiest_hour_per_s:
        Mean arrivals per second, and those of the busiest whole hour; None where the trace has no
        common clock, or no whole hour.
    prompt_tokens, output_tokens:
        Of a request.
    requests_per_session:
        Mean; sessions that an end of the stream cuts are counted as they are.
    session_gap_s:
        Between one request of a session and the next.
    reuse_gap_s:
        From one use of a full block to its next, common blocks (system prompts) left out.
    seen_share:
        Share of prompt tokens in leading full blocks seen before: the hit rate of an endless cache.
    hit_rates:
        Token hit rates of LRU over an hour at `CAPACITY_SHARES`; None where there is no clock.
    """

    name: str
    requests: int
    requests_per_s: float | None
    busiest_hour_per_s: float | None
    prompt_tokens: Spread | None
    output_tokens: Spread | None
    requests_per_session: float
    session_gap_s: Spread | None
    reuse_gap_s: Spread | None
    seen_share: float
    hit_rates: tuple[float, ...] | None


@dataclass(frozen=True)
class WorkloadComparison:
    """The measured hours of a composed stream beside its sources.

    Attributes
    ----------
    composed, source:
        Figures of both.
    rate_error:
        Composed over wanted mean rate, less one.
    busiest_hour_wanted_per_s:
        Requests per second in the busiest whole hour of the wanted load; None if it has none.
    hourly_correlation:
        Of composed and wanted requests, hour by hour (Pearson's); None if the wanted load has the
        same rate in all hours, or there are fewer than three.
    """

    composed: StreamStatistics
    source: StreamStatistics
    rate_error: float
    busiest_hour_wanted_per_s: float | None
    hourly_correlation: float | None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        return asdict(self)


@kernel
def _reuse(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
    common: NDArray[np.int64],
    arrival_s: NDArray[np.float64],
    last_s: NDArray[np.float64],
    seen: NDArray[np.int64],
    gaps_s: NDArray[np.float32],
) -> None:
    """Count leading blocks seen before, and write the gap before each use of a block, or NaN."""
    for r in range(len(full)):
        first = starts[r]
        while seen[r] < reusable[r] and last_s[ids[first + seen[r]]] >= 0:
            seen[r] += 1
        for at in range(first, starts[r + 1]):
            gaps_s[at] = np.nan
        for at in range(first, first + full[r]):
            if at >= first + common[r] and last_s[ids[at]] >= 0:
                gaps_s[at] = arrival_s[r] - last_s[ids[at]]
            last_s[ids[at]] = arrival_s[r]


def _hit_rates(hour: RequestTrace) -> tuple[float, ...]:
    full = hour.full_blocks
    distances = prefix_lru_stack_distances(
        hour.block_ids, hour.block_starts, full, hour.reusable_blocks
    )
    capacities = np.array([round(share * hour.unique_blocks) for share in CAPACITY_SHARES])
    tokens = hits_at(distances, capacities) * hour.block_tokens
    return tuple((tokens / hour.input_tokens.sum()).tolist())


def _session_gaps_s(trace: RequestTrace, since_s: float) -> NDArray[np.float64]:
    assert trace.sessions is not None
    order = np.argsort(trace.sessions, kind="stable")
    arrival_s, session = trace.arrival_s[order], trace.sessions[order]
    same = (session[1:] == session[:-1]) & (arrival_s[1:] >= since_s)
    gaps_s: NDArray[np.float64] = np.diff(arrival_s)[same]
    return gaps_s


def stream_statistics(
    trace: RequestTrace,
    *,
    since_s: float = 0.0,
    until_s: float | None = None,
    has_clock: bool = True,
) -> StreamStatistics:
    """Figures of a trace that knows its sessions.

    Parameters
    ----------
    trace:
        The trace.
    since_s, until_s:
        The part to describe, by default all; what comes before only fills the cache.
    has_clock:
        Whether arrivals of different sessions are on one clock.
    """
    assert trace.sessions is not None
    until_s = until_s or float(trace.arrival_s[-1])
    first = int(np.searchsorted(trace.arrival_s, since_s))
    seen = np.zeros(len(trace), np.int64)
    gaps_s = np.empty(len(trace.block_ids), np.float32)
    _reuse(
        trace.block_ids,
        trace.block_starts,
        trace.full_blocks,
        trace.reusable_blocks,
        common_blocks(trace),
        trace.arrival_s,
        np.full(trace.unique_blocks, -1.0),
        seen,
        gaps_s,
    )
    gaps_s = gaps_s[trace.block_starts[first] :]
    rate = busiest = hit_rates = None
    if has_clock:
        rate = (len(trace) - first) / (until_s - since_s)
        hours = int((until_s - since_s) // HOUR_S)
        if hours:
            hour = ((trace.arrival_s[first:] - since_s) // HOUR_S).astype(np.int64)
            busiest = float(np.bincount(hour)[:hours].max() / HOUR_S)
        in_hour = (trace.arrival_s >= since_s) & (trace.arrival_s < since_s + HOUR_S)
        hit_rates = _hit_rates(trace.select(in_hour))
    return StreamStatistics(
        name=trace.name,
        requests=len(trace) - first,
        requests_per_s=rate,
        busiest_hour_per_s=busiest,
        prompt_tokens=Spread.of(trace.input_tokens[first:]),
        output_tokens=Spread.of(trace.output_tokens[first:]),
        requests_per_session=len(trace) / len(np.unique(trace.sessions)),
        session_gap_s=Spread.of(_session_gaps_s(trace, since_s)),
        reuse_gap_s=Spread.of(gaps_s[~np.isnan(gaps_s)]),
        seen_share=float(
            seen[first:].sum() * trace.block_tokens / trace.input_tokens[first:].sum()
        ),
        hit_rates=hit_rates,
    )


def _source_of(composed: ComposedWorkload) -> StreamStatistics:
    tokens = composed.library.block_tokens
    if composed.workload == "conversation":
        trace = recorded_trace("mooncake-conversation")
        trace = replace(trace, sessions=sessions_by_chain(trace)).in_blocks_of(tokens)
        return stream_statistics(trace)
    trace = recorded_sessions(composed.workload, tokens)
    return stream_statistics(trace, has_clock=composed.workload != "agentic")


def _wanted_by_hour(composed: ComposedWorkload) -> NDArray[np.float64]:
    """Requests that the load asks for in each whole measured hour."""
    load, hours = composed.load, int((composed.span_s - composed.warmup_s) // HOUR_S)
    edges_s = load.start_s + np.arange(len(load.requests_per_s) + 1) * load.window_s
    until = np.concatenate([[0], np.cumsum(load.requests_per_s * load.window_s)])
    return np.diff(np.interp(np.arange(hours + 1) * HOUR_S, edges_s, until))


def _hourly_correlation(composed: ComposedWorkload, wanted: NDArray[np.float64]) -> float | None:
    if len(wanted) < 3 or np.ptp(wanted) < 1e-9 * wanted.max():
        return None
    edges_s = composed.warmup_s + np.arange(len(wanted) + 1) * HOUR_S
    got = np.histogram(composed.trace.arrival_s, edges_s)[0]
    if np.ptp(got) == 0:
        return None
    return float(np.corrcoef(got, wanted)[0, 1])


def compare_with_sources(composed: ComposedWorkload) -> WorkloadComparison:
    """Describe the measured hours of a composed stream, and the recording of its sessions.

    The source of ``conversation`` is the whole recorded hour, sessions cut by its ends included; of
    the other workloads it is the recorded requests of the sessions used.
    """
    statistics = stream_statistics(
        composed.trace, since_s=composed.warmup_s, until_s=composed.span_s
    )
    assert statistics.requests_per_s is not None
    wanted = _wanted_by_hour(composed)
    return WorkloadComparison(
        composed=statistics,
        source=_source_of(composed),
        rate_error=statistics.requests_per_s / composed.mean_rate - 1,
        busiest_hour_wanted_per_s=float(wanted.max() / HOUR_S) if len(wanted) else None,
        hourly_correlation=_hourly_correlation(composed, wanted),
    )
