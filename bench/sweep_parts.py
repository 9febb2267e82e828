"""What a sweep has done so far: one Parquet file for each job, written whole or not at all."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from greencache.bench.sweep_jobs import Job, JobRows
from greencache.bench.sweep_rows import COLUMNS, arrow_type
from greencache.errors import OutputError
from greencache.output import write_output

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CELL", "Parts", "parquet_bytes"]

CELL = "cell"
"""Column of a part: which of the job's cells a row belongs to."""

_KEY = b"greencache.job"


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table.combine_chunks(), content, compression="zstd", write_page_checksum=True)
    return content.getvalue()


def _schema(job: Job) -> pa.Schema:
    import pyarrow as pa

    fields = [(CELL, pa.int64()), *((name, arrow_type(kind)) for name, kind in COLUMNS.items())]
    return pa.schema(fields, metadata={_KEY: job.key.encode()})


class Parts:
    """The folder of the finished jobs, each under its key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder and see that files can be written in it.

        Raises
        ------
        OutputError
            If not.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder):
                pass
        except FileExistsError:
            raise OutputError(f"cannot write to {self.folder}: it is a file") from None
        except NotADirectoryError:
            raise OutputError(
                f"cannot write to {self.folder}: something above it is a file"
            ) from None
        except OSError as fault:
            raise OutputError(f"cannot write to {self.folder}: {fault.strerror}") from None

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.key}.parquet"

    def load(self, job: Job) -> pa.Table | None:
        """The rows of a job; None if it is not finished, or its file is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self._path(job), schema=None, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        whole = table.schema.equals(_schema(job), check_metadata=True) and set(
            table[CELL].to_pylist()
        ) == set(range(len(job.cells)))
        return table if whole else None

    def save(self, job: Job, rows: JobRows) -> None:
        """Write the rows of a finished job.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        import pyarrow as pa

        records = [{CELL: i, **row} for i, each in enumerate(rows) for row in each]
        table = pa.Table.from_pylist(records, schema=_schema(job))
        write_output(self._path(job), parquet_bytes(table))
