"""The recordings that ship with GreenCache, each in a folder with its ``NOTICE.md``."""

from __future__ import annotations

from pathlib import Path

from greencache.errors import UnknownNameError
from greencache.traces.grid import GridSeries, read_grid

__all__ = ["grid_zones", "sample_grid", "sample_trace_path"]

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


def sample_trace_path() -> Path:
    """The Mooncake conversation trace: an hour of production chat, 12,031 requests."""
    return _DATA / "mooncake" / "conversation.jsonl.gz"


def grid_zones() -> list[str]:
    """Zones that ship with GreenCache."""
    return sorted(zone for _, zones in _GRID_FILES.values() for zone in zones)


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
