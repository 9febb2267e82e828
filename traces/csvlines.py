"""What the CSV formats share: the fields of a line that the header names, and numbers in them."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Sequence

from greencache.traces.lines import BadLineError

__all__ = ["NO_BLOCKS", "UNHASHED_BLOCK_TOKENS", "Columns", "split", "whole"]

UNHASHED_BLOCK_TOKENS = 256
"""Block size taken for traces that name no blocks: LMCache's default chunk."""

NO_BLOCKS: array[int] = array("q")


def split(text: bytes) -> list[str]:
    """Fields of one line, quoted or not.

    Raises
    ------
    BadLineError
        If it is not a line of a CSV file.
    """
    try:
        line = text.decode()
        return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except (UnicodeDecodeError, csv.Error, StopIteration):
        raise BadLineError("not a line of a CSV file") from None


class Columns:
    """Chosen fields of every line.

    Parameters
    ----------
    header:
        Names of all columns.
    wanted:
        Which of them to return; all are in the header.
    """

    def __init__(self, header: Sequence[str], wanted: Sequence[str]) -> None:
        self._width = len(header)
        self._at = [header.index(name) for name in wanted]

    def of(self, text: bytes) -> list[str]:
        """The wanted fields of one line.

        Raises
        ------
        BadLineError
            If the line has fewer or more fields than the header.
        """
        row = split(text)
        if len(row) != self._width:
            raise BadLineError(f"has {len(row)} fields where the header has {self._width}")
        return [row[at] for at in self._at]


def whole(text: str, name: str) -> int:
    """A whole number of at most 18 characters.

    Raises
    ------
    BadLineError
        If it is not one.
    """
    digits = text.strip()
    if not (digits.removeprefix("-").isdecimal() and digits.isascii() and len(digits) <= 18):
        raise BadLineError(f"{name} is {text[:40]!r}, not a whole number")
    return int(digits)
