"""Rows of Parquet files in slices, with every way they can fail turned into our error.

pyarrow takes 0.2 s to import, so that happens where a Parquet file is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from greencache.errors import TraceError
from greencache.traces.batches import BATCH_NAMES, BATCH_REQUESTS
from greencache.traces.lines import LATEST_S, MOST_TOKENS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["PARQUET_MAGIC", "Rows", "open_parquet", "read_rows"]

PARQUET_MAGIC = b"PAR1"

_BUFFER_BYTES = 2**20


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """The file as a ``pyarrow.parquet.ParquetFile``.

    Raises
    ------
    TraceError
        For whatever goes wrong with the file while it is open.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise TraceError(path, "is a directory; name a file in it")
    if not path.exists():
        raise TraceError(path, "no such file")
    try:
        # Columns are read as a stream, not whole.
        with pq.ParquetFile(
            path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            yield file
    except TraceError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as fault:
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise TraceError(path, f"damaged or unreadable Parquet file ({reason})") from None


def read_rows(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> Iterator[Rows]:
    """Yield the columns ``names``, a slice of rows at a time, about a batch each."""
    first = 1
    for batch in file.iter_batches(
        batch_size=_rows_at_a_time(file), columns=list(names), use_threads=False
    ):
        yield Rows(path, first, batch)
        first += batch.num_rows


def _rows_at_a_time(file: pq.ParquetFile) -> int:
    """As many as have about a batch of values, in the column with most values to a row."""
    most = 1.0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group)
        values = [rows.column(at).num_values for at in range(rows.num_columns)]
        most = max(most, max(values, default=0) / max(rows.num_rows, 1))
    return max(1, min(BATCH_REQUESTS, int(BATCH_NAMES / most)))


class Rows:
    """A slice of the rows of a file, and which of them are bad.

    Parameters
    ----------
    path:
        The file, for errors.
    first:
        Number of the first row, from 1.
    batch:
        A ``pyarrow.RecordBatch``.
    """

    def __init__(self, path: Path, first: int, batch: pa.RecordBatch) -> None:
        self._path = path
        self._first = first
        self._batch = batch
        self.good: NDArray[np.bool_] = np.ones(batch.num_rows, np.bool_)
        self._worst: tuple[int, str] | None = None

    def __len__(self) -> int:
        return len(self.good)

    def refuse(self, bad: NDArray[np.bool_], reason: str) -> None:
        """Mark rows as bad; for the error, the first bad row counts."""
        bad = bad & self.good
        if bad.any():
            row = int(np.argmax(bad))
            if self._worst is None or row < self._worst[0]:
                self._worst = (row, reason)
            self.good &= ~bad

    def leave_out(self, rows: NDArray[np.bool_]) -> None:
        """Leave rows out that are no requests, though nothing is wrong with them."""
        self.good &= ~rows

    def check(self) -> None:
        """Raise a `TraceError` for the first bad row, if there is one."""
        if self._worst is not None:
            row, reason = self._worst
            raise TraceError(self._path, reason, row=self._first + row)

    def _column(self, name: str, kinds: str) -> pa.Array:
        import pyarrow as pa

        column = self._batch.column(self._batch.schema.get_field_index(name))
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        is_integer = pa.types.is_integer(column.type)
        is_number = is_integer or pa.types.is_floating(column.type)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not {"integers": is_integer, "numbers": is_number, "text": is_text}[kinds]:
            raise TraceError(self._path, f"{name} is of type {column.type}; it must be {kinds}")
        self.refuse(_nulls(column), f"{name} is null")
        return column

    def arrivals(self, name: str) -> NDArray[np.float64]:
        """A column of times in seconds; rows with values that no clock shows are refused."""
        column = self._column(name, "numbers")
        times: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        # Rather a comparison that NaN fails than one that it passes.
        self.refuse(~((times >= 0) & (times < LATEST_S)), f"{name} must be 0 or more, below 1e12")
        return times

    def integers(self, name: str) -> NDArray[np.int64]:
        """A column of integers; unsigned ones of 64 bits are wrapped, and null is 0."""
        column = self._column(name, "integers")
        values: NDArray[np.int64] = column.fill_null(0).to_numpy(zero_copy_only=False)
        return values.astype(np.int64)

    def tokens(self, name: str, *, least: int = 1) -> NDArray[np.int64]:
        """A column of lengths; rows with less than ``least`` tokens or far too many are refused."""
        values = self.integers(name)
        self.refuse(
            (values < least) | (values >= MOST_TOKENS),
            f"{name} must be at least {least}, and below 2^31",
        )
        return values

    def text(self, name: str) -> list[str]:
        """A column of text."""
        return [each or "" for each in self._column(name, "text").to_pylist()]

    def lists(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A column of lists of integers: all their values, and how many each row has."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._batch.column(self._batch.schema.get_field_index(name))
        of_lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        if not of_lists or not pa.types.is_integer(column.type.value_type):
            raise TraceError(
                self._path, f"{name} is of type {column.type}; it must be lists of integers"
            )
        self.refuse(_nulls(column), f"{name} is null")
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        lengths = lengths.astype(np.int64)
        values = column.flatten()
        if values.null_count:
            holes = np.zeros(len(self) + 1, np.int64)
            row_of = np.repeat(np.arange(len(self)), lengths)
            np.add.at(holes, row_of[_nulls(values)], 1)
            self.refuse(holes[:-1] > 0, f"{name} has a null in it")
        return values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), lengths

    def refuse_too_many_blocks(
        self, name: str, lengths: NDArray[np.int64], inputs: NDArray[np.int64], block_tokens: int
    ) -> None:
        """Refuse rows that name more blocks than their prompts have."""
        self.refuse(
            lengths > -(-inputs // block_tokens),
            f"{name} names more blocks of {block_tokens} tokens than the prompt has",
        )


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return nulls
