"""Parquet: our own columns survive a round trip, rows are named in errors, sessions are sorted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from greencache.errors import InputError, OutputError, TraceError
from greencache.traces import (
    RequestTrace,
    read_batches,
    read_trace,
    sample_path,
    write_columns,
)
from tests.bench.traces import make_trace
from tests.traces.examples import AGENTIC, BURSTGPT_HEADER, COLUMNS, csv_lines, parquet, write


def same(one: RequestTrace, other: RequestTrace) -> None:
    assert np.allclose(one.arrival_s, other.arrival_s, rtol=0, atol=1e-6)
    assert one.input_tokens.tolist() == other.input_tokens.tolist()
    assert one.output_tokens.tolist() == other.output_tokens.tolist()
    assert one.block_tokens == other.block_tokens
    assert one.block_names.tolist() == other.block_names.tolist()
    assert one.block_starts.tolist() == other.block_starts.tolist()
    assert (one.sessions is None) == (other.sessions is None)
    if one.sessions is not None and other.sessions is not None:
        assert one.sessions.tolist() == other.sessions.tolist()
    assert one.skipped == other.skipped


_requests = st.lists(
    st.tuples(
        st.floats(0, 1e6),
        st.integers(1, 200),
        st.integers(1, 100),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12),
    ).map(lambda r: (r[0], r[1], r[2], r[3][: -(-r[1] // 16)])),
    min_size=1,
    max_size=12,
)


@given(_requests)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(
    tmp_path: Path, requests: list[tuple[float, int, int, list[int]]]
) -> None:
    requests.sort(key=lambda request: request[0])
    begin = requests[0][0]
    trace = make_trace([(t - begin, *rest) for t, *rest in requests], block_tokens=16)  # type: ignore[misc]
    path = tmp_path / "t.parquet"
    write_columns(path, trace)
    again = read_trace(path)
    same(again, trace)
    assert (again.name, again.format) == ("made", "columns")


@pytest.mark.parametrize("name", ["mooncake-conversation", "azure-2023-code"])
def test_real_traces_convert_batch_by_batch(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.parquet"
    write_columns(path, read_batches(sample_path(name)), name=name)
    same(read_trace(path), read_trace(sample_path(name)))
    assert read_trace(path).name == name
    groups = pq.read_metadata(path).num_row_groups
    assert groups == len(list(read_batches(sample_path(name)))) > 1


def test_what_was_skipped_is_still_known_after_conversion(tmp_path: Path) -> None:
    rows = [(1, "GPT-4", 10, 5, 15, "x"), (2, "GPT-4", 10, 0, 10, "x"), (3, "GPT-4", 9, 5, 14, "x")]
    source = write(tmp_path, csv_lines(BURSTGPT_HEADER, *rows))
    path = tmp_path / "t.parquet"
    write_columns(path, read_batches(source))
    same(read_trace(path), read_trace(source))
    assert read_trace(path).skipped == 1


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    rows = [(float(t), "GPT-4", 10, 5, 15, "x") for t in range(20_000)]
    bad = write(tmp_path, csv_lines(BURSTGPT_HEADER, *rows, ("soon", "GPT-4", 10, 5, 15, "x")))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TraceError, match="line 20002"):
        write_columns(tmp_path / "t.parquet", read_batches(bad))
    with pytest.raises(OutputError, match="cannot write"):
        write_columns(tmp_path / "none" / "t.parquet", read_batches(bad))
    with pytest.raises(InputError, match="cannot go to standard output"):
        write_columns("-", read_batches(bad))
    with pytest.raises(InputError, match="no request"):
        write_columns(tmp_path / "t.parquet", [])
    assert sorted(tmp_path.iterdir()) == before


def test_blocks_and_sessions_may_be_missing(tmp_path: Path) -> None:
    table = {name: COLUMNS[name] for name in ("arrival_s", "input_tokens", "output_tokens")}
    trace = read_trace(write(tmp_path, parquet(table)))
    assert (trace.has_blocks, trace.block_tokens, trace.sessions) == (False, 256, None)
    with pytest.raises(TraceError, match=r"greencache.block_tokens is missing"):
        read_trace(write(tmp_path, parquet(table | {"block_names": [[1], [2], [3]]})))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arrival_s": [10.0, None, 12.0]}, "arrival_s is null"),
        ({"arrival_s": [10.0, float("nan"), 12.0]}, "arrival_s must be 0 or more"),
        ({"arrival_s": [10.0, -1.0, 12.0]}, "arrival_s must be 0 or more"),
        ({"arrival_s": [10.0, 9.0, 12.0]}, "arrival_s goes back"),
        ({"input_tokens": [100, 0, 40]}, "input_tokens must be at least 1"),
        ({"input_tokens": [100, 2**40, 40]}, "input_tokens must be at least 1, and below"),
        ({"output_tokens": [1, None, 40]}, "output_tokens is null"),
        ({"block_names": [[5, 6], None, [9]]}, "block_names is null"),
        ({"block_names": [[5, 6], [1, None], [9]]}, "block_names has a null in it"),
        ({"block_names": [[5, 6], [1, 2, 3], [9]]}, "names more blocks of 32 tokens"),
        ({"session": [7, None, 7]}, "session is null"),
    ],
)
def test_a_bad_row_is_named_or_skipped(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, parquet(COLUMNS | change, {"greencache.block_tokens": "32"}))
    with pytest.raises(TraceError, match=reason) as fault:
        read_trace(path)
    assert fault.value.row == 2
    assert f"{path}, row 2: " in str(fault.value)
    trace = read_trace(path, skip_bad=True)
    assert (len(trace), trace.skipped) == (2, 1)
    assert trace.block_names[trace.block_starts[1] :].tolist() == [9]


def test_the_first_bad_row_is_named_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    table = COLUMNS | {"arrival_s": [1.0, 1.0, -1.0], "output_tokens": [1, 0, 1]}
    with pytest.raises(TraceError, match="row 2: output_tokens"):
        read_trace(write(tmp_path, parquet(table, {"greencache.block_tokens": "32"})))


def test_a_wrong_column_type_is_named(tmp_path: Path) -> None:
    table = COLUMNS | {"input_tokens": ["a", "b", "c"]}
    with pytest.raises(TraceError, match="input_tokens is of type string; it must be integers"):
        read_trace(write(tmp_path, parquet(table, {"greencache.block_tokens": "32"})))


def test_order_is_checked_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {"arrival_s": [5.0, 6.0, 4.0], "input_tokens": [1] * 3, "output_tokens": [1] * 3}
    )
    pq.write_table(table, path, row_group_size=1)
    with pytest.raises(TraceError, match="row 3: arrival_s goes back"):
        read_trace(path)
    assert len(read_trace(path, skip_bad=True)) == 2


# Sessions of coding agents


@pytest.mark.slow
def test_the_real_sessions() -> None:
    """Counts of the file, taken with pyarrow alone."""
    requests = blocks = 0
    latest_s = 0.0
    sessions: set[int] = set()
    for batch in read_batches(sample_path("agentic-sessions")):
        requests += len(batch)
        blocks += len(batch.block_names)
        assert len(batch.block_names) < 2**20 + 20_000
        assert (np.diff(np.concatenate([[latest_s], batch.arrival_s])) >= 0).all()
        assert (np.diff(batch.block_starts) == batch.input_tokens // 64).all()
        latest_s = batch.arrival_s[-1]
        assert batch.sessions is not None
        sessions |= set(batch.sessions.tolist())
        owner = np.repeat(batch.sessions, np.diff(batch.block_starts))
        assert (batch.block_names // 2**32 == owner).all()
    table = pq.read_table(sample_path("agentic-sessions"))
    answered = pa.compute.greater(table["output_length"], 0)
    assert requests == pa.compute.sum(answered).as_py() == 22_558
    lengths = pa.compute.list_value_length(table["hash_ids"])
    assert blocks == pa.compute.sum(lengths.filter(answered)).as_py()
    assert latest_s == pa.compute.max(table["abs_t_s"]).as_py()
    assert len(sessions) == 337


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session": ["one", None, "one", "two", "two"]}, "session is null"),
        ({"abs_t_s": [0.0, float("inf"), 1.0, 2.0, 3.0]}, "abs_t_s must be 0 or more"),
        ({"hash_ids": [[1], [-2], [3], [4], [5]]}, "a hash_id is negative"),
        ({"hash_ids": [[1], [2**32], [3], [4], [5]]}, "more than 32 bits"),
        ({"output_length": [1, -1, 1, 1, 1]}, "output_length must be at least 0"),
    ],
)
def test_a_bad_row_of_a_session_is_named_or_skipped(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path, parquet(AGENTIC | change))
    with pytest.raises(TraceError, match=reason) as fault:
        read_trace(path)
    assert fault.value.row == 2
    assert read_trace(path, skip_bad=True).skipped >= 1
