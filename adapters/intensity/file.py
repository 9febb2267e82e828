"""Carbon intensity from a file: a zone that ships with GreenCache, or a CSV file of the user's.

The shipped zones are hours of 2020 to 2022: hours of one of those years stand for the present ones,
moved by whole years of 52 weeks, and the label says so. A file of the user's is taken at its own
dates and read again when it has changed, so whoever has another source can keep it up to date.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from greencache.adapters.intensity.base import Label
from greencache.controller.intensity import LONGEST_PAST_H, Points, Recorded
from greencache.errors import InputError, SourceError
from greencache.quantities import HOUR_S
from greencache.traces.grid import GridSeries
from greencache.traces.samples import grid_zones, named_grid

__all__ = ["GridFile"]


class GridFile:
    """One zone of a file.

    Parameters
    ----------
    name:
        A zone that ships, or ``FILE[:ZONE]``.

    Raises
    ------
    InputError
        If there is none of that name, or the file cannot be used.
    """

    backfill_s = LONGEST_PAST_H * HOUR_S

    def __init__(self, name: str) -> None:
        self._name, self._shipped = name, name in grid_zones()
        self._changed = self._stamp()
        self._read(named_grid(name))

    def _read(self, grid: GridSeries) -> None:
        self.recorded = Recorded.of(grid)
        """All its hours."""
        source = grid.source + (", years ago" if self._shipped else "")
        self.label = Label(grid.zone, "average", grid.kind, source)

    def _stamp(self) -> tuple[int, int] | None:
        """What changes when the user's file does."""
        if self._shipped:
            return None
        for name in (self._name, self._name.rpartition(":")[0]):
            try:
                status = Path(name).stat()
            except (OSError, ValueError):
                continue
            return status.st_mtime_ns, status.st_size
        return None

    async def history(self, since_s: float, now_s: float) -> Points:
        """As `Provider.history`; hours that are over."""
        return await asyncio.to_thread(self._history, since_s, now_s)

    def _history(self, since_s: float, now_s: float) -> Points:
        changed = self._stamp()
        if changed != self._changed:
            try:
                self._read(named_grid(self._name))
            except InputError as fault:
                raise SourceError("garbage", str(fault)) from None
            self._changed = changed
        now_h = int(now_s // HOUR_S)
        if self._shipped:
            values, end_h = self.recorded.before(now_h), now_h
        else:
            values = self.recorded.gco2_per_kwh
            end_h = self.recorded.first_h + len(values)
        first_h = end_h - len(values)
        begin = max(int(since_s // HOUR_S) - first_h, 0)
        hours = first_h + np.arange(begin, len(values))
        known = hours < now_h
        return Points.hourly(hours[known], values[begin:][known])

    async def forecast(self, now_s: float) -> Points | None:
        """A file has none."""
        return None

    async def close(self) -> None:
        """Nothing is open."""
