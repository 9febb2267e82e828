"""How long a composed day of a million requests takes, and how much memory.

``python -m greencache.bench.day_speed [--json FILE]`` runs the command ``greencache replay`` as a
process of its own, once for each plan, and reads its wall time and its largest memory from the
operating system. Nothing here compares with a peer: none was found that simulates an engine, its
caches and their carbon.
"""

from __future__ import annotations

import json as json_module
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.output import write_json

__all__ = ["main", "measure"]

PLANS = ("none", "hbm-only", "full")
MEAN_RATE = 11.6
"""Requests a second: a million and a little more a day."""
HOURS = 24.0
REPLICAS = 3
"""So that every plan is valid."""


def _replay(arguments: list[str]) -> tuple[float, int, dict[str, Any]]:
    """Wall seconds, largest resident bytes and the JSON of one replay."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "replay.json"
        command = [sys.executable, "-m", "greencache", "replay", *arguments]
        quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        began_s = time.perf_counter()
        process = os.posix_spawn(
            sys.executable, [*command, "--json", str(result)], os.environ, file_actions=quiet
        )
        _, status, usage = os.wait4(process, 0)
        wall_s = time.perf_counter() - began_s
        if status:
            raise SystemExit(os.waitstatus_to_exitcode(status))
        return wall_s, usage.ru_maxrss * 1024, json_module.loads(result.read_text())


def measure(hours: float = HOURS, mean_rate: float = MEAN_RATE) -> dict[str, Any]:
    """Time a day under each plan; what ``--json`` writes."""
    scenario = [
        *("--workload", "conversation", "--hours", f"{hours:g}", "--warmup-hours", "1"),
        *("--mean-rate", f"{mean_rate:g}", "--replicas", str(REPLICAS)),
    ]
    _replay(["--workload", "conversation", "--hours", "0.1", "--mean-rate", "1"])  # compiles
    runs = []
    for plan in PLANS:
        wall_s, resident_bytes, result = _replay([*scenario, "--plans", plan])
        run = result["runs"][0]
        runs.append(
            {
                "plan": plan,
                "wall_s": wall_s,
                "resident_bytes": resident_bytes,
                "requests": result["trace"]["requests"],
                "valid": run["valid"],
                "hit_rate_tokens": run["hit_rate_tokens"],
                "requests_per_s": result["trace"]["requests"] / wall_s,
            }
        )
    return {
        "schema": "greencache.bench.day_speed/1",
        "replicas": REPLICAS,
        "hours": hours,
        "runs": runs,
    }


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Replay a day of a million requests under each plan, and time it."""
    result = measure()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plan", "requests", "valid", "hit rate", "wall s", "requests/s", "GiB"):
        table.add_column(heading, justify="left" if heading == "plan" else "right")
    for run in result["runs"]:
        table.add_row(
            run["plan"],
            f"{run['requests']:,}",
            "yes" if run["valid"] else "no",
            f"{run['hit_rate_tokens']:.1%}",
            f"{run['wall_s']:.1f}",
            f"{run['requests_per_s']:,.0f}",
            f"{run['resident_bytes'] / 2**30:.2f}",
        )
    Console().print(table)
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
