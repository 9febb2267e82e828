"""Which formats of request traces there are, and reading any of them.

A trace is recognised by what is in it, not by its name: Parquet by its first bytes and columns,
CSV by its header, JSON lines by the keys of the first object. Text may be gzipped, and come through
standard input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from greencache.errors import TraceError, UnknownNameError
from greencache.traces.agentic import read_agentic
from greencache.traces.azure import AzureParser
from greencache.traces.bailian import BailianParser
from greencache.traces.batches import Batch, join
from greencache.traces.burstgpt import BurstgptParser
from greencache.traces.columns import read_columns, recorded_name
from greencache.traces.csvlines import split
from greencache.traces.files import STDIN, read_lines
from greencache.traces.lines import BadLineError, LineParser, collect
from greencache.traces.lmcache import LmcacheParser
from greencache.traces.mooncake import MooncakeParser
from greencache.traces.parquet import PARQUET_MAGIC, open_parquet
from greencache.traces.requests import RequestTrace

__all__ = ["FORMATS", "open_batches", "read_batches", "read_trace", "trace_name"]

_Lines = Iterator[tuple[int, bytes]]

_LINES_TO_TRY = 20
"""So many malformed lines may precede the one by which a format is known, if they are skipped."""

_SHOWN = 12
"""So many names are shown of what was found instead."""


@dataclass(frozen=True)
class _Format:
    """One format.

    Attributes
    ----------
    names:
        Keys, columns of the header or columns of the file by which it is known.
    json, csv, parquet:
        How to read it; one of the three.
    """

    names: frozenset[str]
    json: Callable[[], LineParser] | None = None
    csv: Callable[[Sequence[str]], LineParser] | None = None
    parquet: Callable[..., Iterator[Batch]] | None = None


_FORMATS = {
    # What has the keys of Bailian has those of Mooncake too: the first that fits is taken.
    "bailian": _Format(
        frozenset({"chat_id", "parent_chat_id", "timestamp", "input_length", "hash_ids"}),
        json=BailianParser,
    ),
    "mooncake": _Format(
        frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),
        json=MooncakeParser,
    ),
    "lmcache": _Format(
        frozenset({"timestamp", "chunk_size", "seq_len", "chunk_hashes"}),
        json=LmcacheParser,
    ),
    "azure": _Format(
        frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}),
        csv=AzureParser,
    ),
    "burstgpt": _Format(
        frozenset({"Timestamp", "Request tokens", "Response tokens"}),
        csv=BurstgptParser,
    ),
    "agentic": _Format(
        frozenset({"session", "abs_t_s", "input_length", "output_length", "hash_ids"}),
        parquet=read_agentic,
    ),
    "columns": _Format(
        frozenset({"arrival_s", "input_tokens", "output_tokens"}),
        parquet=read_columns,
    ),
}

FORMATS = tuple(sorted(_FORMATS))
"""Names of the formats that can be read."""


def _find(name: str) -> _Format:
    if name not in _FORMATS:
        raise UnknownNameError("trace format", name, _FORMATS)
    return _FORMATS[name]


def _fitting(names: Iterable[str], *, kind: str) -> str | None:
    found = set(names)
    for name, known in _FORMATS.items():
        if getattr(known, kind) is not None and known.names <= found:
            return name
    return None


def _unknown(path: Path, found: str, *, line: int | None = None) -> TraceError:
    reason = f"not a trace in a known format ({', '.join(FORMATS)}): found {found}"
    return TraceError(path, reason, line=line)


def _shown(names: Iterable[str]) -> str:
    names = [ascii(name[:40])[1:-1] for name in itertools.islice(names, _SHOWN + 1)]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _is_parquet(path: Path) -> bool:
    """Only of a file that can be read twice."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError as fault:
        raise TraceError(path, f"cannot be read ({fault.strerror or fault})") from None


def _parquet_format(path: Path) -> str:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
    name = _fitting(names, kind="parquet")
    if name is None:
        raise _unknown(path, f"Parquet with the columns {_shown(names)}")
    return name


def _by_line(text: bytes) -> tuple[str | None, str]:
    """The format that begins with such a line, if any, and what the line is."""
    if text.startswith((b"{", b"[")):
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            return None, f"damaged JSON ({fault})"
        if not isinstance(value, dict):
            return None, "JSON that is no object"
        return _fitting(value, kind="json"), f"JSON with the keys {_shown(value)}"
    if text.startswith(PARQUET_MAGIC):
        return None, "Parquet, which cannot be read from a pipe or gzipped; save it as a file"
    try:
        header = _header(text)
    except BadLineError:
        return None, "neither text nor Parquet"
    return _fitting(header, kind="csv"), f"a line with the fields {_shown(header)}"


def _header(text: bytes) -> list[str]:
    return [name.strip() for name in split(text)]


def _detect(path: Path, lines: _Lines, *, skip_bad: bool) -> tuple[str, _Lines, int]:
    """The format, the lines from the one by which it is known, and how many precede it."""
    refusal: TraceError | None = None
    for tried, (number, text) in enumerate(itertools.islice(lines, _LINES_TO_TRY)):
        name, found = _by_line(text)
        if name is not None:
            return name, itertools.chain([(number, text)], lines), tried
        refusal = refusal or _unknown(path, found, line=number)
        if not skip_bad:
            break
    raise refusal or TraceError(path, "empty")


