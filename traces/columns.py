"""Our own Parquet layout of a trace, and its writer: what other formats are converted to.

Columns ``arrival_s`` (double), ``input_tokens`` and ``output_tokens`` (int64), ``block_names``
(list<int64>; may be missing where the trace names no blocks) and ``session`` (int64; missing where
it knows none), one row a request, in order of arrival. Metadata of the file:
``greencache.block_tokens``, ``greencache.name``, ``greencache.skipped``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greencache.errors import InputError, TraceError
from greencache.output import STDOUT, output_file
from greencache.traces.batches import BATCH_REQUESTS, Batch
from greencache.traces.csvlines import UNHASHED_BLOCK_TOKENS
from greencache.traces.lines import MOST_TOKENS
from greencache.traces.parquet import Rows, open_parquet, read_rows
from greencache.traces.requests import RequestTrace

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_columns", "recorded_name", "write_columns"]

_NAMES, _SESSION = "block_names", "session"


def _recorded_int(path: Path, metadata: dict[bytes, bytes], key: str, default: int | None) -> int:
    text = metadata.get(f"greencache.{key}".encode())
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit() or len(text) > 18:
        raise TraceError(path, f"metadata greencache.{key} is missing or not a whole number")
    return int(text)


def recorded_name(path: Path) -> str | None:
    """What the writer called the trace, None if it did not say."""
    with open_parquet(path) as file:
        name = (file.metadata.metadata or {}).get(b"greencache.name")
    return None if name is None else name.decode(errors="replace")


def read_columns(path: Path, *, skip_bad: bool) -> Iterator[Batch]:
    """Read such a file in batches.

    Raises
    ------
    TraceError
        If it is damaged, or (without ``skip_bad``) for its first bad row.
    """
    with open_parquet(path) as file:
        columns = set(file.schema_arrow.names)
        metadata = file.metadata.metadata or {}
        needed = _NAMES in columns
        block_tokens = _recorded_int(
            path, metadata, "block_tokens", None if needed else UNHASHED_BLOCK_TOKENS
        )
        if not 1 <= block_tokens < MOST_TOKENS:
            raise TraceError(path, f"metadata greencache.block_tokens is {block_tokens}")
        skipped = _recorded_int(path, metadata, "skipped", 0)
        wanted = ["arrival_s", "input_tokens", "output_tokens"]
        wanted += [name for name in (_NAMES, _SESSION) if name in columns]
        latest_s = 0.0
        for rows in read_rows(path, file, wanted):
            batch, latest_s = _batch(rows, wanted, block_tokens, latest_s, skip_bad=skip_bad)
            # What was left out when the file was written is told once, with the first rows.
            yield replace(batch, skipped=batch.skipped + skipped)
            skipped = 0


def _batch(
    rows: Rows, columns: list[str], block_tokens: int, latest_s: float, *, skip_bad: bool
) -> tuple[Batch, float]:
    """The good rows of a slice, and when the last of them arrives."""
    arrival_s = rows.arrivals("arrival_s")
    inputs, outputs = rows.tokens("input_tokens"), rows.tokens("output_tokens")
    names, lengths = np.zeros(0, np.int64), np.zeros(len(rows), np.int64)
    if _NAMES in columns:
        names, lengths = rows.lists(_NAMES)
        rows.refuse_too_many_blocks(_NAMES, lengths, inputs, block_tokens)
    sessions = rows.integers(_SESSION) if _SESSION in columns else None
    reached = np.maximum.accumulate(np.where(rows.good, arrival_s, -np.inf))
    before = np.concatenate([[latest_s], np.maximum(reached, latest_s)[:-1]])
    rows.refuse(arrival_s < before, "arrival_s goes back")
    if not skip_bad:
        rows.check()
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    whole = Batch(arrival_s, inputs, outputs, block_tokens, names, starts, sessions)
    if rows.good.all():
        return whole, float(arrival_s[-1]) if len(rows) else latest_s
    good = whole.take(np.flatnonzero(rows.good))
    good = replace(good, skipped=len(rows) - len(good))
    return good, float(good.arrival_s[-1]) if len(good) else latest_s


def _as_batch(trace: RequestTrace) -> Batch:
    return Batch(
        trace.arrival_s,
        trace.input_tokens,
        trace.output_tokens,
        trace.block_tokens,
        trace.block_names,
        trace.block_starts,
        trace.sessions,
        trace.skipped,
    )


def _slices(trace: RequestTrace) -> Iterator[Batch]:
    whole = _as_batch(trace)
    for first in range(0, len(whole), BATCH_REQUESTS):
        part = whole.take(np.arange(first, min(first + BATCH_REQUESTS, len(whole))))
        yield replace(part, skipped=whole.skipped if first == 0 else 0)


def write_columns(
    path: Path | str, trace: Iterable[Batch] | RequestTrace, *, name: str | None = None
) -> None:
    """Write a trace in this layout, batch by batch, so that memory does not grow with it.

    Each batch becomes a row group. The file appears whole or not at all.

    Parameters
    ----------
    path:
        The file.
    trace:
        A trace, or batches as `read_batches` yields them.
    name:
        What to call the trace; by default a trace's own name, or the file's.

    Raises
    ------
    InputError
        If there is no batch, or ``path`` is standard output.
    OutputError
        If the file cannot be written.
    TraceError
        From reading the batches.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path == STDOUT:
        raise InputError("a Parquet file cannot go to standard output; name a file")
    batches = iter(_slices(trace) if isinstance(trace, RequestTrace) else trace)
    first = next(batches, None)
    if first is None:
        raise InputError(f"nothing to write to {path}: the trace has no request")
    if name is None:
        name = trace.name if isinstance(trace, RequestTrace) else path.name.split(".")[0]
    schema = pa.schema(
        [
            pa.field("arrival_s", pa.float64(), nullable=False),
            pa.field("input_tokens", pa.int64(), nullable=False),
            pa.field("output_tokens", pa.int64(), nullable=False),
            pa.field(_NAMES, pa.list_(pa.int64()), nullable=False),
            *([] if first.sessions is None else [pa.field(_SESSION, pa.int64(), nullable=False)]),
        ],
        metadata={
            "greencache.block_tokens": str(first.block_tokens),
            "greencache.name": name,
        },
    )
    skipped = 0
    with (
        output_file(path) as sink,
        pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        batch: Batch | None = first
        while batch is not None:
            skipped += batch.skipped
            if len(batch):
                writer.write_batch(pa.record_batch(_arrow_columns(batch, schema), schema=schema))
            batch = next(batches, None)
        writer.add_key_value_metadata({"greencache.skipped": str(skipped)})


def _arrow_columns(batch: Batch, schema: pa.Schema) -> list[pa.Array]:
    import pyarrow as pa

    made = {
        "arrival_s": lambda: pa.array(batch.arrival_s),
        "input_tokens": lambda: pa.array(batch.input_tokens),
        "output_tokens": lambda: pa.array(batch.output_tokens),
        _NAMES: lambda: pa.ListArray.from_arrays(
            pa.array(batch.block_starts.astype(np.int32)), pa.array(batch.block_names)
        ),
        _SESSION: lambda: pa.array(batch.sessions),
    }
    return [made[field.name]() for field in schema]
