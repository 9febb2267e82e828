"""Tasks: the cells of one workload, load and seed, which share requests and simulations.

A task is plain data and names its own results; a worker runs what of it is missing and appends
each row as it comes.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from greencache.bench.experiments.cells import Cells, base_setup
from greencache.bench.experiments.parts import Part, digest_of
from greencache.bench.experiments.rows import Row, failed_row
from greencache.bench.experiments.slo import LOAD_FRACTION, SEED, full_keeps
from greencache.bench.experiments.spec import Cell, ExperimentSpec
from greencache.bench.sweep_jobs import code_digest
from greencache.controller.slo import Slo
from greencache.errors import InputError
from greencache.settings import Settings

__all__ = ["Task", "has_part", "limits_of", "run_task", "tasks_of"]

_COMPUTING = ("cells", "parts", "rows", "slo", "spec", "tasks")
"""Modules of this package that results depend on; the others only show them."""


@dataclass(frozen=True)
class Task:
    """Cells that share their requests.

    Attributes
    ----------
    spec, settings:
        The experiment, and what holds where it says nothing.
    cells:
        The cells in their order, each with its runs.
    slo:
        Limits by rule; None for those of the replay, a text why there are none.
    part:
        Where finished rows are kept; its name is a digest of all that they share.
    """

    spec: ExperimentSpec
    settings: Settings
    cells: Mapping[Cell, Sequence[str]]
    slo: Slo | str | None
    part: Part

    def wanted(self) -> Iterator[tuple[str, Cell, str]]:
        """Every row in order: its key, its cell and its run."""
        for cell, runs in self.cells.items():
            for name in runs:
                yield self._key(cell, name), cell, name

    def by_hour(self, cell: Cell, name: str) -> bool:
        """Whether a row is also kept hour by hour."""
        kept = self.spec.timeline
        return kept is not None and cell == kept.cell and name in kept.runs

    def _key(self, cell: Cell, name: str) -> str:
        run: Any = msgspec.to_builtins(self.spec.runs[name])
        start = self.spec.zones[cell.zone]
        return digest_of([cell, start, name, run, self.by_hour(cell, name)])


@cache
def _own_digest() -> str:
    digest = hashlib.sha256()
    for name in _COMPUTING:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _part(
    spec: ExperimentSpec, settings: Settings, slo: Slo | str | None, cell: Cell, folder: Path
) -> Part:
    shared = {
        "code": [code_digest(), _own_digest()],
        "settings": settings.model_dump_json(),
        "replay": spec.replay,
        "workload": spec.workloads[cell.workload],
        "sizes": msgspec.to_builtins(spec.sizes),
        "slo": asdict(slo) if isinstance(slo, Slo) else slo,
        "axes": cell[:3],
    }
    name = f"{cell.workload}-{cell.load_fraction:g}-{cell.seed}-{digest_of(shared)}.jsonl"
    return Part(folder / name)


def has_part(folder: Path, workload: str) -> bool:
    """Whether anything of a workload was begun in a folder of parts."""
    return any(folder.glob(f"{glob.escape(workload)}-*.jsonl"))


def tasks_of(
    spec: ExperimentSpec,
    settings: Settings,
    cells: Mapping[Cell, Sequence[str]],
    limits: Mapping[str, Slo | str | None],
    folder: Path,
) -> list[Task]:
    """Put cells together that share their requests."""
    groups: dict[tuple[str, float, int], dict[Cell, Sequence[str]]] = {}
    for cell, runs in cells.items():
        groups.setdefault((cell.workload, cell.load_fraction, cell.seed), {})[cell] = runs
    tasks = []
    for group in groups.values():
        first = next(iter(group))
        slo = limits[first.workload]
        tasks.append(Task(spec, settings, group, slo, _part(spec, settings, slo, first, folder)))
    return tasks


def limits_of(spec: ExperimentSpec, settings: Settings, workload: str) -> Slo | str | None:
    """The limits of a workload by rule; None if the experiment has no rule, a text if it fails."""
    if spec.experiment.slo is None:
        return None
    try:
        return full_keeps(base_setup(spec, settings, workload, LOAD_FRACTION, SEED))
    except InputError as fault:
        return str(fault)


def run_task(task: Task) -> None:
    """Run what of a task is not in its part; what a worker runs."""
    part = task.part
    done = part.rows()
    missing = [(key, cell, name) for key, cell, name in task.wanted() if key not in done]
    if not missing:
        return
    try:
        if isinstance(task.slo, str):
            raise InputError(task.slo)
        cells = Cells(task.spec, task.settings, missing[0][1], task.slo)
    except InputError as fault:
        for key, cell, name in missing:
            part.append(key, failed_row(cell, name, task.spec.runs[name], str(fault)))
        return
    for key, cell, name in missing:
        row: Row = cells.row(cell, name, by_hour=task.by_hour(cell, name))
        part.append(key, row)
