"""Reading a trace in batches takes the same memory however long it is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from greencache.traces import lines, parquet, read_batches, write_columns
from tests.traces.examples import (
    AZURE_HEADER,
    BURSTGPT_3_HEADER,
    bailian,
    csv_lines,
    json_lines,
    lookup,
    mooncake,
)


def azure(count: int) -> bytes:
    stamps = (
        f"2024-05-{10 + t // 86_400} {t // 3600 % 24:02}:{t // 60 % 60:02}:{t % 60:02}"
        for t in range(count)
    )
    return csv_lines(AZURE_HEADER, *((stamp, 500, 5) for stamp in stamps))


def burstgpt(count: int) -> bytes:
    return csv_lines(
        BURSTGPT_3_HEADER,
        *(
            (t, f"session-{t // 3}", 2, "GPT-4", 10, 5, 15, "Conversation log")
            for t in range(count)
        ),
    )


MAKERS: dict[str, Callable[[int], bytes]] = {
    "mooncake": lambda n: json_lines(
        *(mooncake(t, 5000, hash_ids=[*range(t, t + 10)]) for t in range(n))
    ),
    "bailian": lambda n: json_lines(*(bailian(t, t - 1, t) for t in range(n))),
    "lmcache": lambda n: json_lines(*(lookup(f"request-{t}", t) for t in range(n))),
    "azure": azure,
    "burstgpt": burstgpt,
}


def peak_bytes(path: Path) -> tuple[int, int]:
    """The most memory that reading took, of Python and numpy and of pyarrow, and the requests."""
    requests = most_of_arrow = 0
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    for batch in read_batches(path):
        requests += len(batch)
        most_of_arrow = max(most_of_arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak + most_of_arrow, requests


def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, convert: bool) -> None:
    # Small batches, so that a short trace already has many.
    monkeypatch.setattr(lines, "BATCH_REQUESTS", 256)
    monkeypatch.setattr(parquet, "BATCH_REQUESTS", 256)
    count = 1_500
    peaks = {}
    for times in (1, 20):
        path = tmp_path / f"{times}.trace"
        path.write_bytes(MAKERS[name](times * count))
        if convert:
            write_columns(tmp_path / f"{times}.parquet", read_batches(path))
            path = tmp_path / f"{times}.parquet"
        peaks[times], requests = peak_bytes(path)
        assert requests == times * count
    assert peaks[20] < 1.25 * peaks[1] + 50_000


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_twenty_times_the_trace_takes_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check(tmp_path, monkeypatch, name, convert=False)


@pytest.mark.slow
def test_so_do_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, monkeypatch, "mooncake", convert=True)
