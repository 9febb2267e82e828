"""Jobs: cells of a sweep that share their simulations, and what a worker does with them.

A simulation knows nothing of scope, and of grid and carbon factors no more than what they make
storing KV cost (`ReplaySetup.prices`). Cells that differ only in what
`greencache.bench.replay.value` asks for are one job: simulated once, valued one by one. How much
wear costs is known for sure only when the trace is read, so a job may turn out to need more than
one simulation.

A job is plain data and names its own result: its key is a digest of all that the result depends
on. The worker checks that it has the same code and the same files as who sent the job.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from greencache.bench.plans import any_steered
from greencache.bench.replay import value
from greencache.bench.scenario import (
    PRICED_BY,
    CarbonSide,
    Scenario,
    build,
    carbon_side,
    likely_prices,
)
from greencache.bench.setup import SIMULATED_FACTORS, ReplaySetup
from greencache.bench.simulated import Simulated, admit_measured, simulate_plans
from greencache.bench.sweep_rows import Row, failed_row, rows_of
from greencache.controller.storage_prices import StoragePrices
from greencache.errors import InputError, SweepError
from greencache.settings import Settings
from greencache.traces.loads import load_names
from greencache.traces.samples import grid_zones
from greencache.version import VERSION

__all__ = ["Job", "JobRows", "code_digest", "jobs_of", "run_job"]

_PACKAGES = (
    "greencache",
    "greencache.tiers",
    "greencache.traces",
    "greencache.controller",
    "greencache.bench",
)
"""Whatever a replay runs; not the command line."""
_LIBRARIES = ("numba", "numpy")
_SUFFIXES = {".py", ".toml", ".csv", ".gz", ".parquet"}

JobRows = list[list[Row]]
"""For each cell of a job its rows."""


@dataclass(frozen=True)
class Job:
    """Cells that share their simulations.

    Attributes
    ----------
    key:
        Digest of all that the result depends on.
    cells:
        Which cells of the sweep these are; no part of the key.
    scenarios:
        What to replay, for each cell; files by their absolute path.
    settings:
        What holds where a scenario says nothing.
    files:
        Digest of every file that is read, by its absolute path; None if it cannot be.
    code:
        What `code_digest` gave where the job was made.
    """

    key: str
    cells: tuple[int, ...]
    scenarios: tuple[Scenario, ...]
    settings: Settings
    files: Mapping[Path, str | None]
    code: str


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not (path / "__init__.py").exists():  # else it is a package of its own
                yield from _sources(path)
        elif path.suffix in _SUFFIXES:
            yield path


@cache
def code_digest() -> str:
    """Digest of GreenCache's sources and data, and of the libraries that results rest on."""
    digest = hashlib.sha256(f"greencache {VERSION}\n".encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for package in _PACKAGES:
        folder = Path(importlib.import_module(package).__path__[0])
        for path in _sources(folder):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{package} {path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str | None:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is no plain file: a sweep reads its files more than once")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _split(text: str | None, shipped: Sequence[str]) -> tuple[Path, str] | None:
    """The file and the rest of ``FILE`` or ``FILE:NAME``; None if it names no file that exists."""
    if not text or text in shipped:
        return None
    file, colon, name = text.rpartition(":")
    for path, rest in ((text, ""), (file, colon + name)):
        if path and Path(path).exists():
            return Path(path), rest
    return None


class _Inputs:
    """The files that replays name: where they are, and what is in them."""

    def __init__(self) -> None:
        self._digests: dict[Path, str | None] = {}

    def digest(self, path: Path) -> str | None:
        """Digest of a file, read once."""
        if path not in self._digests:
            self._digests[path] = _file_digest(path)
        return self._digests[path]

    def placed(self, scenario: Scenario) -> tuple[Scenario, dict[str, Path]]:
        """The scenario with its files by absolute path, and the file of each option."""
        files = {}
        if scenario.trace is not None:
            files["trace"] = scenario.trace.resolve()
            scenario = dataclasses.replace(scenario, trace=files["trace"])
        if (found := _split(scenario.grid, grid_zones())) is not None:
            files["grid"] = found[0].resolve()
            scenario = dataclasses.replace(scenario, grid=f"{files['grid']}{found[1]}")
        if (found := _split(scenario.load, load_names())) is not None:
            files["load"] = found[0].resolve()
            scenario = dataclasses.replace(scenario, load=f"{files['load']}{found[1]}")
        return scenario, files

    def placed_settings(self, settings: Settings) -> tuple[Settings, dict[str, Path]]:
        """The same of settings."""
        files = {}
        if settings.catalog is not None:
            files["catalog"] = settings.catalog.resolve()
            settings = settings.model_copy(update={"catalog": files["catalog"]})
        if (found := _split(settings.grid.zone, grid_zones())) is not None:
            files["zone"] = found[0].resolve()
            grid = settings.grid.model_copy(update={"zone": f"{files['zone']}{found[1]}"})
            settings = settings.model_copy(update={"grid": grid})
        return settings, files

    def contents(self, files: Mapping[str, Path]) -> dict[str, str | None]:
        """What is in files, by what names them."""
        return {name: self.digest(path) for name, path in files.items()}


def _text(scenario: Scenario) -> str:
    """A scenario as text, equal where all that it says is."""
    return json.dumps(dataclasses.asdict(scenario), default=str, sort_keys=True)


def _simulated_part(scenario: Scenario) -> str:
    """Equal for scenarios that share their simulations; the controller looks at everything."""
    if any_steered(scenario.plans):
        return _text(scenario)
    factors = {
        name: factor for name, factor in scenario.factors.items() if name in SIMULATED_FACTORS
    }
    return _text(
        dataclasses.replace(
            scenario, grid=None, grid_start=None, scope=None, ssd_kg_per_tb=None, factors=factors
        )
    )


def _likely_prices(scenario: Scenario, settings: Settings) -> StoragePrices:
    """As `likely_prices`; those of nothing where the scenario will be refused."""
    try:
        return likely_prices(scenario, settings)
    except InputError:
        return StoragePrices()


def _priced_part(scenario: Scenario) -> str:
    """Equal for scenarios for which `_likely_prices` are."""
    said = dataclasses.asdict(scenario)
    return json.dumps({name: said[name] for name in PRICED_BY}, default=str, sort_keys=True)


def jobs_of(scenarios: Sequence[Scenario], settings: Settings) -> list[Job]:
    """Put the cells of a sweep together that share their simulations.

    Raises
    ------
    InputError
        If a file is named that can be read only once.
    """
    groups: dict[tuple[str, StoragePrices], list[int]] = {}
    prices: dict[str, StoragePrices] = {}
    for i, scenario in enumerate(scenarios):
        priced = _priced_part(scenario)
        if priced not in prices:
            prices[priced] = _likely_prices(scenario, settings)
        groups.setdefault((_simulated_part(scenario), prices[priced]), []).append(i)
    inputs = _Inputs()
    placed_settings, settings_files = inputs.placed_settings(settings)
    # What was set counts beside what holds: a default may depend on whether a setting was given.
    said = [settings.model_dump_json(), settings.model_dump_json(exclude_unset=True)]
    common = [code_digest(), *said, inputs.contents(settings_files)]
    jobs = []
    for cells in groups.values():
        placed, files = zip(*(inputs.placed(scenarios[i]) for i in cells), strict=True)
        # Paths as they were written: a folder may move with all that is in it.
        written = [_text(scenarios[i]) for i in cells]
        content = json.dumps([*common, written, [inputs.contents(each) for each in files]])
        named = {path for each in (settings_files, *files) for path in each.values()}
        jobs.append(
            Job(
                key=hashlib.sha256(content.encode()).hexdigest()[:32],
                cells=tuple(cells),
                scenarios=placed,
                settings=placed_settings,
                files={path: inputs.digest(path) for path in sorted(named)},
                code=code_digest(),
            )
        )
    return jobs


def _check_worker(job: Job) -> None:
    """Refuse to give results of other code or other files than were asked for."""
    if job.code != code_digest():
        raise SweepError(
            f"a worker on {platform.node()} runs another GreenCache, numpy or numba than this one; "
            "install the same on all"
        )
    for path, digest in job.files.items():
        if _file_digest(path) != digest:
            raise SweepError(
                f"{path} is not the same on a worker on {platform.node()}, or changed since the "
                "sweep began"
            )


def _tried(scenario: Scenario, settings: Settings) -> CarbonSide | str:
    try:
        return carbon_side(scenario, settings)
    except InputError as fault:
        return str(fault)


def _rows_of_setup(simulated: Simulated, setup: ReplaySetup) -> list[Row]:
    try:
        return rows_of(value(simulated, setup))
    except InputError as fault:
        return [failed_row(str(fault))]


def run_job(job: Job) -> JobRows:
    """Simulate a job once and value it for every cell; what a worker runs.

    Returns
    -------
    list
        For each cell of the job its rows, as replaying it alone would give; one with an error
        where it cannot be replayed.

    Raises
    ------
    SweepError
        If the code or the files are others than where the job was made.
    """
    _check_worker(job)
    sides = [_tried(scenario, job.settings) for scenario in job.scenarios]
    usable = {i: side for i, side in enumerate(sides) if isinstance(side, CarbonSide)}
    rows = {i: [failed_row(side)] for i, side in enumerate(sides) if isinstance(side, str)}
    try:
        if usable:
            rows |= _run_cells(job, usable)
    except InputError as fault:  # of the trace or the engine, so of all cells
        rows |= {i: [failed_row(str(fault))] for i in usable}
    return [rows[i] for i in range(len(sides))]


def _run_cells(job: Job, sides: Mapping[int, CarbonSide]) -> dict[int, list[Row]]:
    setup, plans = build(job.scenarios[next(iter(sides))], job.settings)
    admitted, _ = admit_measured(setup)
    rows: dict[int, list[Row]] = {}
    setups: dict[int, ReplaySetup] = {}
    for i, side in sides.items():
        try:
            each = side.of(setup)
            each.check_grid(admitted)
            setups[i] = each
        except InputError as fault:
            rows[i] = [failed_row(str(fault))]
    simulated: dict[StoragePrices, Simulated] = {}
    for i, each in setups.items():
        if each.prices not in simulated:
            simulated[each.prices] = simulate_plans(each, plans, threads=1, clock=time.perf_counter)
        rows[i] = _rows_of_setup(simulated[each.prices], each)
    return rows
