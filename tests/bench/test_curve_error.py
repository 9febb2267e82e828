"""The streams that intervals are measured on."""

from __future__ import annotations

import numpy as np

from greencache.bench.curve_error import beginning, coverage, synthetic_streams
from greencache.traces import RequestTrace


def test_the_beginning_of_a_trace_has_no_more_accesses_than_asked(
    conversation: RequestTrace,
) -> None:
    head = beginning(conversation, 1_000)
    assert 900 < len(head.block_names) <= 1_000
    assert head.block_names.tolist() == conversation.block_names[: len(head.block_names)].tolist()


def test_streams_come_again_by_their_seed() -> None:
    first, second = (dict(synthetic_streams(3_000, seed=1)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all((first[name].ids == second[name].ids).all() for name in first)
    assert len(first["loop"].ids) == 3_000
    assert np.unique(first["scan"].ids).size == first["scan"].ids.size


def test_coverage_is_counted_against_the_exact_curve() -> None:
    """A sample of everything is always right, and says so with no width."""
    stream = dict(synthetic_streams(3_000, seed=1))["Zipf 1.2"]
    result = coverage(stream, 3_000, seeds=3)
    assert result["rate"] == 1
    assert result["coverage"] == result["lowest_coverage"] == 1
    assert result["rms_error"] < 1e-3