def _line_batches(
    path: Path, lines: _Lines, name: str, *, skip_bad: bool, skipped: int
) -> Iterator[Batch]:
    known = _FORMATS[name]
    if known.json is not None:
        parser = known.json()
    else:
        assert known.csv is not None
        number, text = next(lines, (1, b""))
        try:
            header = _header(text)
        except BadLineError:
            header = []
        if not known.names <= set(header):
            wanted = ", ".join(sorted(known.names))
            raise TraceError(path, f"not a header with the columns {wanted}", line=number)
        parser = known.csv(header)
    for batch in collect(path, lines, parser, skip_bad=skip_bad):
        yield replace(batch, skipped=batch.skipped + skipped)
        skipped = 0


def _parquet_batches(path: Path, name: str, *, skip_bad: bool) -> Iterator[Batch]:
    known = _FORMATS[name]
    assert known.parquet is not None
    if path == STDIN:
        raise TraceError(path, "Parquet cannot be read from standard input; name a file")
    with open_parquet(path) as file:
        found = set(file.schema_arrow.names)
    if not known.names <= found:
        raise TraceError(path, f"not Parquet with the columns {', '.join(sorted(known.names))}")
    yield from known.parquet(path, skip_bad=skip_bad)


def _not_empty(path: Path, batches: Iterable[Batch]) -> Iterator[Batch]:
    requests = skipped = 0
    for batch in batches:
        requests += len(batch)
        skipped += batch.skipped
        yield batch
    if not requests:
        raise TraceError(
            path, f"no request in it; {skipped:,} lines were skipped" if skipped else "empty"
        )


def open_batches(
    path: Path | str, *, format: str | None = None, skip_bad: bool = False
) -> tuple[str, Iterator[Batch]]:
    """As `read_batches`, with the name of the format before the batches."""
    path = Path(path)
    lines, skipped = read_lines(path, TraceError), 0
    if format is not None:
        known = _find(format)
    else:
        if _is_parquet(path):
            format = _parquet_format(path)
        else:
            format, lines, skipped = _detect(path, lines, skip_bad=skip_bad)
        known = _FORMATS[format]
    if known.parquet is not None:
        batches = _parquet_batches(path, format, skip_bad=skip_bad)
    else:
        batches = _line_batches(path, lines, format, skip_bad=skip_bad, skipped=skipped)
    return format, _not_empty(path, batches)


def read_batches(
    path: Path | str, *, format: str | None = None, skip_bad: bool = False
) -> Iterator[Batch]:
    """Read a trace a few thousand requests at a time, in memory that does not grow with it.

    Parameters
    ----------
    path:
        The file; line formats may be gzipped, and ``-`` is standard input.
    format:
        One of `FORMATS`; by default it is recognised.
    skip_bad:
        Leave malformed lines out and count them, instead of raising.

    Returns
    -------
    Iterator[Batch]
        At least one, with at least one request in all.

    Raises
    ------
    TraceError
        If the file cannot be read, is in no known format, has no request, or (without ``skip_bad``)
        has a malformed line.
    UnknownNameError
        If there is no such format.
    """
    return open_batches(path, format=format, skip_bad=skip_bad)[1]


def _numbered(sessions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sessions numbered from 0 in order of their first request."""
    _, firsts, which = np.unique(sessions, return_index=True, return_inverse=True)
    rank = np.empty(len(firsts), np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    numbers: NDArray[np.int64] = rank[which]
    return numbers


def trace_name(path: Path) -> str:
    """What a trace is called: as its writer says, or as its file, without endings."""
    if path == STDIN:
        return "stdin"
    if _is_parquet(path) and (recorded := recorded_name(path)):
        return recorded
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix)


def read_trace(
    path: Path | str,
    *,
    format: str | None = None,
    block_tokens: int | None = None,
    skip_bad: bool = False,
    name: str | None = None,
) -> RequestTrace:
    """Read a whole trace, its time beginning with the first arrival.

    Parameters
    ----------
    path, format, skip_bad:
        As for `read_batches`.
    block_tokens:
        Size of blocks to have the trace in, a multiple of its own; any for a trace that names no
        blocks.
    name:
        What to call it; by default as its file, without endings.

    Raises
    ------
    TraceError
        As `read_batches` does.
    UnknownNameError
        If there is no such format.
    InputError
        If blocks of that size cannot be made.
    """
    path = Path(path)
    format, batches = open_batches(path, format=format, skip_bad=skip_bad)
    whole = join(list(batches))
    trace = RequestTrace(
        name=name or trace_name(path),
        arrival_s=whole.arrival_s - whole.arrival_s[0],
        input_tokens=whole.input_tokens,
        output_tokens=whole.output_tokens,
        block_tokens=whole.block_tokens,
        block_names=whole.block_names,
        block_starts=whole.block_starts,
        sessions=None if whole.sessions is None else _numbered(whole.sessions),
        skipped=whole.skipped,
        format=format,
    )
    return trace if block_tokens is None else trace.in_blocks_of(block_tokens)
