"""``greencache status``: what a running daemon is, has and did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from greencache.cli.place import socket_of
from greencache.client.direct import ask_status
from greencache.output import STDOUT, check_outputs, write_json
from greencache.quantities import format_bytes

__all__ = ["format_duration", "run"]

_WIDE = 120


def run(socket: Path | None, json: Path | None) -> None:
    """Print it; also as JSON if a file is given.

    Raises
    ------
    UnavailableError
        If no daemon answers.
    """
    check_outputs(json)
    status = ask_status(socket_of(socket))
    if json is not None:
        write_json(json, status)
    if json != STDOUT:
        console = Console(
            highlight=False, markup=False, width=None if Console().is_terminal else _WIDE
        )
        for line in _lines(status):
            console.print(line)
        console.print("", _tiers(status))
        for line in _notes(status):
            console.print(line)


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: ``3 h 12 min``."""
    whole = int(seconds)
    for unit, length, below, part in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _lines(status: dict[str, Any]) -> Iterator[str]:
    yield (
        f"greencache {status['version']}, process {status['pid']}, "
        f"up {format_duration(status['up_s'])}, at {status['socket']}"
    )
    held = status["held"]
    yield (
        f"clients: {status['connections']:,} connected; "
        f"leases: {_held(held['leases'], held['oldest_lease_s'])}; "
        f"reservations: {_held(held['reservations'], held['oldest_reservation_s'])}"
    )
    port = status["metrics"]["port"]
    where = "off" if port is None else f"http://{status['metrics']['address']}:{port}/metrics"
    yield f"metrics: {where}"


def _held(count: int, oldest_s: float) -> str:
    return f"{count:,}, the oldest for {format_duration(oldest_s)}" if count else "none"


def _tiers(status: dict[str, Any]) -> Table:
    """A row for each tier of each size of block."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("blocks of")
    table.add_column("tier")
    for heading in ("capacity", "used", "occupied", "blocks", "hits", "written", "evicted"):
        table.add_column(heading, justify="right")
    table.add_column("failures")
    for pool in status["pools"]:
        for name, tier in pool["tiers"].items():
            asked = tier["hit_blocks"] + tier["missed_blocks"]
            failures = (f"{cause} {count:,}" for cause, count in tier["failures"].items())
            table.add_row(
                format_bytes(pool["block_bytes"]),
                name,
                format_bytes(tier["capacity_bytes"]),
                format_bytes(tier["used_bytes"]),
                format_bytes(tier["backed_bytes"]),
                f"{tier['blocks']:,}",
                f"{tier['hit_blocks'] / asked:.1%}" if asked else "-",
                format_bytes(tier["written_bytes"]),
                f"{tier['evicted_blocks']:,}",
                ", ".join(failures) or "none",
            )
    if not status["pools"]:
        for name, capacity in status["capacity_bytes"].items():
            table.add_row("-", name, format_bytes(capacity), *("-" for _ in range(7)))
    return table


def _notes(status: dict[str, Any]) -> Iterator[str]:
    if not status["pools"]:
        yield "no engine has stored anything yet"
    for pool in status["pools"]:
        if "ssd" in pool["tiers"]:
            yield (
                f"to SSD, of blocks of {format_bytes(pool['block_bytes'])}: "
                f"{format_bytes(pool['waiting_bytes'])} waiting, "
                f"{pool['declined_blocks']:,} blocks not worth it, "
                f"{pool['dropped_blocks']:,} dropped"
            )
