"""Running an experiment: tasks in processes of their own, then all rows in their order."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greencache.bench.experiments.checks import Check, checks_of
from greencache.bench.experiments.rows import Row
from greencache.bench.experiments.spec import Cell, ExperimentSpec
from greencache.bench.experiments.tasks import Task, has_part, limits_of, run_task, tasks_of
from greencache.bench.sweep_runners import worker_pool
from greencache.controller.slo import Slo
from greencache.errors import InputError, OutputError, SweepError
from greencache.settings import Settings

__all__ = ["RESULTS", "SCHEMA", "Results", "read_results", "run_experiment", "selected"]

SCHEMA = "greencache.experiment/1"
RESULTS = "results.json"

_PARTS = "parts"
_LOOK_S = 2.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Results:
    """What an experiment gave.

    Attributes
    ----------
    name, title:
        What the experiment is called.
    limits:
        TTFT and TPOT limits of each workload in seconds, as far as a rule set them; a text where
        it could not.
    references:
        Runs that savings are counted against.
    rows:
        A row for each run of each cell, `greencache.bench.experiments.rows`.
    checks:
        What must hold, over all rows.
    """

    name: str
    title: str
    limits: Mapping[str, Mapping[str, float] | str]
    references: Sequence[str]
    rows: Sequence[Row]
    checks: Sequence[Check]

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for ``json.dump``."""
        return {"schema": SCHEMA, "simulated": True, **asdict(self)}


def read_results(folder: Path) -> Results:
    """What was written to a folder.

    Raises
    ------
    InputError
        If there are no results.
    """
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != SCHEMA:
            raise InputError(f"{path} has the schema {content['schema']}, not {SCHEMA}")
        return Results(
            **{name: content[name] for name in ("name", "title", "limits", "references", "rows")},
            checks=[Check(**check) for check in content["checks"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} has no results; run the experiment first") from None


def selected(spec: ExperimentSpec, only: Sequence[str]) -> dict[Cell, list[str]]:
    """The cells and runs that filters such as ``zone=NO`` let through; all of them must.

    Raises
    ------
    InputError
        If a filter is none, or lets nothing through.
    """
    filters: dict[str, set[str]] = {}
    for text in only:
        name, equals, values = text.partition("=")
        if not equals or name not in (*Cell._fields, "run"):
            known = ", ".join((*Cell._fields, "run"))
            raise InputError(f"--only {text}: write AXIS=VALUE[,VALUE]; axes are {known}")
        filters.setdefault(name, set()).update(values.split(","))

    def passes(name: str, value: object) -> bool:
        said = f"{value:g}" if isinstance(value, float) else str(value).lower()
        given = {text.lower() for text in filters.get(name, {said})}
        return said.lower() in given

    cells = {}
    for cell, runs in spec.cells().items():
        kept = [run for run in runs if passes("run", run)]
        if kept and all(passes(name, value) for name, value in cell._asdict().items()):
            cells[cell] = kept
    if not cells:
        raise InputError(f"--only {' --only '.join(only)} lets no cell through")
    return cells


def _with_savings(rows: Sequence[Row], references: Sequence[str]) -> list[Row]:
    """Rows with the share of grams per output token saved against each reference of their cell.

    Null unless both runs are valid.
    """
    grams = {
        (*_cell(row), row["run"]): row.get("sci_g_per_1k_output_tokens")
        for row in rows
        if row["valid"]
    }
    with_savings = []
    for row in rows:
        own = grams.get((*_cell(row), row["run"]))
        saving = {}
        for name in references:
            other = grams.get((*_cell(row), name))
            saving[name] = 1 - own / other if own is not None and other else None
        with_savings.append({**row, "saving_vs": saving})
    return with_savings


def _cell(row: Row) -> Cell:
    return Cell(**{name: row[name] for name in Cell._fields})


def _done(tasks: Sequence[Task]) -> int:
    """How many rows of tasks are finished."""
    return sum(len(done.keys() & wanted) for done, wanted in map(_progress_of, tasks))


def _progress_of(task: Task) -> tuple[dict[str, Row], set[str]]:
    return task.part.rows(), {key for key, _, _ in task.wanted()}


def _run_all(tasks: Sequence[Task], jobs: int, on_progress: Progress) -> None:
    total = sum(len(list(task.wanted())) for task in tasks)
    try:
        with worker_pool(min(jobs, len(tasks))) as pool:
            waiting = {pool.submit(run_task, task) for task in tasks}
            while waiting:
                ended, waiting = concurrent.futures.wait(waiting, timeout=_LOOK_S)
                for future in ended:
                    future.result()
                on_progress(_done(tasks), total)
    except BrokenProcessPool:
        raise SweepError(
            "a worker process died: killed, or out of memory; the same command again goes on from "
            "what is kept"
        ) from None
    except KeyboardInterrupt:
        raise SweepError("interrupted; the same command again goes on from what is kept") from None


def _limits_as_json(limits: Mapping[str, Slo | str | None]) -> dict[str, dict[str, float] | str]:
    return {
        workload: slo if isinstance(slo, str) else asdict(slo)
        for workload, slo in limits.items()
        if slo is not None
    }


def _finished(cells: Mapping[Cell, Sequence[str]], tasks: Sequence[Task]) -> list[Row]:
    """The rows of cells that are done, in the order of the cells."""
    found = {
        (cell, name): row
        for task in tasks
        for done in [task.part.rows()]
        for key, cell, name in task.wanted()
        if (row := done.get(key)) is not None
    }
    wanted = [(cell, name) for cell, runs in cells.items() for name in runs]
    return [found[each] for each in wanted if each in found]


def run_experiment(
    spec: ExperimentSpec,
    settings: Settings,
    folder: Path,
    *,
    jobs: int,
    only: Sequence[str] = (),
    on_progress: Progress = lambda done, rows: None,
) -> Results:
    """Run what of an experiment was not run before, and give all that the folder has of it.

    Parameters
    ----------
    spec, settings:
        What to run, and what holds where it says nothing.
    folder:
        Where finished rows are kept; made if it is not there.
    jobs:
        How many tasks to run side by side; with 1, in this process.
    only:
        What to run, as for `selected`; rows that are there already are given beside it.
    on_progress:
        Called now and then with the number of rows that are done and of all.

    Raises
    ------
    InputError
        If a filter lets nothing through.
    SweepError
        If a worker was lost; what was done is kept.
    OutputError
        If the folder cannot be written.
    """
    cells, parts = selected(spec, only), folder / _PARTS
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(f"cannot write to {folder}: {fault.strerror}") from None
    workloads = [
        workload
        for workload in spec.workloads
        if any(cell.workload == workload for cell in cells) or has_part(parts, workload)
    ]
    limits = {workload: limits_of(spec, settings, workload) for workload in workloads}
    tasks = tasks_of(spec, settings, cells, limits, parts)
    if jobs == 1:
        for i, task in enumerate(tasks):
            run_task(task)
            on_progress(i + 1, len(tasks))
    else:
        _run_all(tasks, jobs, on_progress)
    whole = {cell: runs for cell, runs in spec.cells().items() if cell.workload in limits}
    rows = _with_savings(
        _finished(whole, tasks_of(spec, settings, whole, limits, parts)),
        spec.experiment.references,
    )
    return Results(
        name=spec.name,
        title=spec.experiment.title,
        limits=_limits_as_json(limits),
        references=spec.experiment.references,
        rows=rows,
        checks=checks_of(rows),
    )
