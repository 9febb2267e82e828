"""The catalog of hardware parts: every figure with its range and its source.

The figures stand in ``data/catalog.toml``; a file of the same form laid over it changes single
figures (setting ``GREENCACHE_CATALOG``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from greencache.errors import InputError, UnknownNameError

__all__ = ["Catalog", "Part", "Quantity", "Source", "given"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure is from; ``read`` says how it was read: primary, secondary or derived."""

    title: str
    url: str
    year: int
    read: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure in the unit that its name ends in, with the range that its sources span."""

    value: float
    low: float
    high: float
    source: Source

    def as_json(self) -> dict[str, Any]:
        """The figure as results print it."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "source": self.source.title,
            "url": self.source.url,
            "year": self.source.year,
            "read": self.source.read,
        }

    def times(self, factor: float, note: str) -> Quantity:
        """The figure and its range multiplied; ``note`` says by what."""
        source = Source(
            f"{self.source.title}; {note}", self.source.url, self.source.year, "derived"
        )
        return Quantity(self.value * factor, self.low * factor, self.high * factor, source)


def given(value: float, name: str) -> Quantity:
    """A figure that the user set; its range is that one value."""
    return Quantity(value, value, value, Source(f"set by the user: {name}", "", 0, "primary"))


@dataclass(frozen=True)
class Part:
    """One part: its quantities by name, and its labels (title, process node, memory kind)."""

    name: str
    quantities: Mapping[str, Quantity]
    labels: Mapping[str, str | int]

    def __getitem__(self, quantity: str) -> Quantity:
        if quantity not in self.quantities:
            raise UnknownNameError(f"figure of {self.name}", quantity, self.quantities)
        return self.quantities[quantity]

    def get(self, quantity: str) -> Quantity | None:
        """The quantity, or None where nobody published it."""
        return self.quantities.get(quantity)

    @property
    def title(self) -> str:
        """What the part is called in full."""
        return str(self.labels.get("title", self.name))


def _is_quantity(raw: object) -> bool:
    return isinstance(raw, dict) and "value" in raw


def _lay_over(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        # A figure is replaced whole: the range of the old one says nothing about the new one.
        if isinstance(old, dict) and isinstance(value, dict) and not _is_quantity(value):
            value = _lay_over(old, value)
        merged[key] = value
    return merged


def _quantity(where: str, raw: Mapping[str, Any], sources: Mapping[str, Source]) -> Quantity:
    key = str(raw.get("source", ""))
    if key not in sources:
        raise UnknownNameError(f"source of {where}", key, sources)
    try:
        value = float(raw["value"])
        low, high = float(raw.get("low", value)), float(raw.get("high", value))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"catalog: {where} needs a number as its value") from None
    if not 0 < low <= value <= high < float("inf"):
        raise InputError(f"catalog: {where} needs 0 < low <= value <= high")
    return Quantity(value, low, high, sources[key])


class Catalog:
    """All parts, by kind and name.

    Examples
    --------
    >>> Catalog.load().part("gpu", "H100")["tdp_w"].value
    700.0
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        sources = {
            key: Source(str(s["title"]), str(s["url"]), int(s["year"]), str(s["read"]))
            for key, s in raw.get("sources", {}).items()
        }
        self._kinds: dict[str, dict[str, Part]] = {}
        for kind, tables in raw.items():
            if kind == "sources":
                continue
            if any(_is_quantity(value) for value in tables.values()):
                tables = {kind: tables}
            self._kinds[kind] = {
                n: self._part(f"{kind}.{n}", n, t, sources) for n, t in tables.items()
            }

    @staticmethod
    def _part(where: str, name: str, table: Mapping[str, Any], sources: dict[str, Source]) -> Part:
        quantities = {
            key: _quantity(f"{where}.{key}", value, sources)
            for key, value in table.items()
            if _is_quantity(value)
        }
        labels = {key: value for key, value in table.items() if key not in quantities}
        return Part(name, quantities, labels)

    @classmethod
    def load(cls, overrides: Path | None = None) -> Catalog:
        """Read the shipped catalog, with the user's file laid over it.

        Raises
        ------
        InputError
            If the user's file cannot be read, or makes the catalog inconsistent.
        """
        text = (files("greencache") / "data" / "catalog.toml").read_text("utf-8")
        raw = tomllib.loads(text)
        if overrides is not None:
            try:
                changes = tomllib.loads(overrides.read_text("utf-8"))
            except OSError as fault:
                raise InputError(f"{overrides}: cannot be read ({fault.strerror})") from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
                raise InputError(f"{overrides}: not a TOML file ({fault})") from None
            raw = _lay_over(raw, changes)
        try:
            return cls(raw)
        except (AttributeError, KeyError, TypeError, ValueError) as fault:
            raise InputError(f"{overrides}: not of the catalog's form ({fault!r})") from None

    def names(self, kind: str) -> list[str]:
        """Names of all parts of a kind."""
        return list(self._kinds[kind])

    def part(self, kind: str, name: str) -> Part:
        """Find a part; letter case does not matter.

        Raises
        ------
        UnknownNameError
            If there is none of that name.
        """
        parts = self._kinds[kind]
        for known, part in parts.items():
            if known.lower() == name.lower():
                return part
        raise UnknownNameError(kind.upper() if kind in {"gpu", "cpu"} else kind, name, parts)

    def table(self, kind: str) -> Part:
        """The quantities of a kind that is a single table, such as ``efficiency``."""
        return self._kinds[kind][kind]
