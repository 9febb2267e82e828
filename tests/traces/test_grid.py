"""The grid reader and the series that ship."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from greencache.errors import GridError, InputError, UnknownNameError
from greencache.traces import grid_zones, read_grid, sample_grid
from greencache.traces.grid import parse_utc

HEADER = "zone,utc_hour,gco2_per_kwh,kind"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def hour(n: int, value: object = 100, zone: str = "XX", kind: str = "lifecycle") -> str:
    time = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n)
    return f"{zone},{time:%Y-%m-%dT%H:%M:%SZ},{value},{kind}"


@pytest.mark.parametrize(
    ("zone", "mean"), [("CISO", 273), ("FR", 99), ("SE-SE3", 23), ("NO", 35), ("PL", 674)]
)
def test_shipped_zones_have_their_known_means(zone: str, mean: float) -> None:
    """Means as stated where the data was gathered."""
    series = sample_grid(zone)
    assert series.gco2_per_kwh.mean() == pytest.approx(mean, abs=1)
    assert len(series) >= 8_759


def test_every_listed_zone_ships() -> None:
    assert len(grid_zones()) == len(set(grid_zones())) == 19
    with pytest.raises(UnknownNameError, match=r"unknown zone 'XY'.*known: AUS_QLD"):
        sample_grid("XY")


def test_intensity_by_time(tmp_path: Path) -> None:
    series = read_grid(write(tmp_path / "g.csv", hour(0, 10), hour(1, 20), hour(2, 30)))
    assert series.zone == "XX"
    assert series.at(np.array([0.0, 3599.9, 3600.0, 9000.0])).tolist() == [10, 10, 20, 30]
    later = series.beginning_at(parse_utc("2024-01-01T01:30Z"))
    assert (later.start.hour, later.gco2_per_kwh.tolist()) == (1, [20, 30])
    with pytest.raises(InputError, match="ends at 2024-01-01T03:00Z"):
        series.at(np.array([3 * 3600.0]))
    with pytest.raises(InputError, match="has no value at"):
        series.beginning_at(parse_utc("2025-01-01T00:00"))


def test_one_zone_of_several(tmp_path: Path) -> None:
    rows = [hour(0, 1), hour(0, 5, zone="YY"), hour(1, 2), hour(1, 6, zone="YY")]
    path = tmp_path / "g.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *rows]).encode()))
    assert read_grid(path, "YY").gco2_per_kwh.tolist() == [5, 6]
    with pytest.raises(GridError, match=r"several zones.*g.csv.gz:ZONE"):
        read_grid(path)
    with pytest.raises(UnknownNameError, match="unknown zone 'ZZ'"):
        read_grid(path, "ZZ")


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        ([hour(0), hour(2)], 3, "where 2024-01-01T01:00Z follows"),
        ([hour(1), hour(0)], 3, "where 2024-01-01T02:00Z follows"),
        ([hour(0, "much")], 2, "'much', not a number"),
        ([hour(0, -1)], 2, "must lie in"),
        ([hour(0, "nan")], 2, "must lie in"),
        ([hour(0, 9e9)], 2, "must lie in"),
        ([hour(0), hour(1, kind="direct")], 3, "kind is 'direct'"),
        ([hour(0, kind="guessed")], 2, "kind is 'guessed'"),
        (["XX,yesterday,5,lifecycle"], 2, "'yesterday' is not a time"),
        (["XX,2024-01-01T00:00Z"], 2, "too few"),
        (["XX,2024-01-01T00:30Z,5,lifecycle"], 2, "not a whole hour"),
        (["XX,9999-12-31T23:00Z,5,lifecycle"], 2, "utc_hour"),
        (["\x00\xff"], 2, "too few|not a line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, rows: list[str], line: int, reason: str) -> None:
    with pytest.raises(GridError, match=reason) as fault:
        read_grid(write(tmp_path / "g.csv", *rows))
    assert fault.value.line == line


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="no such file"):
        read_grid(tmp_path / "none.csv")
    with pytest.raises(GridError, match="is a directory"):
        read_grid(tmp_path)
    with pytest.raises(GridError, match="no carbon intensity"):
        read_grid(write(tmp_path / "g.csv"))
    with pytest.raises(GridError, match=r"lacks the column gco2_per_kwh"):
        read_grid(write(tmp_path / "g.csv", header="zone,utc_hour,kind"))
    noise = tmp_path / "noise.csv"
    noise.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(GridError):
        read_grid(noise)
