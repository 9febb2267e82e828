"""The grid that a user names."""

from __future__ import annotations

from greencache.errors import InputError
from greencache.traces.grid import GridSeries, parse_utc
from greencache.traces.samples import named_grid

__all__ = ["find_grid"]


def find_grid(text: str, start: str | None) -> GridSeries:
    """A zone that ships, or ``FILE[:ZONE]``, from ``start`` on.

    Raises
    ------
    UnknownNameError
        If it is neither a shipped zone nor a file.
    GridError
        If the file is not usable.
    """
    series = named_grid(text)
    if start is None:
        return series
    time = parse_utc(start)
    if time.minute or time.second or time.microsecond:
        raise InputError(f"a grid's series begins at a whole hour, not at {start}")
    return series.beginning_at(time)
