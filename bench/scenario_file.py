"""A scenario from what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from greencache.bench.scenario import Scenario
from greencache.errors import InputError, UnknownNameError
from greencache.quantities import write_bytes

__all__ = ["scenario_from"]

_SIZES = ("dram", "ssd", "dram_step", "ssd_step")
_LARGEST_NUMBER = 2.0**63
"""Above all that an option can mean."""
_KINDS = {
    "str": "a text",
    "Path": "the name of a file",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "Mapping": "a table",
}
"""What options are, as messages call it."""


def scenario_from(options: Mapping[str, Any]) -> Scenario:
    """A scenario from what a file says; numbers may stand where texts do.

    Raises
    ------
    UnknownNameError
        If an option is not known.
    InputError
        If one is of the wrong kind.
    """
    kinds = {each.name: str(each.type) for each in fields(Scenario)}
    for name in options:
        if name not in kinds:
            raise UnknownNameError("option", name, kinds)
    return Scenario(
        **{name: _converted(name, kinds[name], given) for name, given in options.items()}
    )


def _converted(name: str, kind: str, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    number = isinstance(given, int | float) and not isinstance(given, bool)
    number = number and abs(given) < _LARGEST_NUMBER  # not so if it is NaN
    if kind.startswith("str") and (number or isinstance(given, str)):
        is_size = number and name in _SIZES and float(given).is_integer() and given >= 0
        return write_bytes(int(given)) if is_size else str(given)
    if kind.startswith("Path") and isinstance(given, str):
        return Path(given)
    if kind.startswith("bool") and isinstance(given, bool):
        return given
    if kind.startswith("float") and number:
        return float(given)
    if kind.startswith("int") and number and float(given).is_integer():
        return int(given)
    if kind.startswith("Mapping") and isinstance(given, Mapping):
        return {key: _converted(f"{name}.{key}", "float", each) for key, each in given.items()}
    wanted = _KINDS[kind.split(" |")[0].split("[")[0]]
    raise InputError(f"{name} = {given!r} is not {wanted}")
