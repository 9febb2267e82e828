"""Every format is recognised by its content, and read into the same arrays."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from greencache.errors import InputError, TraceError, UnknownNameError
from greencache.traces import (
    FORMATS,
    RequestTrace,
    lines,
    open_batches,
    read_batches,
    read_trace,
    sample_path,
)
from greencache.traces.batches import BATCH_REQUESTS, join
from tests.traces.examples import (
    AZURE_HEADER,
    BURSTGPT_3_HEADER,
    BURSTGPT_HEADER,
    EXAMPLES,
    bailian,
    csv_lines,
    json_lines,
    lookup,
    mooncake,
    parquet,
    write,
)

LINE_FORMATS = ("azure", "bailian", "burstgpt", "lmcache", "mooncake")


@dataclass
class Expected:
    arrival_s: list[float]
    input_tokens: list[int]
    output_tokens: list[int]
    block_tokens: int
    blocks_of: list[int]
    sessions: list[int] | None = None
    skipped: int = 0


EXPECTED = {
    "mooncake": Expected([0, 0, 2], [1100, 1100, 600], [5, 5, 5], 512, [3, 3, 2]),
    "bailian": Expected([0, 1, 2], [40] * 3, [7] * 3, 16, [3, 3, 3], [0, 1, 0]),
    "lmcache": Expected([0, 2], [600, 600], [1, 1], 256, [2, 2], None, 1),
    "azure": Expected([0, 0.052, 3], [4808, 3180, 110], [10, 8, 27], 256, [0, 0, 0]),
    "burstgpt": Expected([0, 40, 113], [472, 1087, 417], [18, 230, 276], 256, [0, 0, 0]),
    "agentic": Expected(
        [0, 0, 4, 9], [130, 128, 200, 260], [10, 40, 20, 30], 64, [2, 2, 3, 4], [0, 1, 0, 0], 1
    ),
    "columns": Expected([0, 1.5, 1.5], [100, 64, 40], [1, 2, 3], 32, [4, 2, 1], [0, 1, 0]),
}


def check(trace: RequestTrace, expected: Expected) -> None:
    assert trace.arrival_s == pytest.approx(expected.arrival_s, abs=1e-6)
    assert trace.input_tokens.tolist() == expected.input_tokens
    assert trace.output_tokens.tolist() == expected.output_tokens
    assert trace.block_tokens == expected.block_tokens
    assert np.diff(trace.block_starts).tolist() == expected.blocks_of
    assert (None if trace.sessions is None else trace.sessions.tolist()) == expected.sessions
    assert trace.skipped == expected.skipped


def test_all_formats_are_tried_here() -> None:
    assert set(FORMATS) == set(EXAMPLES) == set(EXPECTED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_by_content(tmp_path: Path, name: str) -> None:
    trace = read_trace(write(tmp_path, EXAMPLES[name], "misleading.csv.txt"))
    assert trace.format == name
    check(trace, EXPECTED[name])
    check(read_trace(write(tmp_path, EXAMPLES[name]), format=name), EXPECTED[name])


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_text_may_be_gzipped(tmp_path: Path, name: str) -> None:
    check(read_trace(write(tmp_path, gzip.compress(EXAMPLES[name]))), EXPECTED[name])


@pytest.mark.parametrize("name", ["azure", "columns", "mooncake"])
def test_text_may_come_through_a_pipe_and_parquet_may_not(name: str) -> None:
    code = "from greencache.traces import read_trace; print(len(read_trace('-')))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=EXAMPLES[name], capture_output=True, check=False
    )
    if name in LINE_FORMATS:
        assert int(done.stdout) == len(EXPECTED[name].arrival_s)
    else:
        assert b"save it as a file" in done.stderr


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"prompt": "hello", "n": 1}\n', "line 1.*found JSON with the keys prompt, n"),
        (b"[1, 2]\n", "JSON that is no object"),
        (b'{"timestamp": 0\n', "damaged JSON"),
        (b'{"a":' * 10_000, "damaged JSON"),
        (b"zone,utc_hour,kind\nFR,1,x\n", "a line with the fields zone, utc_hour, kind"),
        (b"\xff\xfe\x00\x01", "neither text nor Parquet"),
        (parquet({"x": [1], "y": [2]}), "Parquet with the columns x, y"),
        (
            gzip.compress(parquet({"x": [1]}), mtime=0),
            "Parquet, which cannot be read from a pipe or gzipped",
        ),
        (b"", "empty"),
    ],
)
def test_what_is_no_trace_is_said_to_be_what_it_is(
    tmp_path: Path, content: bytes, found: str
) -> None:
    with pytest.raises(TraceError, match=found) as fault:
        read_trace(write(tmp_path, content))
    assert "\n" not in str(fault.value)
    if found != "empty":
        assert ", ".join(FORMATS) in str(fault.value)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("given_name", FORMATS)
def test_a_wrong_format_is_a_clear_error(tmp_path: Path, name: str, given_name: str) -> None:
    if {name, given_name} <= {"bailian", "mooncake"} or name == given_name:
        return  # a Bailian line has all that one of Mooncake has
    with pytest.raises(TraceError):
        read_trace(write(tmp_path, EXAMPLES[name]), format=given_name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_named_whatever_the_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "none", format=name)
    with pytest.raises(TraceError, match="is a directory"):
        read_trace(tmp_path, format=name)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown trace format 'mooncaek'.*did you mean"):
        read_trace(write(tmp_path, EXAMPLES["mooncake"]), format="mooncaek")


def test_malformed_lines_may_precede_the_one_by_which_the_format_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, b"# comment\n{broken\n" + EXAMPLES["burstgpt"])
    assert read_trace(path, skip_bad=True).skipped == 2
    with pytest.raises(TraceError, match="line 1: not a trace"):
        read_trace(path)


# What the formats record


def test_real_traces_have_their_published_counts() -> None:
    azure = read_trace(sample_path("azure-2023-code"))
    assert (len(azure), azure.skipped, azure.has_blocks) == (8_819, 0, False)
    assert azure.duration_s == pytest.approx(3_435.948, abs=1e-3)
    assert azure.input_tokens.mean() == pytest.approx(2_047.8, abs=0.1)
    first = next(iter(read_batches(sample_path("azure-2023-code"))))
    assert first.arrival_s[0] == pytest.approx(1_700_158_623.97996, abs=1e-5)


def test_azure_times_have_seven_digits_an_offset_or_no_fraction(tmp_path: Path) -> None:
    content = csv_lines(
        AZURE_HEADER,
        ("2024-05-10 00:00:00.009930+00:00", 2162, 5),
        ("2024-05-10 00:00:01+00:00", 2399, 6),
        ("2024-05-10 02:00:02.5+02:00", 10, 0),
        ("2024-05-10 02:00:03.0099301+02:00", 76, 15),
    )
    trace = read_trace(write(tmp_path, content))
    assert trace.arrival_s == pytest.approx([0, 0.99007, 3], abs=1e-6)
    assert trace.skipped == 1, "a request without an answer is counted"


def test_burstgpt_leaves_failures_out_and_knows_sessions(tmp_path: Path) -> None:
    content = csv_lines(
        BURSTGPT_3_HEADER,
        (1.5, "c0ffee", 2, "GPT-4", 10, 5, 15, "Conversation log"),
        (2, "", 2, "ChatGPT", 11, 5, 16, "API log"),
        (3, "c0ffee", 2, "GPT-4", 12, 0, 12, "Conversation log"),
        (4, "c0ffee", 2, "GPT-4", 13, 5, 18, "Conversation log"),
        (5, "", "", "ChatGPT", 0, 0, 0, "API log"),
        (6, "", 2, "ChatGPT", 14, 5, 19, "API log"),
    )
    trace = read_trace(write(tmp_path, content))
    assert trace.input_tokens.tolist() == [10, 11, 13, 14]
    assert trace.sessions is not None
    assert trace.sessions.tolist() == [0, 1, 0, 2]
    assert trace.skipped == 2
    no_sessions = csv_lines(BURSTGPT_HEADER, (1, "GPT-4", 10, 5, 15, "Conversation log"))
    assert read_trace(write(tmp_path, no_sessions)).sessions is None


def test_bailian_turns_belong_to_the_chat_that_they_go_on_with(tmp_path: Path) -> None:
    content = json_lines(
        bailian(1, -1, 0),
        bailian(2, 1, 1),
        bailian(3, -1, 2),
        bailian(4, 2, 3),
        bailian(5, 999, 4),  # its parent was before the trace
        bailian(6, 999, 5),
        bailian(7, -1, 6, output_length=0),
    )
    trace = read_trace(write(tmp_path, content))
    assert trace.sessions is not None
    assert trace.sessions.tolist() == [0, 0, 1, 0, 2, 2]
    assert trace.skipped == 1


def test_lmcache_lookups_are_requests_once_and_models_share_nothing(tmp_path: Path) -> None:
    content = json_lines(
        lookup("a", 10),
        lookup("a", 11),
        lookup("b", 12),
        lookup("c", 13, model_name="qwen"),
        lookup("", 14),
        lookup("", 15),
        lookup("d", 16, chunk_hashes=["0x2", "-0x3"]),
    )
    trace = read_trace(write(tmp_path, content))
    assert trace.skipped == 1, "the second lookup of the same request"
    ids = trace.block_ids.reshape(-1, 2).tolist()
    assert ids == [[0, 1], [0, 1], [2, 3], [0, 1], [0, 1], [4, 5]]
    assert trace.output_tokens.tolist() == [1] * 6, "the log has no answers"
    with pytest.raises(TraceError, match="line 2: chunk_size is 128 after 256"):
        read_trace(write(tmp_path, json_lines(lookup("a", 1), lookup("b", 2, chunk_size=128))))
    with pytest.raises(TraceError, match="not hexadecimal"):
        read_trace(write(tmp_path, json_lines(lookup("a", 1, chunk_hashes=["xyz"]))))


def test_hashes_of_64_bits_stay_apart(tmp_path: Path) -> None:
    ids = [2**64 - 1, 2**63, 2**63 - 1, 0, -(2**63) + 1]
    content = json_lines(
        *(mooncake(t, tokens=5 * 512, hash_ids=ids[t:] + ids[:t]) for t in range(5))
    )
    trace = read_trace(write(tmp_path, content))
    assert trace.unique_blocks == 25
    first = [trace.block_names[start] for start in trace.block_starts[:-1]]
    assert len(set(first)) == 5
    with pytest.raises(TraceError, match="does not fit in 64 bits"):
        read_trace(write(tmp_path, json_lines(mooncake(0, tokens=512, hash_ids=[2**64]))))


def test_agentic_blocks_are_shared_inside_a_session_only(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, EXAMPLES["agentic"]))
    chains = np.split(trace.block_ids, trace.block_starts[1:-1])
    assert [chain.tolist() for chain in chains] == [[0, 1], [2, 3], [0, 1, 4], [0, 1, 4, 5]]


def test_a_trace_without_hashes_shows_no_reuse(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, EXAMPLES["azure"]), block_tokens=100)
    assert not trace.has_blocks
    assert (trace.block_tokens, trace.unique_blocks) == (100, 0)
    assert trace.reusable_blocks.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="choose a multiple"):
        read_trace(write(tmp_path, EXAMPLES["bailian"]), block_tokens=100)
    assert read_trace(write(tmp_path, EXAMPLES["bailian"]), block_tokens=32).block_tokens == 32


def test_the_name_is_that_of_the_file_without_endings(tmp_path: Path) -> None:
    for name, called in {"x.jsonl.gz": "x", "a.b.csv": "a.b", "plain": "plain"}.items():
        assert read_trace(write(tmp_path, EXAMPLES["azure"], name)).name == called
    assert read_trace(write(tmp_path, EXAMPLES["columns"])).name == "kept"
    assert read_trace(write(tmp_path, EXAMPLES["azure"]), name="mine").name == "mine"


# Batches


def test_batches_are_small_and_together_the_whole(tmp_path: Path) -> None:
    lines = [mooncake(t, hash_ids=[t, t + 1, t + 2]) for t in range(3 * BATCH_REQUESTS + 5)]
    path = write(tmp_path, json_lines(*lines))
    format, batches = open_batches(path)
    parts = list(batches)
    assert format == "mooncake"
    assert [len(part) for part in parts] == [BATCH_REQUESTS] * 3 + [5]
    assert parts[1].arrival_s[0] == pytest.approx(BATCH_REQUESTS / 1e3)
    whole, trace = join(parts), read_trace(path)
    assert whole.block_names.tolist() == trace.block_names.tolist()
    assert whole.block_starts.tolist() == trace.block_starts.tolist()
    assert trace.block_names.tolist() == [n for line in lines for n in line["hash_ids"]]


@pytest.mark.slow
def test_long_prompts_make_batches_of_few_requests(tmp_path: Path) -> None:
    line = bailian(1, -1, 0, input_length=16 * 100_000, hash_ids=list(range(100_000)))
    content = json_lines(*[line | {"timestamp": t / 10} for t in range(60)])
    parts = list(read_batches(write(tmp_path, gzip.compress(content, 1))))
    assert sum(map(len, parts)) == 60
    assert max(len(part.block_names) for part in parts) < 1.2e6
    assert join(parts).arrival_s.tolist() == [t / 10 for t in range(60)]


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=60), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_slightly_out_of_order_are_sorted(
    tmp_path: Path, shifts: list[int], chance: random.Random
) -> None:
    times = [10 + i + shift for i, shift in enumerate(shifts)]
    rows = [(t, "GPT-4", chance.randint(1, 99), i + 1, 0, "") for i, t in enumerate(times)]
    trace = read_trace(write(tmp_path, csv_lines(BURSTGPT_HEADER, *rows)))
    by_time = sorted(rows, key=lambda row: int(row[0]))
    assert trace.arrival_s.tolist() == [float(row[0]) - min(times) for row in by_time]
    assert trace.output_tokens.tolist() == [row[3] for row in by_time], "the order of equals stays"


def test_order_is_kept_across_batches_and_far_too_late_is_an_error(tmp_path: Path) -> None:
    chance = random.Random(7)
    count = 3 * BATCH_REQUESTS
    rows = [[float(i), i + 1] for i in range(count)]
    for first in range(0, count, 500):
        part = rows[first : first + 500]
        chance.shuffle(part)
        rows[first : first + 500] = part
    lines = [bailian(int(i), -1, t, input_length=i, hash_ids=[i % 7]) for t, i in rows]
    path = write(tmp_path, json_lines(*lines))
    parts = list(read_batches(path))
    assert len(parts) > 2
    whole = join(parts)
    assert whole.arrival_s.tolist() == list(range(count))
    assert whole.input_tokens.tolist() == list(range(1, count + 1))
    assert whole.block_names.tolist() == [i % 7 for i in range(1, count + 1)]
    assert whole.sessions is not None
    assert whole.sessions.tolist() == list(range(1, count + 1))
    late = write(tmp_path, json_lines(*lines, bailian(1, -1, 5.0)))
    with pytest.raises(TraceError, match=rf"line {count + 1}: timestamp goes back .*overtake"):
        read_trace(late)
    assert read_trace(late, skip_bad=True).skipped == 1


def test_batches_of_one_long_prompt_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prompts that fill a batch there is no window: what comes late is refused."""
    monkeypatch.setattr(lines, "BATCH_NAMES", 3)
    path = write(tmp_path, json_lines(bailian(1, -1, 5), bailian(2, -1, 7), bailian(3, -1, 6)))
    with pytest.raises(TraceError, match="line 3: timestamp goes back from 7 to 6 s"):
        read_trace(path)
    assert read_trace(path, skip_bad=True).arrival_s.tolist() == [0, 2]


