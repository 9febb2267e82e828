"""The recordings that ship with GreenCache, each in a folder with its ``NOTICE.md``."""

from __future__ import annotations

import functools
from pathlib import Path

from greencache.errors import UnknownNameError
from greencache.traces.grid import GridSeries, read_grid

__all__ = [
    "DEFAULT_TRACE",
    "grid_zones",
    "named_grid",
    "sample_grid",
    "sample_names",
    "sample_path",
    "sample_rates_path",
]

_DATA = Path(__file__).parent / "data"

_GRID_FILES = {
    _DATA / "carboncast" / "hourly_2020_2021.csv.gz": (
        "CarbonCast 2020-2021 (Apache-2.0)",
        (
            "AUS_QLD",
            "BPAT",
            "CISO",
            "DE",
            "ERCO",
            "ES",
            "FPL",
            "ISNE",
            "NL",
            "NYISO",
            "PJM",
            "PL",
        ),
    ),
    _DATA / "electricitymaps" / "hourly_2021_2022.csv.gz": (
        "Electricity Maps 2021-2022 (ODbL 1.0)",
        ("BR", "FR", "GB", "NO", "SE-SE3", "US-CAL-CISO", "US-TEX-ERCO"),
    ),
}
"""Zones of each file; DE and ES are in both, and the first is taken."""


_TRACES = {
    "mooncake-conversation": _DATA / "mooncake" / "conversation.jsonl.gz",
    "azure-2023-code": _DATA / "azure" / "llm_2023_code.csv.gz",
    "agentic-sessions": _DATA / "agentic" / "sessions.parquet",
}

DEFAULT_TRACE = "mooncake-conversation"
"""The trace that is taken where none is named: an hour of production chat, 12,031 requests."""


def sample_names() -> list[str]:
    """Request traces that ship with GreenCache."""
    return list(_TRACES)


def sample_path(name: str = DEFAULT_TRACE) -> Path:
    """The file of a shipped request trace.

    Raises
    ------
    UnknownNameError
        If none of that name ships.
    """
    if name not in _TRACES:
        raise UnknownNameError("trace", name, _TRACES)
    return _TRACES[name]


def sample_rates_path() -> Path:
    """Request rates of production services in 10-minute windows, from ServeGen.

    A gzipped CSV file with the columns ``model, t_s, requests_per_s``.
    """
    return _DATA / "servegen" / "rates_600s.csv.gz"


def grid_zones() -> list[str]:
    """Zones that ship with GreenCache."""
    return sorted(zone for _, zones in _GRID_FILES.values() for zone in zones)


@functools.lru_cache(maxsize=32)
def sample_grid(zone: str) -> GridSeries:
    """The shipped series of one zone.

    Raises
    ------
    UnknownNameError
        If none of that zone ships.
    """
    for path, (source, zones) in _GRID_FILES.items():
        if zone in zones:
            return read_grid(path, zone, source=source)
    raise UnknownNameError("zone", zone, grid_zones())


def named_grid(text: str) -> GridSeries:
    """The series that a user names: a zone that ships, or ``FILE[:ZONE]``.

    Raises
    ------
    UnknownNameError
        If it is neither a shipped zone nor a file.
    GridError
        If the file is not usable.
    """
    name, _, zone = text.rpartition(":")
    if text in grid_zones():
        return sample_grid(text)
    if text and Path(text).exists():
        return read_grid(text)
    if name and Path(name).exists():
        return read_grid(name, zone)
    if "/" in text or ".csv" in text:
        return read_grid(name or text, zone if name else None)
    return sample_grid(text)  # which says what zones there are
