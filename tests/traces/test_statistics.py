"""Statistics of a trace, against counting by hand and against the curve of the same trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.bench.curve import measure_curve
from greencache.tiers.policies import Policy
from greencache.traces import RequestTrace, read_trace, trace_statistics
from tests.bench.traces import make_trace
from tests.traces.examples import EXAMPLES, write


def test_the_real_trace(conversation: RequestTrace) -> None:
    """The share equals the hit rate of the largest cache, counted in another way."""
    numbers = trace_statistics(conversation)
    largest = measure_curve(conversation, Policy.LRU, [conversation.unique_blocks]).points[0]
    assert numbers.reused_tokens_share == pytest.approx(largest.hit_rate_tokens)
    assert numbers.reused_tokens_share == pytest.approx(0.3734, abs=1e-4)
    assert (numbers.requests, numbers.block_accesses) == (12_031, 288_500)
    assert numbers.unique_blocks == 182_790
    assert numbers.mean_rate_per_s == pytest.approx(3.4, abs=0.01)
    assert numbers.input_tokens.mean == pytest.approx(12_035, abs=1)
    assert numbers.sessions is None


def test_a_trace_small_enough_to_count_by_hand() -> None:
    trace = make_trace(
        [
            (0.0, 40, 1, [1, 2, 3]),  # two full blocks and a partial one
            (10.0, 32, 3, [1, 2]),  # two full ones, of which the last must be computed
            (50.0, 35, 3, [1, 9, 2]),  # 2 after 9 is another block than 2 after 1
            (70.0, 20, 5, [1, 7]),
        ],
        block_tokens=16,
    )
    numbers = trace_statistics(trace)
    assert numbers.reused_tokens_share == pytest.approx(3 * 16 / 127)
    assert numbers.reuse_gap_s is not None
    assert numbers.reuse_gap_s.mean == pytest.approx((10 + 10 + 40 + 20) / 4)
    assert numbers.busiest_minute_per_s == pytest.approx(3 / 60)
    assert numbers.mean_rate_per_s == pytest.approx(4 / 70)
    assert (numbers.output_tokens.mean, numbers.output_tokens.p50) == (3, 3)
    assert (numbers.block_accesses, numbers.unique_blocks) == (10, 6)


def test_what_is_not_recorded_is_none_and_json_has_no_nan() -> None:
    numbers = trace_statistics(make_trace([(0.0, 40, 1, []), (0.0, 50, 2, [])]))
    assert numbers.mean_rate_per_s is None
    assert (numbers.unique_blocks, numbers.reused_tokens_share) == (None, None)
    assert numbers.reuse_gap_s is None
    assert numbers.sessions is None
    made = json.loads(json.dumps(numbers.as_json(), allow_nan=False))
    assert made["schema"] == "greencache.trace/1"
    assert made["input_tokens"] == {"mean": 45, "p50": 45, "p90": 49, "p99": 49.9}


def test_sessions_are_counted(tmp_path: Path) -> None:
    numbers = trace_statistics(read_trace(write(tmp_path, EXAMPLES["agentic"])))
    assert (numbers.sessions, numbers.format, numbers.skipped) == (2, "agentic", 1)
    assert numbers.requests_per_session is not None
    assert numbers.requests_per_session.mean == 2
    assert numbers.reused_tokens_share == pytest.approx((2 + 3) * 64 / 718)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300).map(float),
            st.integers(1, 60),
            st.just(1),
            st.lists(st.integers(0, 2), min_size=4, max_size=4),
        ).map(lambda r: (r[0], r[1], r[2], r[3][: -(-r[1] // 16)])),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=60)
def test_counts_equal_those_of_a_plain_program(
    requests: list[tuple[float, int, int, list[int]]],
) -> None:
    requests.sort(key=lambda request: request[0])
    numbers = trace_statistics(make_trace(requests, block_tokens=16))
    last: dict[tuple[int, ...], float] = {}
    hit_tokens, gaps = 0, []
    for time, tokens, _, names in requests:
        prefixes = [tuple(names[: i + 1]) for i in range(tokens // 16)]
        for i, prefix in enumerate(prefixes):
            if prefix in last:
                gaps.append(time - last[prefix])
                hit_tokens += 16 * ((i + 1) * 16 < tokens)
        last |= dict.fromkeys(prefixes, time)
    total = sum(request[1] for request in requests)
    assert numbers.reused_tokens_share == pytest.approx(hit_tokens / total)
    assert (numbers.reuse_gap_s is None) == (not gaps)
    if numbers.reuse_gap_s is not None:
        assert numbers.reuse_gap_s.p90 == pytest.approx(np.percentile(gaps, 90))
    times = [request[0] for request in requests]
    busiest = max(sum(t <= other < t + 60 for other in times) for t in times)
    assert numbers.busiest_minute_per_s == pytest.approx(busiest / 60)