def test_one_wrong_time_does_not_shut_out_the_rest(tmp_path: Path) -> None:
    rows = [(t, "GPT-4", 1, 1, 2, "") for t in range(9000)]
    rows[10] = (10**9, "GPT-4", 1, 1, 2, "")
    trace = read_trace(write(tmp_path, csv_lines(BURSTGPT_HEADER, *rows)))
    assert (len(trace), trace.skipped) == (9000, 0)


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("azure", b"2023-11-16 18:17:05,5", "has 2 fields where the header has 3"),
        ("azure", b"yesterday,5,5", "'yesterday', not a date and time"),
        ("azure", b"1066-10-14 09:00:00,5,5", "must be 0 or more"),
        ("azure", b"2023-11-16 18:17:05,5.5,5", "ContextTokens is '5.5', not a whole number"),
        ("azure", b"2023-11-16 18:17:05,-5,5", "ContextTokens is -5; it must be at least 1"),
        ("azure", b"2023-11-16 18:17:05,99999999999,5", "below 2.31"),
        ("azure", b"2023-11-16 18:17:05," + b"9" * 5000 + b",5", "not a whole number"),
        ("azure", b'"2023-11-16 18:17:05,5,5', "not a line of a CSV file"),
        ("azure", b"\xff,5,5", "not a line of a CSV file"),
        ("burstgpt", b"nan,GPT-4,1,1,2,x", "Timestamp is nan s"),
        ("burstgpt", b"1e300,GPT-4,1,1,2,x", "below 1e12"),
        ("burstgpt", b"soon,GPT-4,1,1,2,x", "'soon', not a number"),
        ("bailian", json_lines(bailian(2**70, -1, 1)).strip(), "chat_id does not fit"),
        ("bailian", json_lines(bailian(1, -1, 1, hash_ids=[1] * 4)).strip(), "4 hash_ids for 40"),
        ("bailian", json_lines(bailian(1, None, 1)).strip(), "parent_chat_id"),
        ("lmcache", json_lines(lookup("x", 1, chunk_size=0)).strip(), "chunk_size is 0"),
        ("lmcache", json_lines(lookup("x", 1, seq_len=500)).strip(), "2 chunk_hashes for 500"),
        ("lmcache", b'{"a":' * 5000, "not a request in this format"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, name: str, bad: bytes, reason: str) -> None:
    lines = EXAMPLES[name].splitlines()
    path = write(tmp_path, b"\n".join([*lines[:2], bad, *lines[2:]]))
    with pytest.raises(TraceError, match=reason) as fault:
        read_trace(path)
    assert fault.value.line == 3
    assert "\n" not in str(fault.value)
    assert read_trace(path, skip_bad=True).skipped == EXPECTED[name].skipped + 1
