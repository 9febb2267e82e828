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

__all__ = ["format_duration", "run", "status_lines"]

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
        for line in status_lines(status):
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


def status_lines(status: dict[str, Any]) -> Iterator[str]:
    """What stands above the table."""
    yield (
        f"greencache {status['version']}, process {status['pid']}, "
        f"up {format_duration(status['up_s'])}, at {status['socket']}"
    )
    held = status["held"]
    yield (
        f"clients: {status['sessions']:,} attached; "
        f"leases: {_held(held['leases'], held['oldest_lease_s'])}; "
        f"reservations: {_held(held['reservations'], held['oldest_reservation_s'])}"
    )
    port = status["metrics"]["port"]
    where = "off" if port is None else f"http://{status['metrics']['address']}:{port}/metrics"
    yield f"metrics: {where}"
    yield from _control(status.get("control"))


def _control(control: dict[str, Any] | None) -> Iterator[str]:
    """What the controller decided, and what it all cost."""
    if control is None:
        return
    yield f"control: {control['state']}" + (
        f" ({control['because']})" if control["because"] else ""
    )
    if control["last_reason"]:
        yield f"  {control['last_reason']}"
    if control["gco2_per_kwh"] is not None:
        fallback = control["intensity_fallback"]
        rests = f", by {fallback}" if fallback else ""
        yield f"  grid: {control['zone']}, {control['gco2_per_kwh']:,.0f} gCO2e/kWh{rests}"
    if control["interval_attainment"] is not None:
        yield f"  within the SLO in the last interval: {control['interval_attainment']:.1%}"
    if control["accounted_s"]:
        yield (
            f"  carbon of {format_duration(control['accounted_s'])}: {_grams(control['grams'])}"
            f" CO2e, {_grams(sum(control['operational_g'].values()))} operational and "
            f"{_grams(sum(control['embodied_g'].values()))} embodied ({control['scope']})"
        )
        energy = ", ".join(
            f"{name} {kwh:,.3g} kWh ({control['energy_sources'].get(name, 'model')})"
            for name, kwh in control["energy_kwh"].items()
        )
        yield f"  energy: {energy}"
    for what in ("fallbacks", "failures"):
        if control[what]:
            counts = (f"{kind} {count:,}" for kind, count in control[what].items())
            yield f"  {what}: {', '.join(counts)}"


def _grams(grams: float) -> str:
    return f"{grams / 1000:,.3g} kg" if grams >= 1000 else f"{grams:,.3g} g"


def _held(count: int, oldest_s: float) -> str:
    return f"{count:,}, the oldest for {format_duration(oldest_s)}" if count else "none"


def _tiers(status: dict[str, Any]) -> Table:
    """A row for each tier of each size of block."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("blocks of")
    table.add_column("tier")
    for heading in ("capacity", "used", "occupied", "blocks", "hits", "evicted"):
        table.add_column(heading, justify="right")
    table.add_column("failures")
    hbm = status["hbm"]
    if hbm["engines"]:
        table.add_row(
            "engines",
            "hbm",
            format_bytes(hbm["capacity_bytes"]),
            format_bytes(hbm["used_bytes"]),
            "-",
            f"{hbm['blocks']:,}",
            *("-" for _ in range(3)),
        )
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
                f"{tier['evicted_blocks']:,}",
                ", ".join(failures) or "none",
            )
    if not status["pools"]:
        for name, capacity in status["capacity_bytes"].items():
            table.add_row("-", name, format_bytes(capacity), *("-" for _ in range(6)))
    return table


def _notes(status: dict[str, Any]) -> Iterator[str]:
    if not status["pools"]:
        yield "no engine has stored anything yet"
    for pool in status["pools"]:
        if (left := pool["tiers"]["dram"]["unpinning_bytes"]) > 0:
            pids = ", ".join(str(each["pid"]) for each in status["pinned"] if each["asked_back"])
            yield (
                f"dram, of blocks of {format_bytes(pool['block_bytes'])}: {format_bytes(left)} are "
                f"given back once unpinned by process {pids or '(answered)'}"
            )
        if "ssd" in pool["tiers"]:
            yield (
                f"to SSD, of blocks of {format_bytes(pool['block_bytes'])}: "
                f"{format_bytes(pool['tiers']['ssd']['written_bytes'])} written, "
                f"{format_bytes(pool['waiting_bytes'])} waiting, "
                f"{pool['declined_blocks']:,} blocks not worth it, "
                f"{pool['dropped_blocks']:,} dropped"
            )
