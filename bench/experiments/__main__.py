"""``python -m greencache.bench.experiments NAME|SPEC.toml``, or ``… report DIR...``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from greencache.bench.experiments.running import RESULTS, Results, run_experiment
from greencache.bench.experiments.spec import find_spec, read_experiment
from greencache.bench.simulated import available_cores
from greencache.errors import GreenCacheError, InputError
from greencache.output import check_outputs, write_json
from greencache.settings import Settings, load_settings, origins

_REPORT = "report"
_SAY_EVERY_S = 15.0


class _Said:
    """Progress as plain lines on stderr, every now and then."""

    def __init__(self) -> None:
        self._began_s = self._said_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAY_EVERY_S or done == total:
            self._said_s = now_s
            typer.echo(f"{done:,} of {total:,}, {now_s - self._began_s:.0f} s", err=True)


def _default_settings() -> Settings:
    """Settings as they ship: a result must not depend on the site of whoever runs it.

    Raises
    ------
    InputError
        If a setting was changed.
    """
    settings = load_settings()
    changed = [each.variable for each in origins(settings) if each.origin != "default"]
    if changed:
        raise InputError(f"experiments run with the default settings; unset {', '.join(changed)}")
    return settings


def _print(results: Results) -> None:
    failed = [row for row in results.rows if row["error"] is not None]
    invalid = [row for row in results.rows if row["invalid_because"] is not None]
    typer.echo(
        f"{results.title}: {len(results.rows):,} rows, of which {len(invalid):,} are invalid and "
        f"{len(failed):,} failed"
    )
    for reason in dict.fromkeys(row["error"] for row in failed):
        count = sum(row["error"] == reason for row in failed)
        typer.echo(f"  {count:,} failed: {reason}")
    for workload, limits in results.limits.items():
        if isinstance(limits, str):
            typer.echo(f"SLO of {workload}: {limits}")
        else:
            typer.echo(
                f"SLO of {workload}: TTFT {limits['ttft_s']:g} s, TPOT {limits['tpot_s']:g} s"
            )
    for check in results.checks:
        worst = "invalid there alone" if check.worst is None else f"{check.worst:+.2%}"
        verdict = "holds" if check.holds else f"FAILS in {check.failed:,}"
        typer.echo(
            f"{check.claim}: {verdict} of {check.cells:,} cells ({check.left_out:,} left out); "
            f"worst {worst} ({check.worst_cell})"
        )


def main(
    name: Annotated[str, typer.Argument(help="Experiment that ships, SPEC.toml, or 'report'.")],
    folders: Annotated[
        list[Path] | None, typer.Argument(help="With 'report': folders of results.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; build/experiments/NAME.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tasks side by side.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="AXIS=VALUE[,VALUE]: cells and runs to run now.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
    docs: Annotated[Path, typer.Option(help="With 'report': folder of results.md.")] = Path("docs"),
) -> None:
    """Run an experiment that was written down, or report results."""
    try:
        if name == _REPORT:
            from greencache.bench.experiments.report import write_report

            write_report(folders or [], docs)
            return
        if folders:
            raise InputError(f"one experiment at a time; {folders[0]} is too many")
        check_outputs(json)
        spec = read_experiment(find_spec(name))
        folder = out or Path("build/experiments") / spec.name
        results = run_experiment(
            spec,
            _default_settings(),
            folder,
            jobs=jobs or available_cores(),
            only=only or (),
            on_progress=_Said(),
        )
        write_json(folder / RESULTS, results.as_json())
        if json is not None:
            write_json(json, results.as_json())
        _print(results)
    except GreenCacheError as fault:
        typer.echo(f"error: {fault}", err=True)
        sys.exit(2 if isinstance(fault, InputError) else 1)


if __name__ == "__main__":
    typer.run(main)
