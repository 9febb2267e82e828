"""What an experiment is to run: a TOML file, written before its first result.

::

    [experiment]
    title = "…"
    slo = "full-keeps"                # limits by rule; without it those of the replay
    references = ["hbm-only", "full"] # runs that savings are counted against

    [replay]                          # options of every replay, as for `greencache replay`
    model = "llama-3.1-70b"

    [workloads.conversation]          # options of one workload: a recorded trace or a composed one
    workload = "conversation"

    [sizes]                           # what each tier may be; the largest is what is installed
    dram = ["0", "512GiB"]
    ssd = ["0", "8TB", "16TB"]

    [zones]                           # where each zone's series begins
    FR = "2022-06-13T00:00Z"

    [runs.full]                       # a plan with its policy, its admission and its controls
    plan = "full"
    policy = "lru"
    admission = "all"
    control = { forecast = "naive" }

    [[blocks]]                        # every combination of the axes, under every run
    name = "factorial"
    why = "…"
    workloads = ["conversation"]
    load_fractions = [0.3, 0.6]       # of the rate at which full caching saturates
    zones = ["FR"]
    ssd_kg_per_tb = [5, 30]
    scopes = ["attributable"]
    wear = [true]                     # false: drives are spent by age alone
    seeds = [1]
    runs = ["full"]

    [timeline]                        # one cell that is also kept hour by hour
    workload = "conversation"
    load_fraction = 0.6
    zone = "FR"
    ssd_kg_per_tb = 30
    runs = ["full"]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from greencache.bench.accounting import Installed
from greencache.bench.scenario import Scenario
from greencache.bench.scenario_file import scenario_from
from greencache.bench.sweep_spec import parse_toml
from greencache.carbon import Scope
from greencache.errors import InputError, SpecError
from greencache.quantities import parse_bytes
from greencache.traces.samples import grid_zones

__all__ = [
    "FULL_KEEPS",
    "Block",
    "Cell",
    "ControlValue",
    "ExperimentSpec",
    "RunSpec",
    "Sizes",
    "Timeline",
    "find_spec",
    "read_experiment",
    "shipped",
]

FULL_KEEPS = "full-keeps"
"""The rule that sets limits on latency: `greencache.bench.experiments.slo`."""

ControlValue: TypeAlias = str | bool | int | float

_FOLDER = Path(__file__).parent


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan, and what it decides by."""

    plan: str
    policy: str
    admission: str = "all"
    control: dict[str, ControlValue] = {}


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each tier may be, as texts with their units."""

    dram: tuple[str, ...]
    ssd: tuple[str, ...]

    @property
    def dram_bytes(self) -> list[int]:
        """DRAM sizes, smallest first."""
        return sorted({parse_bytes(size) for size in self.dram})

    @property
    def ssd_bytes(self) -> list[int]:
        """SSD sizes, smallest first."""
        return sorted({parse_bytes(size) for size in self.ssd})

    @property
    def installed(self) -> Installed:
        """The largest of each."""
        return Installed(self.dram_bytes[-1], self.ssd_bytes[-1])


class Cell(NamedTuple):
    """One combination of the axes. The first three need a simulation each, the others may not."""

    workload: str
    load_fraction: float
    seed: int
    zone: str
    ssd_kg_per_tb: float
    scope: str
    wear: bool


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every combination of some values, under some runs, and why these."""

    name: str
    why: str
    workloads: tuple[str, ...]
    load_fractions: tuple[float, ...]
    zones: tuple[str, ...]
    ssd_kg_per_tb: tuple[float, ...]
    scopes: tuple[Scope, ...]
    wear: tuple[bool, ...]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]

    def cells(self) -> list[Cell]:
        """All of them, the last axis varying fastest."""
        return [
            Cell(workload, load, seed, zone, kg, str(scope), wear)
            for workload, load, seed, zone, kg, scope, wear in itertools.product(
                self.workloads,
                self.load_fractions,
                self.seeds,
                self.zones,
                self.ssd_kg_per_tb,
                self.scopes,
                self.wear,
            )
        ]


class Timeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cell that is kept hour by hour, in the default scope and with wear, for its seed."""

    workload: str
    load_fraction: float
    zone: str
    ssd_kg_per_tb: float
    runs: tuple[str, ...]
    seed: int = 1

    @property
    def cell(self) -> Cell:
        """Which cell that is."""
        return Cell(
            self.workload,
            self.load_fraction,
            self.seed,
            self.zone,
            self.ssd_kg_per_tb,
            str(Scope.ATTRIBUTABLE),
            True,
        )


class _Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    references: tuple[str, ...]
    slo: str | None = None


class ExperimentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment, checked; its tables as in the module's text."""

    experiment: _Experiment
    replay: dict[str, Any]
    workloads: dict[str, dict[str, Any]]
    sizes: Sizes
    zones: dict[str, str]
    runs: dict[str, RunSpec]
    blocks: tuple[Block, ...]
    timeline: Timeline | None = None
    name: str = ""

    def cells(self) -> dict[Cell, list[str]]:
        """Every cell of every block, once, with the runs that any block wants of it."""
        cells: dict[Cell, list[str]] = {}
        for block in self.blocks:
            for cell in block.cells():
                runs = cells.setdefault(cell, [])
                runs += [run for run in block.runs if run not in runs]
        return cells

    def scenario(self, workload: str, load_fraction: float, seed: int) -> Scenario:
        """What is asked of the engine, where everything is installed.

        Raises
        ------
        InputError
            If an option is not known or of the wrong kind.
        """
        options = {**self.replay, **self.workloads[workload], "load_fraction": load_fraction}
        if "workload" in options:
            options["seed"] = seed
        options |= {"dram": self.sizes.dram[-1], "ssd": self.sizes.ssd[-1], "plans": "full"}
        return scenario_from(options)


def shipped() -> list[str]:
    """Names of the experiments that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find_spec(name: str) -> Path:
    """The file of a shipped experiment, or the file that a name is.

    Raises
    ------
    InputError
        If it is neither.
    """
    if name in shipped():
        return _FOLDER / f"{name}.toml"
    if Path(name).exists():
        return Path(name)
    raise InputError(f"{name} is no file and no experiment; those that ship: {_said(shipped())}")


def _said(names: Iterable[str]) -> str:
    return ", ".join(names)


def _refuse_unknown(path: Path, place: str, names: Iterable[str], known: Iterable[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        reason = f"{place}: {missing[0]!r} is not there; there are {_said(known)}"
        raise SpecError(path, reason)


def _check(path: Path, spec: ExperimentSpec) -> None:
    tables: Mapping[str, Iterable[str]] = {
        "workloads": spec.workloads,
        "zones": spec.zones,
        "runs": spec.runs,
    }
    _refuse_unknown(path, "[zones]", spec.zones, grid_zones())
    _refuse_unknown(path, "references", spec.experiment.references, spec.runs)
    for block in spec.blocks:
        for name, known in tables.items():
            _refuse_unknown(path, f"block {block.name}, {name}", getattr(block, name), known)
    if spec.experiment.slo not in (None, FULL_KEEPS):
        raise SpecError(path, f"slo is {spec.experiment.slo!r}; the only rule is {FULL_KEEPS!r}")
    cells = spec.cells()
    if not cells:
        raise SpecError(path, "nothing to run: give blocks with values on every axis")
    if spec.timeline is not None and spec.timeline.cell not in cells:
        raise SpecError(path, "[timeline] names a cell that is in no block")
    for workload in spec.workloads:
        spec.scenario(workload, 1.0, 1)
    if sorted(map(parse_bytes, spec.sizes.dram)) != [*map(parse_bytes, spec.sizes.dram)] or sorted(
        map(parse_bytes, spec.sizes.ssd)
    ) != [*map(parse_bytes, spec.sizes.ssd)]:
        raise SpecError(path, "[sizes] go from the smallest to the largest")


def read_experiment(path: Path) -> ExperimentSpec:
    """Read and check an experiment.

    Raises
    ------
    SpecError
        If the file cannot be read or does not say what to run.
    """
    parsed = parse_toml(path)
    try:
        spec = msgspec.convert({**parsed, "name": path.stem}, ExperimentSpec)
        _check(path, spec)
    except (msgspec.ValidationError, InputError) as fault:
        if isinstance(fault, SpecError):
            raise
        raise SpecError(path, str(fault)) from None
    return spec
