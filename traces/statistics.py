"""What a trace is in numbers: rates, lengths, reuse of blocks, sessions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.traces.requests import RequestTrace

__all__ = ["SCHEMA", "Spread", "TraceStatistics", "trace_statistics"]

SCHEMA = "greencache.trace/1"

_MINUTE_S = 60.0
_NEVER = -1


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: NDArray[np.floating] | NDArray[np.int64]) -> Spread | None:
        """Of some values; None where there are none."""
        if len(values) == 0:
            return None
        p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
        return cls(float(values.mean(dtype=np.float64)), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """What a trace is in numbers. What it does not record is None.

    Attributes
    ----------
    name:
        The trace's name.
    format:
        The format it was read from.
    requests:
        How many there are.
    skipped:
        Lines left out in reading it.
    span_s:
        From the first arrival to the last.
    mean_rate_per_s:
        Requests a second; None if all arrive at once.
    busiest_minute_per_s:
        Requests a second in the 60 seconds that have most of them.
    input_tokens, output_tokens:
        Lengths of prompts and answers.
    block_tokens:
        Tokens to a block.
    block_accesses, unique_blocks:
        Blocks of all prompts, and how many different ones; partial ones count as in the trace.
    reused_tokens_share:
        Share of prompt tokens in full blocks that an earlier prompt had, the whole prefix before
        them included: the hit rate of a cache that keeps everything. At least one token of a
        prompt is always computed.
    reuse_gap_s:
        Time between two uses of a full block; None too if none is used twice.
    sessions:
        How many there are.
    requests_per_session:
        How many each has.
    """

    name: str
    format: str | None
    requests: int
    skipped: int
    span_s: float
    mean_rate_per_s: float | None
    busiest_minute_per_s: float
    input_tokens: Spread
    output_tokens: Spread
    block_tokens: int
    block_accesses: int | None
    unique_blocks: int | None
    reused_tokens_share: float | None
    reuse_gap_s: Spread | None
    sessions: int | None
    requests_per_session: Spread | None

    def as_json(self) -> dict[str, Any]:
        """The numbers in the schema `SCHEMA`, ready for ``json.dump``."""
        return {"schema": SCHEMA, **asdict(self)}


def _spread_of_some(values: NDArray[np.int64]) -> Spread:
    spread = Spread.of(values)
    assert spread is not None, "a trace has requests"
    return spread


@kernel
def _follow(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    reusable: NDArray[np.int64],
    arrival_s: NDArray[np.float64],
    last: NDArray[np.int64],
    gaps_s: NDArray[np.float64],
) -> tuple[int, int]:
    """Fill ``gaps_s``; how many gaps there are, and how many uses could have been hits."""
    gaps = 0
    hits = 0
    for r in range(len(full)):
        for depth in range(full[r]):
            block = ids[starts[r] + depth]
            before = last[block]
            if before != _NEVER:
                gaps_s[gaps] = arrival_s[r] - arrival_s[before]
                gaps += 1
                if depth < reusable[r]:
                    hits += 1
            last[block] = r
    return gaps, hits


def _busiest_minute(arrival_s: NDArray[np.float64]) -> int:
    """Requests in the 60 s from some arrival on that have most of them."""
    ends = np.searchsorted(arrival_s, arrival_s + _MINUTE_S, side="left")
    return int((ends - np.arange(len(arrival_s))).max())


def trace_statistics(trace: RequestTrace) -> TraceStatistics:
    """Count what a trace is."""
    share = gap_s = None
    if trace.has_blocks:
        last = np.full(trace.unique_blocks, _NEVER, np.int64)
        gaps_s = np.empty(int(trace.full_blocks.sum()), np.float64)
        gaps, hits = _follow(
            trace.block_ids,
            trace.block_starts,
            trace.full_blocks,
            trace.reusable_blocks,
            trace.arrival_s,
            last,
            gaps_s,
        )
        share = hits * trace.block_tokens / int(trace.input_tokens.sum())
        gap_s = Spread.of(gaps_s[:gaps])
    sessions = per_session = None
    if trace.sessions is not None:
        requests = np.unique(trace.sessions, return_counts=True)[1]
        sessions, per_session = len(requests), Spread.of(requests)
    return TraceStatistics(
        name=trace.name,
        format=trace.format,
        requests=len(trace),
        skipped=trace.skipped,
        span_s=trace.duration_s,
        mean_rate_per_s=trace.mean_rate if trace.duration_s else None,
        busiest_minute_per_s=_busiest_minute(trace.arrival_s) / _MINUTE_S,
        input_tokens=_spread_of_some(trace.input_tokens),
        output_tokens=_spread_of_some(trace.output_tokens),
        block_tokens=trace.block_tokens,
        block_accesses=len(trace.block_ids) if trace.has_blocks else None,
        unique_blocks=trace.unique_blocks if trace.has_blocks else None,
        reused_tokens_share=share,
        reuse_gap_s=gap_s,
        sessions=sessions,
        requests_per_session=per_session,
    )
