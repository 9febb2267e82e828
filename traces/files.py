"""Lines of a text file that may be gzipped, with every way it can fail turned into our error."""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from greencache.errors import InputError

__all__ = ["MAX_LINE_BYTES", "STDIN", "read_lines", "read_rows"]

STDIN = Path("-")
"""The path that stands for standard input."""

MAX_LINE_BYTES = 64 * 2**20
"""A line longer than this is taken for something that is no text file."""

_MOST_BLANK_LINES = 10_000
"""More than this in a row, and a small gzip file could keep us reading for hours."""

_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: Path, error: Callable[..., InputError]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line)`` without line ends, one at a time, blank lines left out.

    Parameters
    ----------
    path:
        The file, or ``-`` for standard input; gzip is recognised by its first bytes.
    error:
        Makes the exception to raise: ``error(path, reason, line=...)``.
    """
    number = blank = 0
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as raw:
            # Looked at without reading, because a pipe cannot be read again.
            zipped = raw.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
            text = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw
            while line := text.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise error(path, "is longer than any line of such a file", line=number)
                stripped = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if stripped:
                    blank = 0
                    yield number, stripped
                    continue
                blank += 1
                if blank > _MOST_BLANK_LINES:
                    raise error(path, f"more than {_MOST_BLANK_LINES:,} blank lines", line=number)
    except FileNotFoundError:
        raise error(path, "no such file") from None
    except IsADirectoryError:
        raise error(path, "is a directory; name a file in it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as fault:
        raise error(path, f"damaged gzip data after line {number} ({fault})") from None
    except OSError as fault:
        raise error(path, f"cannot be read ({fault.strerror or fault})") from None


def read_rows(path: Path, error: Callable[..., InputError]) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number from 1, fields)`` of a CSV file, its header first.

    Parameters are those of `read_lines`, and so are blank lines and gzip.
    """
    for number, line in read_lines(path, error):
        try:
            fields = next(csv.reader([line.decode()]))
        except (UnicodeDecodeError, csv.Error, StopIteration):
            raise error(path, "not a line of a CSV file", line=number) from None
        yield number, fields
