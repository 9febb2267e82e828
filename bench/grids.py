"""The grid that a user names."""

from __future__ import annotations

from pathlib import Path

from greencache.errors import InputError
from greencache.traces.grid import GridSeries, parse_utc, read_grid
from greencache.traces.samples import grid_zones, sample_grid

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
    name, _, zone = text.rpartition(":")
    if text in grid_zones():
        series = sample_grid(text)
    elif text and Path(text).exists():
        series = read_grid(text)
    elif name and Path(name).exists():
        series = read_grid(name, zone)
    elif "/" in text or ".csv" in text:
        series = read_grid(name or text, zone if name else None)
    else:
        series = sample_grid(text)  # which says what zones there are
    if start is None:
        return series
    time = parse_utc(start)
    if time.minute or time.second or time.microsecond:
        raise InputError(f"a grid's series begins at a whole hour, not at {start}")
    return series.beginning_at(time)
