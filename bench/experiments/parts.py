"""What was done of a task: a file of rows, a JSON object a line, appended as they are finished.

A row is known by a digest of all that it alone depends on, the file by one of what all its rows
share, code included. A line that was cut short is run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greencache.bench.experiments.rows import Row
from greencache.errors import OutputError

__all__ = ["Part", "digest_of"]


def digest_of(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A short digest of plain data."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Part:
    """The file of one task."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> dict[str, Row]:
        """Finished rows by their key."""
        return {line["key"]: line["row"] for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def append(self, key: str, row: Row) -> None:
        """Add a finished row.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        line = json.dumps({"key": key, "row": row}, allow_nan=False)
        try:
            with self.path.open("a+b") as file:
                end = file.seek(0, 2)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":  # the line that was cut short
                        file.write(b"\n")
                file.write(line.encode() + b"\n")
        except OSError as fault:
            raise OutputError(f"cannot write {self.path}: {fault.strerror}") from None
