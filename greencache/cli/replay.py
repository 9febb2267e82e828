"""``greencache replay``: from options and settings to results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from greencache.bench.plans import Plan
from greencache.bench.replay import Replay, run_replay
from greencache.bench.results import as_json
from greencache.bench.scenario import Scenario, build
from greencache.bench.sensitivity import Sensitivity, sensitivity_of
from greencache.bench.setup import ReplaySetup
from greencache.bench.table import WIDE, replay_table
from greencache.bench.workload_statistics import WorkloadComparison, compare_with_sources
from greencache.bench.workloads import comparison_table
from greencache.cli.progress import progress_bar
from greencache.errors import TierError
from greencache.output import STDOUT, as_bytes, check_outputs, write_output
from greencache.quantities import format_bytes, parse_bytes
from greencache.settings import load_settings

if TYPE_CHECKING:
    from greencache.bench.live_result import LiveRun

__all__ = ["Live", "Outputs", "run"]


@dataclass(frozen=True, slots=True)
class Live:
    """How plans are played against the real store: size of a block, and the folder of its SSD."""

    block: str
    folder: Path | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is asked for besides the table; None where it is written nowhere."""

    sensitivity: bool
    json: Path | None
    html: Path | None
    png: Path | None
    live: Live | None = None


@dataclass(frozen=True, slots=True)
class _Findings:
    """A replay and what else was found about it."""

    replay: Replay
    sensitivity: Sensitivity | None
    comparison: WorkloadComparison | None
    live: Sequence[LiveRun] | None


def _find(scenario: Scenario, outputs: Outputs, report: Callable[[str, float], None]) -> _Findings:
    setup, plans = build(scenario, load_settings(), on_progress=report)
    if outputs.live is not None:
        _check_playable(setup, plans, outputs.live)
    replay = run_replay(setup, plans, on_progress=report, clock=time.perf_counter)
    sensitivity = comparison = None
    if outputs.sensitivity:
        sensitivity = sensitivity_of(replay, plans, on_progress=report, clock=time.perf_counter)
    if setup.composed is not None:
        comparison = compare_with_sources(setup.composed)
    return _Findings(replay, sensitivity, comparison, _play(setup, plans, outputs.live, report))


def _check_playable(setup: ReplaySetup, plans: Sequence[Plan], live: Live) -> None:
    """Refuse what cannot be played before anything takes long."""
    from greencache.bench.live import plans_to_play

    plans_to_play(setup, plans, folder=live.folder, block_bytes=parse_bytes(live.block))


def _play(
    setup: ReplaySetup,
    plans: Sequence[Plan],
    live: Live | None,
    report: Callable[[str, float], None],
) -> list[LiveRun] | None:
    if live is None:
        return None
    from greencache.bench.live import run_live_plans
    from greencache.service.rehearsal import rehearse

    return run_live_plans(
        setup,
        plans,
        folder=live.folder,
        block_bytes=parse_bytes(live.block),
        on_progress=report,
        steered=rehearse,
    )


def _render(found: _Findings, outputs: Outputs, wall_s: float) -> list[tuple[Path, bytes]]:
    """All results, before any is written: a fault in one leaves none."""
    results = []
    if outputs.json is not None:
        content = as_json(
            found.replay,
            wall_s=wall_s,
            sensitivity=found.sensitivity,
            comparison=found.comparison,
            live=found.live,
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
    if found.live is not None:
        console.print("", _live_table(found.live))
    composed = found.replay.setup.composed
    if composed is not None and found.comparison is not None:
        console.print("", comparison_table(composed, found.comparison))


def _live_table(runs: Sequence[LiveRun]) -> Table:
    from greencache.bench.live_result import LIVE_COLUMNS

    blocks = format_bytes(runs[0].block_bytes)
    table = Table(title=f"Real store on this machine, blocks of {blocks}", title_justify="left")
    for place, name in enumerate(LIVE_COLUMNS):
        table.add_column(name, justify="right" if place else "left")
    for each in runs:
        table.add_row(*each.row())
    return table


def _check_live(runs: Sequence[LiveRun]) -> None:
    """Fail if the real store did not do as the simulated one."""
    other = [each.plan for each in runs if not each.same]
    if other:
        raise TierError(
            f"the real store did not do as the simulated one under {', '.join(other)}: see the "
            "table, or `live` in the JSON"
        )


def run(scenario: Scenario, outputs: Outputs) -> None:
    """Replay, print the table, write what was asked for.

    Raises
    ------
    InputError
        If an option, a setting or a file is not usable.
    OutputError
        If a result cannot be written.
    TierError
        If the real store cannot be made here, or did not do as the simulated one.
    """
    began_s = time.perf_counter()
    paths = (outputs.json, outputs.html, outputs.png)
    check_outputs(*paths, inputs=(None if scenario.workload else scenario.source.path,))
    with progress_bar() as report:
        found = _find(scenario, outputs, report)
    results = _render(found, outputs, time.perf_counter() - began_s)
    if STDOUT not in paths:
        _print(found)
    for path, content in results:
        write_output(path, content)
        if path != STDOUT:
            print(f"wrote {path}", file=sys.stderr)
    if found.live is not None:
        _check_live(found.live)
