"""The streams that intervals are measured on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from greencache.bench.curve_error import agent_sessions, coverage, synthetic_streams


def test_agent_sessions_are_merged_by_time_and_share_no_block(tmp_path: Path) -> None:
    """Ids are local to a session; of a prompt of 128 tokens the second block may not hit."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows = {
        "session": ["a", "a", "b", "b"],
        "abs_t_s": [5.0, 20.0, 0.0, 10.0],
        "input_length": [130, 128, 70, 200],
        "hash_ids": [[0, 1, 2], [0, 1], [0, 1], [0, 1, 2, 3]],
    }
    path = tmp_path / "sessions.parquet"
    parquet.write_table(arrow.table(rows), path)
    stream = agent_sessions(path, 100)
    assert stream.full.tolist() == [1, 2, 3, 2]
    assert stream.reusable.tolist() == [1, 2, 3, 1]
    requests = [stream.ids[a:b].tolist() for a, b in pairwise(stream.starts)]
    assert requests[2][:2] == requests[0]
    assert requests[1][:2] == requests[3]
    assert not set(requests[0] + requests[2]) & set(requests[1])
    assert agent_sessions(path, 6).full.tolist() == [1, 2]


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
