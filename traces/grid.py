"""Carbon intensity of a grid zone, hour by hour, and the reader of its CSV files."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greencache.errors import GridError, InputError, UnknownNameError
from greencache.quantities import HOUR_S
from greencache.traces.files import read_rows

__all__ = ["DIRTIEST_GCO2_PER_KWH", "GridSeries", "parse_utc", "read_grid"]

_COLUMNS = ("zone", "utc_hour", "gco2_per_kwh", "kind")
_KINDS = ("lifecycle", "direct")
DIRTIEST_GCO2_PER_KWH = 5000.0
"""No grid comes near (oil and lignite alone emit 1,000 to 1,300): more is a mistake of units."""


@dataclass(frozen=True)
class GridSeries:
    """Average carbon intensity of one zone, one value an hour without gaps.

    Attributes
    ----------
    zone:
        The zone's code, as its source writes it.
    start:
        Beginning of the first hour, UTC.
    gco2_per_kwh:
        Grams of CO2-equivalent per kWh in each hour.
    kind:
        ``lifecycle`` (building and fuelling the plants included) or ``direct`` (burning only).
    source:
        Where the series is from.
    earlier_gco2_per_kwh:
        What is known of the hours before ``start``, up to it: what a forecast may look at.
    """

    zone: str
    start: datetime
    gco2_per_kwh: NDArray[np.float64]
    kind: str
    source: str
    earlier_gco2_per_kwh: NDArray[np.float64] = field(
        default_factory=lambda: np.empty(0), repr=False
    )

    def __len__(self) -> int:
        return len(self.gco2_per_kwh)

    @property
    def past_and_future(self) -> NDArray[np.float64]:
        """All hours that are known, those before ``start`` first."""
        return np.concatenate([self.earlier_gco2_per_kwh, self.gco2_per_kwh])

    @property
    def end(self) -> datetime:
        """End of the last hour, UTC."""
        return self.start + timedelta(hours=len(self))

    def beginning_at(self, start: datetime) -> GridSeries:
        """The rest of the series from the hour of ``start`` on; those before it are kept as past.

        Raises
        ------
        InputError
            If it does not reach that far.
        """
        first = math.floor((start - self.start).total_seconds() / HOUR_S)
        if not 0 <= first < len(self):
            raise InputError(
                f"zone {self.zone} has no value at {_hour(start)}; it covers "
                f"{_hour(self.start)} to {_hour(self.end)}"
            )
        hour = self.start + timedelta(hours=first)
        earlier = np.concatenate([self.earlier_gco2_per_kwh, self.gco2_per_kwh[:first]])
        return replace(
            self,
            start=hour,
            gco2_per_kwh=self.gco2_per_kwh[first:],
            earlier_gco2_per_kwh=earlier,
        )

    def at(self, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Intensity at each time, in seconds since ``start``.

        Raises
        ------
        InputError
            If a time lies outside the series.
        """
        hours = np.floor(np.asarray(t_s) / HOUR_S)
        if hours.size and not (hours.min() >= 0 and hours.max() < len(self)):
            raise InputError(
                f"zone {self.zone} ends at {_hour(self.end)}, {len(self)} hours after the "
                f"start; {hours.max() + 1:.0f} are needed: choose an earlier --grid-start"
            )
        values: NDArray[np.float64] = self.gco2_per_kwh[hours.astype(np.int64)]
        return values


def _hour(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"


def parse_utc(text: str) -> datetime:
    """Read an ISO 8601 time; without an offset it is UTC.

    Raises
    ------
    InputError
        If it is not one.
    """
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"{text!r} is not a time; write it like 2021-06-01T00:00Z") from None


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        reason = f"lacks the column {', '.join(missing)}; a grid file has {','.join(_COLUMNS)}"
        raise GridError(path, reason, line=1)
    return {name: header.index(name) for name in _COLUMNS}


def _value(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise GridError(path, f"gco2_per_kwh is {text!r}, not a number", line=number) from None
    if not 0 <= value <= DIRTIEST_GCO2_PER_KWH:
        reason = f"gco2_per_kwh is {text}; it must lie in 0..{DIRTIEST_GCO2_PER_KWH:g}"
        raise GridError(path, reason, line=number)
    return value


def read_grid(
    path: Path | str, zone: str | None = None, *, source: str | None = None
) -> GridSeries:
    """Read one zone from an hourly CSV file, plain or gzipped.

    The file has the columns ``zone, utc_hour, gco2_per_kwh, kind`` (others are ignored), and each
    zone's hours follow one another without a gap.

    Parameters
    ----------
    path:
        The file.
    zone:
        Which zone; may be left out where the file has only one.
    source:
        What to call the source; by default the file's name.

    Raises
    ------
    GridError
        If the file cannot be read, is empty or malformed, or has a gap in the zone's hours.
    UnknownNameError
        If the zone is not in the file.
    """
    path = Path(path)
    columns: dict[str, int] | None = None
    zones: dict[str, None] = {}
    values = array("d")
    start = expected = None
    kind = ""
    for number, row in read_rows(path, GridError):
        if columns is None:
            columns = _columns(path, row)
            continue
        if len(row) <= max(columns.values()):
            raise GridError(path, f"has {len(row)} fields, too few", line=number)
        row_zone = row[columns["zone"]]
        zones[row_zone] = None
        if row_zone != (zone if zone is not None else next(iter(zones))):
            continue
        try:
            hour = parse_utc(row[columns["utc_hour"]])
            following = hour + timedelta(hours=1)
        except (InputError, OverflowError) as fault:
            raise GridError(path, f"utc_hour: {fault}", line=number) from None
        if hour.minute or hour.second or hour.microsecond:
            raise GridError(path, f"utc_hour is {hour:%H:%M:%S}, not a whole hour", line=number)
        if start is None or expected is None:
            start = expected = hour
            kind = row[columns["kind"]]
        if hour != expected:
            reason = f"zone {row_zone} has {_hour(hour)} where {_hour(expected)} follows"
            raise GridError(path, reason, line=number)
        if row[columns["kind"]] != kind or kind not in _KINDS:
            reason = (
                f"kind is {row[columns['kind']]!r}; it must be {' or '.join(_KINDS)} throughout"
            )
            raise GridError(path, reason, line=number)
        values.append(_value(path, number, row[columns["gco2_per_kwh"]]))
        expected = following
    if not zones:
        raise GridError(path, "no carbon intensity in it")
    if zone is None and len(zones) > 1:
        raise GridError(path, f"has several zones; name one of {', '.join(zones)}, as {path}:ZONE")
    if start is None:
        raise UnknownNameError("zone", str(zone), zones)
    return GridSeries(
        zone=zone or next(iter(zones)),
        start=start,
        gco2_per_kwh=np.array(values),
        kind=kind,
        source=source or path.name,
    )
