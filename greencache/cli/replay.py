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
from greencache.bench.workload_statistics import WorkloadComparison, compare_with_sources
from greencache.bench.workloads import comparison_table
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


@dataclass(frozen=True, slots=True)
class _Findings:
    """A replay and what else was found about it."""

    replay: Replay
    sensitivity: Sensitivity | None
    comparison: WorkloadComparison | None


def _find(scenario: Scenario, vary: bool, report: Callable[[str, float], None]) -> _Findings:
    setup, plans = build(scenario, load_settings(), on_progress=report)
    replay = run_replay(setup, plans, on_progress=report, clock=time.perf_counter)
    sensitivity = comparison = None
    if vary:
        sensitivity = sensitivity_of(replay, plans, on_progress=report, clock=time.perf_counter)
    if setup.composed is not None:
        comparison = compare_with_sources(setup.composed)
    return _Findings(replay, sensitivity, comparison)


def _render(found: _Findings, outputs: Outputs, wall_s: float) -> list[tuple[Path, bytes]]:
    """All results, before any is written: a fault in one leaves none."""
    results = []
    if outputs.json is not None:
        content = as_json(
            found.replay,
            wall_s=wall_s,
            sensitivity=found.sensitivity,
            comparison=found.comparison,
        )
        results.append((outputs.json, as_bytes(content)))
    if outputs.html is not None or outputs.png is not None:
        from greencache.bench.report import html_report, png_picture

        if outputs.html is not None:
            page = html_report(found.replay, found.sensitivity, found.comparison)
            results.append((outputs.html, page.encode()))
        if outputs.png is not None:
            results.append((outputs.png, png_picture(found.replay)))
    return results


def _print(found: _Findings) -> None:
    console = Console(width=None if Console().is_terminal else WIDE)
    console.print(replay_table(found.replay, width=console.width))
    if found.sensitivity is not None:
        from greencache.bench.sensitivity_views import sensitivity_table

        console.print("", sensitivity_table(found.sensitivity))
    composed = found.replay.setup.composed
    if composed is not None and found.comparison is not None:
        console.print("", comparison_table(composed, found.comparison))


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
        found = _find(scenario, outputs.sensitivity, report)
    results = _render(found, outputs, time.perf_counter() - began_s)
    if STDOUT not in paths:
        _print(found)
    for path, content in results:
        write_output(path, content)
        if path != STDOUT:
            print(f"wrote {path}", file=sys.stderr)
