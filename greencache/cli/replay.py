"""``greencache replay``: from options and settings to results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from greencache.bench.replay import Replay, run_replay
from greencache.bench.results import as_json
from greencache.bench.scenario import Scenario, build
from greencache.bench.sensitivity import Sensitivity, sensitivity_of
from greencache.bench.table import WIDE, replay_table
from greencache.cli.progress import progress_bar
from greencache.output import STDOUT, as_bytes, check_outputs, write_output
from greencache.settings import load_settings

__all__ = ["Outputs", "run"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is asked for besides the table; None where it is written nowhere."""

    sensitivity: bool
    json: Path | None
    html: Path | None
    png: Path | None


def _render(
    replay: Replay, sensitivity: Sensitivity | None, outputs: Outputs, wall_s: float
) -> list[tuple[Path, bytes]]:
    """All results, before any is written: a fault in one leaves none."""
    results = []
    if outputs.json is not None:
        content = as_json(replay, wall_s=wall_s, sensitivity=sensitivity)
        results.append((outputs.json, as_bytes(content)))
    if outputs.html is not None or outputs.png is not None:
        from greencache.bench.report import html_report, png_picture

        if outputs.html is not None:
            results.append((outputs.html, html_report(replay, sensitivity).encode()))
        if outputs.png is not None:
            results.append((outputs.png, png_picture(replay)))
    return results


def run(scenario: Scenario, outputs: Outputs) -> None:
    """Replay, print the table, write what was asked for.

    Raises
    ------
    InputError
        If an option, a setting or a file is not usable.
    OutputError
        If a result cannot be written.
    """
    began_s = time.perf_counter()
    paths = (outputs.json, outputs.html, outputs.png)
    check_outputs(*paths, inputs=(None if scenario.workload else scenario.source.path,))
    with progress_bar() as report:
        replay, sensitivity = _replay(scenario, outputs.sensitivity, report)
    results = _render(replay, sensitivity, outputs, time.perf_counter() - began_s)
    if STDOUT not in paths:
        console = Console(width=None if Console().is_terminal else WIDE)
        console.print(replay_table(replay, width=console.width))
        if sensitivity is not None:
            from greencache.bench.sensitivity_views import sensitivity_table

            console.print("", sensitivity_table(sensitivity))
    for path, content in results:
        write_output(path, content)
        if path != STDOUT:
            print(f"wrote {path}", file=sys.stderr)


def _replay(
    scenario: Scenario, vary: bool, report: Callable[[str, float], None]
) -> tuple[Replay, Sensitivity | None]:
    setup, plans = build(scenario, load_settings(), on_progress=report)
    replay = run_replay(setup, plans, on_progress=report, clock=time.perf_counter)
    if not vary:
        return replay, None
    return replay, sensitivity_of(replay, plans, on_progress=report, clock=time.perf_counter)
