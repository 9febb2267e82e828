"""The trace that a command was given: a shipped one by name, a file, or standard input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from greencache.errors import UnknownNameError
from greencache.traces.batches import Batch
from greencache.traces.files import STDIN
from greencache.traces.formats import open_batches, read_trace, trace_name
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import DEFAULT_TRACE, sample_names, sample_path

__all__ = ["TraceSource"]


@dataclass(frozen=True, slots=True)
class TraceSource:
    """Where a trace is, and how to read it.

    Attributes
    ----------
    path:
        The file.
    name:
        What to call it.
    format:
        Its format, None if it is to be recognised.
    block_tokens:
        Size of blocks to have it in, None for its own.
    skip_bad:
        Whether malformed lines are skipped.
    """

    path: Path
    name: str
    format: str | None
    block_tokens: int | None
    skip_bad: bool

    @classmethod
    def of(
        cls, trace: Path | None, format: str | None, block_tokens: int | None, skip_bad: bool
    ) -> TraceSource:
        """What the options of a command say; the default is the conversation that ships.

        Raises
        ------
        UnknownNameError
            If the trace is neither one that ships nor a file, and looks like no file.
        """
        name = DEFAULT_TRACE if trace is None else str(trace)
        if name in sample_names():
            return cls(sample_path(name), name, format, block_tokens, skip_bad)
        path = Path(name)
        looks_like_a_file = path == STDIN or path.suffix or len(path.parts) != 1 or path.exists()
        if not looks_like_a_file:
            raise UnknownNameError("trace", name, sample_names())
        return cls(path, trace_name(path), format, block_tokens, skip_bad)

    def open(self) -> tuple[str, Iterator[Batch]]:
        """Its format and its batches, in its own blocks."""
        return open_batches(self.path, format=self.format, skip_bad=self.skip_bad)

    def read(self) -> RequestTrace:
        """Read it.

        Raises
        ------
        InputError
            If it cannot be read, or not in such blocks.
        """
        return read_trace(
            self.path,
            format=self.format,
            block_tokens=self.block_tokens,
            skip_bad=self.skip_bad,
            name=self.name,
        )
