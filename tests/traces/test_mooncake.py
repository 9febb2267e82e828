"""The Mooncake reader: real traces are read, anything else is a clear error or a counted skip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from greencache.errors import InputError, TraceError
from greencache.traces import RequestTrace, read_trace

GOOD = {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [1, 2]}


def line(**changes: Any) -> str:
    return json.dumps(GOOD | changes)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


def test_the_real_trace(conversation: RequestTrace) -> None:
    """Counts as published with it (shared data sheet): requests, span, mean lengths."""
    assert len(conversation) == 12_031
    assert conversation.duration_s == pytest.approx(3536.999)
    assert conversation.input_tokens.mean() == pytest.approx(12_035, abs=1)
    assert conversation.output_tokens.mean() == pytest.approx(343, abs=1)
    partial = conversation.input_tokens % 512 != 0
    assert int(partial.sum()) == 12_009
    assert (conversation.full_blocks[partial] * 512 < conversation.input_tokens[partial]).all()
    assert (conversation.reusable_blocks * 512 < conversation.input_tokens).all()


def test_plain_and_gzipped_are_the_same(tmp_path: Path) -> None:
    text = line() + "\n" + line(timestamp=1500) + "\n"
    plain, zipped = tmp_path / "a.jsonl", tmp_path / "b.dat"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    one, other = read_trace(plain), read_trace(zipped)
    assert one.arrival_s.tolist() == other.arrival_s.tolist() == [0.0, 1.5]
    assert one.block_names.tolist() == other.block_names.tolist() == [1, 2, 1, 2]


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line().encode())
    assert len(read_trace(path)) == 1


def test_only_full_blocks_can_be_stored(tmp_path: Path) -> None:
    trace = read_trace(
        write(
            tmp_path / "t.jsonl",
            line(input_length=1000, hash_ids=[1, 2]),  # one full block, one partial
            line(input_length=1024, hash_ids=[1, 3]),  # two full ones, of which one token must stay
            line(input_length=1030, hash_ids=[1, 3]),  # two full ones, the partial one not named
        )
    )
    assert trace.full_blocks.tolist() == [1, 2, 2]
    assert trace.reusable_blocks.tolist() == [1, 1, 2]
    assert trace.unique_blocks == 3


def test_time_begins_with_the_first_request(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line(timestamp=5000), line(timestamp=7000))
    assert read_trace(path).arrival_s.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not a request"),
        ("[1, 2]", "not a request"),
        ('{"timestamp": 0}', "input_length"),
        (line(input_length="many"), "Expected `int`, got `str`"),
        (line(timestamp=None), "Expected `float`"),
        (line(hash_ids=[1, "x"]), "hash_ids"),
        (line(timestamp=150, input_length=-5), "input_length is -5; it must be at least 1"),
        (line(timestamp=150, output_length=0), "output_length is 0; it must be at least 1"),
        (line(timestamp=-1), "timestamp is -0.001 s"),
        (line(timestamp=10), "timestamp goes back from 0.099 to 0.01 s"),
        (line(timestamp=100, hash_ids=[]), "0 hash_ids for 1000 tokens"),
        (line(timestamp=100, hash_ids=[1, 2, 3]), "3 hash_ids for 1000 tokens"),
        (line(timestamp=100, hash_ids=[1, 2**70]), "does not fit in 64 bits"),
        ("\x00\x01\xff binary", "not a request"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, bad: str, reason: str) -> None:
    path = write(tmp_path / "t.jsonl", line(timestamp=99), bad, line(timestamp=200))
    with pytest.raises(TraceError, match=reason) as fault:
        read_trace(path)
    assert fault.value.line == 2
    assert f"{path}, line 2: " in str(fault.value)
    assert "\n" not in str(fault.value)
    trace = read_trace(path, skip_bad=True)
    assert (len(trace), trace.skipped) == (2, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (gzip.compress(line().encode() * 50, mtime=0)[:-20], "damaged gzip"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
        (bytes(range(256)) * 40, "line 1: not a trace in a known format"),
        (gzip.compress(b"\n" * 10**6, mtime=0), "more than 10,000 blank lines"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=reason):
        read_trace(path)


def test_nothing_but_bad_lines_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="2 lines were skipped"):
        read_trace(write(tmp_path / "t.jsonl", "x", "y"), format="mooncake", skip_bad=True)


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(TraceError, match="is a directory"):
        read_trace(tmp_path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner)
    ),
    max_leaves=6,
)
_lines = (
    st.binary(max_size=60)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(dict.fromkeys(GOOD, _json)).map(lambda v: json.dumps(v).encode())
    | st.just(line().encode())
)


@given(lines=st.lists(_lines, max_size=8), zipped=st.booleans(), cut=st.integers(0, 30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_an_error_or_a_skip_and_nothing_else(
    tmp_path: Path, lines: list[bytes], zipped: bool, cut: int
) -> None:
    content = b"\n".join(lines)
    if zipped:
        content = gzip.compress(content)
        content = content[: len(content) - cut]
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    for skip_bad in (False, True):
        try:
            trace = read_trace(path, skip_bad=skip_bad)
        except TraceError:
            continue
        assert len(trace) >= 1
        assert trace.unique_blocks <= len(trace.block_names)


def test_a_mean_rate_stretches_time(conversation: RequestTrace) -> None:
    slower = conversation.at_mean_rate(1.0)
    assert slower.mean_rate == pytest.approx(1.0)
    assert slower.block_ids is not None
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="mean rate"):
            conversation.at_mean_rate(rate)


def test_a_burst_has_no_rate(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "t.jsonl", line(), line()))
    with pytest.raises(InputError, match="at once"):
        trace.at_mean_rate(1.0)
