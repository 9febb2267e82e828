"""What a sweep is to run: a TOML file of what every replay has, and of axes to vary.

::

    [replay]
    workload = "conversation"
    mean_rate = 3

    [axes]
    grid = ["FR", "PL"]
    factors.ssd_kg_per_tb = [3.9, 17.3, 160]

Every combination of the axes' values is a *cell*, the last axis varying fastest.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from greencache.bench.scenario import Scenario
from greencache.bench.scenario_file import scenario_from
from greencache.errors import InputError, SpecError
from greencache.factors import FACTOR_NAMES
from greencache.traces.files import STDIN

__all__ = ["MOST_CELLS", "AxisValue", "Cell", "SweepSpec", "parse_toml", "read_spec"]

MOST_CELLS = 100_000
"""Above this a sweep is taken for a mistake."""

AxisValue: TypeAlias = str | float | int | bool

_FACTOR = "factors."
_OPTIONS = [name for name in Scenario.option_names() if name != "factors"]
_TABLES = ("replay", "axes")
_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: the axes' values in their order, and the replay that they make."""

    values: tuple[AxisValue, ...]
    scenario: Scenario


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, checked.

    Attributes
    ----------
    path:
        The file that it is from.
    replay:
        Options of every replay; carbon factors as ``factors.NAME``.
    axes:
        The values of each axis, all of one type, in the order of the file.
    """

    path: Path
    replay: Mapping[str, Any]
    axes: Mapping[str, tuple[AxisValue, ...]]

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def cells(self) -> list[Cell]:
        """Every combination, in order."""
        return [
            Cell(values, _scenario({**self.replay, **dict(zip(self.axes, values, strict=True))}))
            for values in itertools.product(*self.axes.values())
        ]


def _scenario(options: Mapping[str, Any]) -> Scenario:
    """A scenario from options whose factors have names of their own."""
    factors = {
        name.removeprefix(_FACTOR): value
        for name, value in options.items()
        if name.startswith(_FACTOR)
    }
    others = {name: value for name, value in options.items() if not name.startswith(_FACTOR)}
    return scenario_from({**others, "factors": factors})


def _close(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    SpecError
        If it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as fault:
        raise SpecError(path, f"cannot be read ({fault.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(path, "is not a text file") from None
    except RecursionError:
        raise SpecError(path, "is nested too deep") from None
    except tomllib.TOMLDecodeError as fault:
        placed = _TOML_PLACE.fullmatch(str(fault))
        if placed is None:
            raise SpecError(path, f"not TOML: {fault}") from None
        raise SpecError(path, f"not TOML: {placed[1]}", line=int(placed[2])) from None


def _table(path: Path, parsed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One table, its factors named ``factors.NAME`` however they were written."""
    table = parsed.get(name, {})
    if not isinstance(table, dict):
        raise SpecError(path, f"{name} is not a table; write [{name}]")
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if key != "factors":
            flat[key] = value
            continue
        if not isinstance(value, dict):
            raise SpecError(path, f"[{name}] factors is not a table; write factors.NAME")
        flat |= {f"{_FACTOR}{factor}": each for factor, each in value.items()}
    for key in flat:
        factor = key.removeprefix(_FACTOR)
        if factor != key and factor not in FACTOR_NAMES:
            hint = _close(factor, FACTOR_NAMES)
            raise SpecError(path, f"[{name}] unknown carbon factor {factor!r}{hint}")
        if factor == key and key not in _OPTIONS:
            hint = _close(key, _OPTIONS) or f"; known: {', '.join(_OPTIONS)}"
            raise SpecError(path, f"[{name}] unknown option {key!r}{hint}")
    return flat


def _value(path: Path, table: str, name: str, given: object) -> AxisValue:
    """One value as the type of its option; a path is a text."""
    if isinstance(given, dict):
        raise SpecError(path, f"[{table}] {name} is a table; it takes one value")
    try:
        scenario = _scenario({name: given})
    except InputError as fault:
        raise SpecError(path, f"[{table}] {fault}") from None
    factor = name.removeprefix(_FACTOR)
    value = scenario.factors[factor] if factor != name else getattr(scenario, name)
    return str(value) if isinstance(value, Path) else value


def _common(path: Path, table: Mapping[str, Any]) -> dict[str, AxisValue]:
    for name, given in table.items():
        if isinstance(given, list):
            advice = "lists go under [axes]"
            if name == "plans":
                advice = 'write them as one text: "hbm-only,full"'
            raise SpecError(path, f"[replay] {name} is a list; {advice}")
    return {name: _value(path, "replay", name, given) for name, given in table.items()}


def _axis(path: Path, name: str, given: object) -> tuple[AxisValue, ...]:
    if not isinstance(given, list):
        raise SpecError(path, f"[axes] {name} is not a list; write {name} = [..., ...]")
    if not given:
        raise SpecError(path, f"[axes] {name} is empty; give it a value or leave it out")
    values = tuple(_value(path, "axes", name, each) for each in given)
    twice = next((each for i, each in enumerate(values) if each in values[:i]), None)
    if twice is not None:
        raise SpecError(path, f"[axes] {name} has {twice!r} twice")
    return values


def _refuse_conflicts(
    path: Path, common: Mapping[str, AxisValue], axes: Mapping[str, tuple[AxisValue, ...]]
) -> None:
    both = [name for name in axes if name in common]
    if both:
        raise SpecError(path, f"{both[0]} is under [replay] and under [axes]; say it once")
    said = {*common, *axes}
    if {"ssd_kg_per_tb", "factors.ssd_kg_per_tb"} <= said:
        reason = "ssd_kg_per_tb and factors.ssd_kg_per_tb are the same; say it once"
        raise SpecError(path, reason)
    if str(STDIN) in (common.get("trace"), *axes.get("trace", ())):
        raise SpecError(path, "a sweep cannot read a trace from standard input; name a file")


def read_spec(path: Path) -> SweepSpec:
    """Read and check what a sweep is to run; what it names is looked up by each replay.

    Raises
    ------
    SpecError
        If the file cannot be read or is not such a file.
    """
    parsed = parse_toml(path)
    for name in parsed:
        if name not in _TABLES:
            hint = _close(name, _TABLES)
            if name in _OPTIONS:
                hint = "; options go under [replay] or [axes]"
            raise SpecError(path, f"unknown table {name!r}{hint}")
    common = _common(path, _table(path, parsed, "replay"))
    axes = {name: _axis(path, name, given) for name, given in _table(path, parsed, "axes").items()}
    if not axes:
        raise SpecError(path, "nothing to vary: name an axis under [axes]")
    _refuse_conflicts(path, common, axes)
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_CELLS:
        raise SpecError(path, f"makes {count:,} replays; the most is {MOST_CELLS:,}")
    return SweepSpec(path, common, axes)
