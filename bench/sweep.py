"""A sweep: many replays, each combination of some axes, finished whenever it is run to its end.

Jobs that were finished before, by the same code with the same settings and files, are not run
again (`greencache.bench.sweep_parts`). Results are in the order of the combinations, whatever order
jobs ended in, and hold no wall times: equal sweeps give equal tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greencache.bench.sweep_jobs import Job, jobs_of
from greencache.bench.sweep_parts import CELL, Parts
from greencache.bench.sweep_rows import arrow_type
from greencache.bench.sweep_runners import Runner
from greencache.bench.sweep_spec import SweepSpec
from greencache.errors import InputError, SweepError
from greencache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SCHEMA", "SweepResult", "run_sweep", "sweep_as_json"]

SCHEMA = "greencache.sweep/1"

_PARTS = "parts"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep gave.

    Attributes
    ----------
    spec:
        What was asked for.
    table:
        A row for each plan of each cell: the axes' values, then `COLUMNS`. An axis that is named
        as a column takes its place.
    cell:
        Which cell each row belongs to.
    jobs, jobs_found:
        How many jobs there were, and how many of them had been finished before.
    """

    spec: SweepSpec
    table: pa.Table
    cell: np.ndarray[Any, np.dtype[np.int64]]
    jobs: int
    jobs_found: int


def _gathered(
    jobs: Sequence[Job], found: Mapping[str, pa.Table], parts: Parts
) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """All rows in the order of the cells, and the cell of each; of ``found`` jobs by their key."""
    import pyarrow as pa

    tables, cells = [], []
    for job in jobs:
        table = found[job.key] if job.key in found else parts.load(job)
        if table is None:
            raise SweepError(f"{parts.folder}: a result that was there is gone")
        cells.append(np.asarray(job.cells, np.int64)[table[CELL].to_numpy()])
        tables.append(table.drop_columns([CELL]).replace_schema_metadata(None))
    cell = np.concatenate(cells)
    order = np.argsort(cell, kind="stable")
    return pa.concat_tables(tables).take(pa.array(order)), cell[order]


def _with_axes(spec: SweepSpec, rows: pa.Table, cell: np.ndarray[Any, Any]) -> pa.Table:
    import pyarrow as pa

    # The last axis varies fastest.
    shape = tuple(len(values) for values in spec.axes.values())
    places = np.unravel_index(cell, shape)
    columns = {}
    for (name, values), place in zip(spec.axes.items(), places, strict=True):
        columns[name] = pa.array(values, arrow_type(type(values[0]))).take(pa.array(place))
    for name in rows.column_names:
        columns.setdefault(name, rows[name])
    return pa.table(columns, metadata={"schema": SCHEMA, "simulated": "true"})


def _run_missing(
    jobs: Sequence[Job],
    parts: Parts,
    run: Runner,
    on_progress: Callable[[int, int], None],
) -> dict[str, pa.Table]:
    """Run what is not there, keep each result as it comes; what was there, by the jobs' keys."""
    found = {job.key: table for job in jobs if (table := parts.load(job)) is not None}
    missing = [job for job in jobs if job.key not in found]
    done = len(jobs) - len(missing)
    on_progress(done, len(jobs))

    def kept() -> str:
        return (
            f"{done} of {len(jobs)} jobs are kept in {parts.folder}; the same command again "
            "goes on from there"
        )

    if not missing:
        return found
    try:
        with closing(run(missing)) as results:
            for job, rows in results:
                parts.save(job, rows)
                done += 1
                on_progress(done, len(jobs))
    except SweepError as fault:
        raise SweepError(f"{fault}; {kept()}") from None
    except KeyboardInterrupt:
        raise SweepError(f"interrupted; {kept()}") from None
    return found


def run_sweep(
    spec: SweepSpec,
    settings: Settings,
    folder: Path,
    run: Runner,
    *,
    on_progress: Callable[[int, int], None] = lambda done, jobs: None,
) -> SweepResult:
    """Run what of a sweep was not run before.

    Parameters
    ----------
    spec, settings:
        What to run, and what holds where it says nothing.
    folder:
        Where finished jobs are kept; made if it is not there.
    run:
        Runs jobs; see `greencache.bench.sweep_runners`.
    on_progress:
        Called with the number of jobs that are done and of all.

    Raises
    ------
    InputError
        If no cell could be run; the text is the first one's.
    SweepError
        If workers were lost; what was done is kept.
    OutputError
        If the folder cannot be written.
    """
    parts = Parts(folder / _PARTS)
    parts.prepare()
    jobs = jobs_of([cell.scenario for cell in spec.cells()], settings)
    found = _run_missing(jobs, parts, run, on_progress)
    rows, cell = _gathered(jobs, found, parts)
    if rows["error"].null_count == 0:
        reason = rows["error"][0].as_py()
        raise InputError(reason if len(spec) == 1 else f"all {len(spec)} replays fail: {reason}")
    return SweepResult(spec, _with_axes(spec, rows, cell), cell, len(jobs), len(found))


def sweep_as_json(result: SweepResult) -> dict[str, Any]:
    """All rows, ready for ``json.dump``."""
    return {
        "schema": SCHEMA,
        "simulated": True,
        "replay": dict(result.spec.replay),
        "axes": {name: list(values) for name, values in result.spec.axes.items()},
        "rows": result.table.to_pylist(),
    }
