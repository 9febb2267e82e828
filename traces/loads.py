"""``LoadSeries``: how many requests a service got each second, window by window, over days."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError, LoadError, UnknownNameError
from greencache.quantities import HOUR_S, YEAR_S
from greencache.traces.files import read_rows
from greencache.traces.grid import parse_utc
from greencache.traces.recordings import RECORDINGS, recorded_trace
from greencache.traces.samples import sample_rates_path

__all__ = [
    "LoadSeries",
    "SpanOfLoad",
    "find_load",
    "flat_load",
    "load_from_arrivals",
    "load_names",
    "read_load",
]

_SERIES_COLUMNS = ("series", "model")
_RATE = "requests_per_s"
_HIGHEST_RATE = 1e9
"""Requests per second that no service has: more is a mistake of units."""

_MOST_WINDOWS = 10_000_000
"""Two centuries of ServeGen's windows: more is a slip, and would only fill the memory."""

_SAMPLED_WINDOW_S = 60.0
"""Windows in which recorded arrivals are counted: some 200 of Mooncake's, so that the rate of one
is known to 7 %, and the shape keeps what changes within the hour."""


@dataclass(frozen=True)
class SpanOfLoad:
    """The load of a stream: its warm-up and its measured hours.

    Attributes
    ----------
    start_s:
        Beginning of the first window; 0 is where the measured hours begin.
    window_s:
        Length of each window.
    requests_per_s:
        Rate in each window.
    """

    start_s: float
    window_s: float
    requests_per_s: NDArray[np.float64]


