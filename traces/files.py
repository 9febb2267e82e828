"""Lines of a text file that may be gzipped, with every way it can fail turned into our error."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from greencache.errors import InputError

__all__ = ["MAX_LINE_BYTES", "read_lines"]

MAX_LINE_BYTES = 64 * 2**20
"""A line longer than this is taken for something that is no text file."""

_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: Path, error: Callable[..., InputError]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line)`` without line ends, one at a time, blank lines left out.

    Parameters
    ----------
    path:
        The file; gzip is recognised by its first bytes, not by its name.
    error:
        Makes the exception to raise: ``error(path, reason, line=...)``.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            magic = raw.read(len(_GZIP_MAGIC))
            raw.seek(0)
            text = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if magic == _GZIP_MAGIC else raw
            while line := text.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise error(path, "is longer than any line of such a file", line=number)
                stripped = line.strip()
                if stripped:
                    yield number, stripped
    except FileNotFoundError:
        raise error(path, "no such file") from None
    except IsADirectoryError:
        raise error(path, "is a directory; name a file in it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as fault:
        raise error(path, f"damaged gzip data after line {number} ({fault})") from None
    except OSError as fault:
        raise error(path, f"cannot be read ({fault.strerror or fault})") from None
