"""``greencache sweep``: from a file of axes to a table of many replays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from greencache.bench.simulated import available_cores
from greencache.bench.sweep import SweepResult, run_sweep, sweep_as_json
from greencache.bench.sweep_jobs import Job
from greencache.bench.sweep_parts import parquet_bytes
from greencache.bench.sweep_runners import (
    JobResults,
    run_locally,
    run_on_dask,
)
from greencache.bench.sweep_spec import read_spec
from greencache.bench.sweep_table import sweep_table
from greencache.bench.table import WIDE
from greencache.cli.progress import counting_bar
from greencache.errors import InputError
from greencache.output import STDOUT, as_bytes, check_outputs, write_output
from greencache.settings import load_settings

__all__ = ["Options", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed."""

    spec: Path
    out: Path | None
    jobs: int | None
    dask: str | None
    json: Path | None


def _folder(options: Options) -> Path:
    return Path(f"{options.spec.stem}.results") if options.out is None else options.out


def _run(options: Options) -> SweepResult:
    spec = read_spec(options.spec)
    processes = available_cores() if options.jobs is None else options.jobs

    def runner(jobs: Sequence[Job]) -> JobResults:
        if options.dask is not None:
            return run_on_dask(jobs, options.dask)
        return run_locally(jobs, processes)

    with counting_bar("jobs") as report:
        return run_sweep(spec, load_settings(), _folder(options), runner, on_progress=report)


def run(options: Options) -> None:
    """Run what is missing of a sweep, print the table, write the results.

    Raises
    ------
    InputError
        If the file, an option or a setting is not usable, or every replay fails.
    SweepError
        If workers were lost; what was done is kept.
    OutputError
        If a result cannot be written.
    """
    if options.jobs is not None and options.dask is not None:
        raise InputError("give --jobs for this machine or --dask for a cluster, not both")
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"--jobs is at least 1, not {options.jobs}")
    check_outputs(options.json, inputs=(options.spec,))
    if options.json is not None and _folder(options).resolve() in options.json.resolve().parents:
        raise InputError(
            f"--json {options.json} lies among the sweep's own results; name a file elsewhere"
        )
    result = _run(options)
    if result.jobs_found:
        print(
            f"{result.jobs_found:,} of {result.jobs:,} jobs were there already",
            file=sys.stderr,
        )
    _write(result, options)


def _write(result: SweepResult, options: Options) -> None:
    from greencache.bench.sweep_chart import summary_picture

    folder = _folder(options)
    table = folder / "results.parquet"
    results = [
        (table, parquet_bytes(result.table)),
        (folder / "summary.png", summary_picture(result)),
    ]
    if options.json is not None:
        results.append((options.json, as_bytes(sweep_as_json(result))))
    if options.json != STDOUT:
        console = Console(width=None if Console().is_terminal else WIDE)
        console.print(sweep_table(result, str(table)))
    for path, content in results:
        write_output(path, content)
        if path != STDOUT:
            print(f"wrote {path}", file=sys.stderr)
