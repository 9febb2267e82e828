"""Whatever a reader is fed, it ends with a `TraceError` or a valid trace, and never hangs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from greencache.errors import TraceError
from greencache.traces import FORMATS, read_trace
from tests.traces.examples import (
    AGENTIC,
    AZURE_HEADER,
    BURSTGPT_3_HEADER,
    COLUMNS,
    EXAMPLES,
    bailian,
    lookup,
    mooncake,
    parquet,
    write,
)

quietly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path: Path, format: str | None = None) -> None:
    """Read it both ways: what comes out is sound, or a `TraceError`."""
    for skip_bad in (False, True):
        try:
            trace = read_trace(path, format=format, skip_bad=skip_bad)
        except TraceError:
            continue
        assert len(trace) >= 1
        assert np.isfinite(trace.arrival_s).all()
        assert (np.diff(trace.arrival_s) >= 0).all()
        assert min(trace.input_tokens.min(), trace.output_tokens.min()) >= 1
        assert len(trace.block_starts) == len(trace) + 1
        assert trace.block_starts[-1] == len(trace.block_names)
        assert trace.unique_blocks <= len(trace.block_names)
        assert (trace.full_blocks * trace.block_tokens <= trace.input_tokens).all()


@pytest.mark.parametrize("name", [None, *FORMATS])
@given(content=st.binary(max_size=200), zipped=st.booleans())
@settings(quietly, max_examples=40)
def test_random_bytes(tmp_path: Path, name: str | None, content: bytes, zipped: bool) -> None:
    survives(write(tmp_path, gzip.compress(content) if zipped else content), name)


_edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["put", "cut", "double"]), st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for where, what, extra in edits:
        at = int(where * len(content))
        if what == "put":
            content = content[:at] + extra + content[at + len(extra) :]
        elif what == "cut":
            content = content[:at] + content[at + len(extra) :]
        else:
            content = content[:at] + content[max(0, at - 20) :]
    return content


@pytest.mark.parametrize("name", FORMATS)
@given(edits=_edits, detect=st.booleans())
@settings(quietly, max_examples=60)
def test_damaged_files(
    tmp_path: Path, name: str, edits: list[tuple[float, str, bytes]], detect: bool
) -> None:
    path = write(tmp_path, edited(EXAMPLES[name], edits))
    survives(path, None if detect else name)


@pytest.mark.parametrize("name", FORMATS)
@given(share=st.floats(0, 0.999))
@settings(quietly, max_examples=20)
def test_files_that_end_too_early(tmp_path: Path, name: str, share: float) -> None:
    whole = EXAMPLES[name]
    if not whole.startswith(b"PAR1"):
        whole = gzip.compress(whole)
    path = write(tmp_path, whole[: int(share * len(whole))])
    with pytest.raises(TraceError):
        read_trace(path, format=name)
    survives(path)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, 1e12])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("mooncake", mooncake(5)),
        ("bailian", bailian(1, -1, 5.0)),
        ("lmcache", lookup("a", 5.0)),
    ],
)
@given(data=st.data())
@settings(quietly, max_examples=80)
def test_json_of_wrong_values(
    tmp_path: Path, name: str, good: dict[str, Any], data: st.DataObject
) -> None:
    changes = st.dictionaries(st.sampled_from(sorted(good)), _json | st.lists(_json, max_size=4))
    lines = [good | change for change in data.draw(st.lists(changes, min_size=1, max_size=5))]
    survives(write(tmp_path, "\n".join(map(json.dumps, lines)).encode()), name)


_cells = (
    st.sampled_from(
        ["", "nan", "inf", "-1", "0", "1e999", "9" * 30, "1_0", "٣", '"', '"a,b"', " 7 "]
    )
    | st.sampled_from(["9999-12-31 23:59:59.9999999+14:00", "0001-01-01 00:00:00-14:00", "2024W01"])
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(max_size=6)
)


@pytest.mark.parametrize(
    ("name", "header"), [("azure", AZURE_HEADER), ("burstgpt", BURSTGPT_3_HEADER)]
)
@given(rows=st.lists(st.lists(_cells, min_size=1, max_size=9), max_size=5), data=st.data())
@settings(quietly, max_examples=80)
def test_csv_of_wrong_values(
    tmp_path: Path, name: str, header: str, rows: list[list[str]], data: st.DataObject
) -> None:
    good = EXAMPLES["azure"].decode().splitlines()[1].split(",") if name == "azure" else []
    good = good or ["5", "c0ffee", "2", "GPT-4", "472", "18", "490", "API log"]
    for row in rows:
        at = data.draw(st.integers(0, len(good)))
        row[at:] = good[at:]
    text = "\n".join([header, *(",".join(row) for row in rows)])
    survives(write(tmp_path, text.encode(errors="surrogatepass")), name)


_numbers = st.sampled_from([None, 0, 1, -1, 5, 100, 2**31, 2**32, 2**63 - 1, -(2**63)])
_times = _numbers | st.floats() | st.sampled_from([0.0, 1.0, 2.0, 3.0])
_ids = st.none() | st.lists(_numbers, max_size=4)


@given(
    rows=st.lists(st.tuples(_times, _numbers, _numbers, _ids, _numbers), max_size=6),
    block_tokens=st.sampled_from(["16", "0", "", "-5", "9" * 40, "x"]),
)
@settings(quietly, max_examples=100)
def test_columns_of_wrong_values(
    tmp_path: Path, rows: list[tuple[Any, ...]], block_tokens: str
) -> None:
    arrival, inputs, outputs, names, session = zip(*rows, strict=True) if rows else [()] * 5
    table = {
        "arrival_s": pa.array([None if t is None else float(t) for t in arrival], pa.float64()),
        "input_tokens": pa.array(inputs, pa.int64()),
        "output_tokens": pa.array(outputs, pa.int64()),
        "block_names": pa.array(names, pa.list_(pa.int64())),
        "session": pa.array(session, pa.int64()),
    }
    survives(write(tmp_path, parquet(table, {"greencache.block_tokens": block_tokens})))


@given(
    rows=st.lists(
        st.tuples(st.none() | st.text(max_size=3), _times, _numbers, _numbers, _ids), max_size=6
    )
)
@settings(quietly, max_examples=100)
def test_sessions_of_wrong_values(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    session, times, inputs, outputs, ids = zip(*rows, strict=True) if rows else [()] * 5
    table = {
        "session": pa.array(session, pa.large_string()),
        "abs_t_s": pa.array([None if t is None else float(t) for t in times], pa.float64()),
        "input_length": pa.array(inputs, pa.int64()),
        "output_length": pa.array(outputs, pa.int64()),
        "hash_ids": pa.array(ids, pa.list_(pa.int64())),
    }
    survives(write(tmp_path, parquet(table)))


_values = st.sampled_from(
    [
        pa.array(["a", "b", "c"]),
        pa.array([1.5, 2.5, None]),
        pa.array([1, 2, 3], pa.uint64()),
        pa.array([2**64 - 1, 2, 3], pa.uint64()),
        pa.array([1, 2, 3], pa.int8()),
        pa.array([True, False, True]),
        pa.array([[1], [2.5], [3]]),
        pa.array([[2**64 - 1], [2], [3]], pa.large_list(pa.uint64())),
        pa.array([["a"], [], None]),
        pa.array([[[1]], [[2]], [[3]]]),
        pa.array([None, None, None]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([1, 2, 1]).dictionary_encode(),
        pa.array([0, 1, 2], pa.timestamp("us")),
        pa.array([{"x": 1}, {"x": 2}, {"x": 3}]),
    ]
)


@pytest.mark.parametrize("example", [COLUMNS, AGENTIC], ids=["columns", "agentic"])
@given(data=st.data())
@settings(quietly, max_examples=80)
def test_parquet_of_wrong_types(
    tmp_path: Path, example: dict[str, Any], data: st.DataObject
) -> None:
    table = {name: pa.array(values[:3]) for name, values in example.items()}
    table |= data.draw(st.dictionaries(st.sampled_from(sorted(example)), _values, max_size=3))
    survives(write(tmp_path, parquet(table, {"greencache.block_tokens": "32"})))