@dataclass(frozen=True)
class LoadSeries:
    """Requests per second of one service in equal windows without gaps.

    Attributes
    ----------
    name:
        What to call it in results.
    source, licence:
        Where it is from and under what terms.
    window_s:
        Length of a window.
    requests_per_s:
        Mean rate in each window.
    start:
        When the first window began, UTC; None where the source does not say.
    """

    name: str
    source: str
    licence: str
    window_s: float
    requests_per_s: NDArray[np.float64] = field(repr=False)
    start: datetime | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.window_s) and self.window_s > 0):
            raise InputError(f"a load's windows last more than 0 s: {self.window_s}")
        rates = self.requests_per_s
        if not (rates.size and np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
            raise InputError(
                f"load {self.name} has no request in it, or a rate that is not a number of 0 or "
                "more"
            )

    @property
    def duration_s(self) -> float:
        """Length of the series before it repeats."""
        return len(self.requests_per_s) * self.window_s

    def repeats_within(self, span_s: float) -> bool:
        """Whether a span uses a part of the series twice; a constant rate has no parts."""
        return span_s > self.duration_s and float(np.ptp(self.requests_per_s)) > 0

    def over(self, span_s: float, *, before_s: float = 0.0, mean_rate: float) -> SpanOfLoad:
        """The series from its start on, for a span, scaled to a mean rate over the span.

        Where the span is longer than the series, the series begins again. Before the start lies
        its end, as if it had been running for ever.

        Parameters
        ----------
        span_s:
            Length of the span over which the rate is the mean rate.
        before_s:
            How much is wanted before the span, at the same scale.
        mean_rate:
            Requests per second.

        Raises
        ------
        InputError
            If the span is not positive, the rate is not, or no request falls in the span.
        """
        if not (np.isfinite(mean_rate) and mean_rate > 0):
            raise InputError(f"a mean rate is more than 0 requests per second: {mean_rate}")
        if not (0 < span_s < math.inf and 0 <= before_s < math.inf):
            raise InputError(f"a load spans more than 0 s, and 0 s or more before: {span_s:g}")
        if before_s + span_s > _MOST_WINDOWS * self.window_s:
            raise InputError(f"a load spans at most {_MOST_WINDOWS:,} windows: ask for fewer hours")
        first = -math.ceil(before_s / self.window_s)
        last = math.ceil(span_s / self.window_s)
        windows = np.arange(first, last)
        rates = self.requests_per_s[windows % len(self.requests_per_s)]
        within_s = np.clip(span_s - windows * self.window_s, 0.0, self.window_s) * (windows >= 0)
        mean = float(rates @ within_s) / span_s
        if mean == 0:
            raise InputError(f"load {self.name} has no request in its first {span_s / HOUR_S:g} h")
        return SpanOfLoad(
            start_s=first * self.window_s,
            window_s=self.window_s,
            requests_per_s=rates * (mean_rate / mean),
        )


def flat_load(window_s: float = 600.0) -> LoadSeries:
    """The same rate always: what a day looks like without its shape."""
    return LoadSeries("flat", "constant rate", "none", window_s, np.ones(1))


def load_from_arrivals(
    arrival_s: NDArray[np.float64],
    *,
    name: str,
    source: str,
    licence: str,
    window_s: float = _SAMPLED_WINDOW_S,
) -> LoadSeries:
    """Count recorded arrivals in windows; what remains after the last whole window is left out.

    Parameters
    ----------
    arrival_s:
        Arrivals in seconds since the recording began, never decreasing.
    name, source, licence, window_s:
        As in `LoadSeries`.

    Raises
    ------
    InputError
        If the recording is shorter than a window.
    """
    windows = int(arrival_s[-1] // window_s) if len(arrival_s) else 0
    if windows == 0:
        raise InputError(f"{name} lasts less than a window of {window_s:g} s: it has no load shape")
    counts = np.bincount((arrival_s // window_s).astype(np.int64), minlength=windows)[:windows]
    return LoadSeries(name, source, licence, window_s, counts / window_s)


@dataclass
class _Series:
    """What was read of one series so far."""

    name: str
    first_s: float = 0.0
    step_s: float | None = None
    rates: array[float] = field(default_factory=lambda: array("d"))


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise LoadError(path, f"{column} is {text!r}, not a number", line=line) from None
    if not math.isfinite(value):
        raise LoadError(path, f"{column} is {text}, not a finite number", line=line)
    return value


def _columns(path: Path, header: list[str]) -> tuple[int | None, int, int, bool]:
    """Places of the series' name, the time and the rate; and whether times are of the clock."""
    time = next((name for name in ("t_s", "utc") if name in header), None)
    if time is None or _RATE not in header:
        reason = f"a load file has the columns series,t_s,{_RATE} (or utc instead of t_s)"
        raise LoadError(path, reason, line=1)
    series = next((header.index(name) for name in _SERIES_COLUMNS if name in header), None)
    return series, header.index(time), header.index(_RATE), time == "utc"


def _time_reader(path: Path, clock: bool) -> Callable[[int, str], float]:
    """What turns a field into seconds, since the epoch if it is a time of the clock."""

    def of_clock(line: int, text: str) -> float:
        try:
            return parse_utc(text).timestamp()
        except InputError as fault:
            raise LoadError(path, f"utc: {fault}", line=line) from None

    def relative(line: int, text: str) -> float:
        return _number(path, line, "t_s", text)

    return of_clock if clock else relative


def _append(path: Path, line: int, series: _Series, t_s: float, rate: float) -> None:
    count = len(series.rates)
    if count == 0:
        series.first_s = t_s
    elif series.step_s is None:
        series.step_s = t_s - series.first_s
        if not 0 < series.step_s <= YEAR_S:
            reason = f"a window of series {series.name} lasts {series.step_s:g} s, not 0 to a year"
            raise LoadError(path, reason, line=line)
    elif abs(t_s - series.first_s - count * series.step_s) > series.step_s * 1e-3:
        expected = series.first_s + count * series.step_s
        reason = f"series {series.name} has {t_s:.10g} s where {expected:.10g} s follows"
        raise LoadError(path, reason, line=line)
    if not 0 <= rate <= _HIGHEST_RATE:
        reason = f"{_RATE} is {rate:g}; it must lie in 0..{_HIGHEST_RATE:g}"
        raise LoadError(path, reason, line=line)
    series.rates.append(rate)


def read_load(
    path: Path | str,
    series: str | None = None,
    *,
    name: str | None = None,
    source: str | None = None,
    licence: str = "not stated",
) -> LoadSeries:
    """Read one series from a CSV file, plain or gzipped.

    The file has the columns ``series`` (or ``model``; may be missing where there is only one),
    ``t_s`` (seconds from any zero; or ``utc``, ISO 8601) and ``requests_per_s``; others are
    ignored. Windows of a series are equally long and follow one another without a gap.

    Parameters
    ----------
    path:
        The file.
    series:
        Which series; may be left out where the file has only one.
    name, source, licence:
        What to call them; by default the series' or the file's name, and the file's name.

    Raises
    ------
    LoadError
        If the file cannot be read, is empty or malformed, or has a gap in the series.
    UnknownNameError
        If the series is not in the file.
    """
    path = Path(path)
    columns: tuple[int | None, int, int, bool] | None = None
    seen: dict[str, None] = {}
    wanted: _Series | None = None
    for line, row in read_rows(path, LoadError):
        if columns is None:
            columns = _columns(path, row)
            seconds = _time_reader(path, columns[3])
            continue
        at_series, at_time, at_rate, clock = columns
        if len(row) <= max(at_time, at_rate, -1 if at_series is None else at_series):
            raise LoadError(path, f"has {len(row)} fields, too few", line=line)
        row_series = path.name.split(".")[0] if at_series is None else row[at_series]
        seen[row_series] = None
        if row_series != (series if series is not None else next(iter(seen))):
            continue
        if wanted is None:
            wanted = _Series(row_series)
        t_s = seconds(line, row[at_time])
        _append(path, line, wanted, t_s, _number(path, line, _RATE, row[at_rate]))
    if not seen:
        raise LoadError(path, "no load in it")
    if series is None and len(seen) > 1:
        raise LoadError(path, f"has several series; name one of {', '.join(seen)}, as {path}:NAME")
    if wanted is None:
        raise UnknownNameError("series", str(series), seen)
    if wanted.step_s is None:
        raise LoadError(path, f"series {wanted.name} has one window only: its length is unknown")
    if not any(wanted.rates):
        raise LoadError(path, f"series {wanted.name} has no request in it")
    return LoadSeries(
        name or wanted.name,
        source or path.name,
        licence,
        wanted.step_s,
        np.array(wanted.rates),
        datetime.fromtimestamp(wanted.first_s, UTC) if clock else None,
    )


_SERVEGEN = (
    "alibaba/ServeGen at f891d11, request rates summed over the clients of each service",
    "Apache-2.0",
)
_SERVEGEN_SERIES = ("m-large", "deepseek-r1")
_FROM_ARRIVALS = ("azure-2023-code", "mooncake-conversation")


def load_names() -> list[str]:
    """Load shapes that ship with GreenCache."""
    return [*_SERVEGEN_SERIES, *_FROM_ARRIVALS, "flat"]


def find_load(text: str) -> LoadSeries:
    """A shipped load by its name, or one from a file, written ``FILE`` or ``FILE:SERIES``.

    Raises
    ------
    UnknownNameError
        If it is neither.
    LoadError
        If it is a file that cannot be used.
    """
    if text in _SERVEGEN_SERIES:
        source, licence = _SERVEGEN
        return read_load(sample_rates_path(), text, source=source, licence=licence)
    if text in _FROM_ARRIVALS:
        about = RECORDINGS[text]
        return load_from_arrivals(
            recorded_trace(text).arrival_s, name=text, source=about.source, licence=about.licence
        )
    if text == "flat":
        return flat_load()
    if Path(text).is_file():
        return read_load(text)
    file, colon, series = text.rpartition(":")
    if colon and Path(file).is_file():
        return read_load(file, series)
    if "/" in text or ".csv" in text:
        return read_load(file if colon else text, series if colon else None)
    raise UnknownNameError("load", text, load_names())
