"""Human units at the edges: ``64GiB``, ``1.5TB``, ``15min`` to and from bytes and seconds.

Inside, everything is SI: bytes, seconds, joules. These are the only conversions.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from greencache.errors import QuantityError

__all__ = [
    "DAY_S",
    "GB",
    "GIB",
    "HOUR_S",
    "TB",
    "TIB",
    "YEAR_S",
    "format_bytes",
    "parse_bytes",
    "parse_s",
    "write_bytes",
    "write_s",
]

GB = 10**9
TB = 10**12
GIB = 2**30
TIB = 2**40
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 365.25 * DAY_S
"""A Julian year, as lifetimes of hardware are quoted in."""

_BYTE_UNITS: dict[str, float] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 10 ** (3 * (i + 1)) for i, prefix in enumerate("kmgtp")},
    **{f"{prefix}ib": 2 ** (10 * (i + 1)) for i, prefix in enumerate("kmgtp")},
}
_SECOND_UNITS = {
    "": 1.0,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": HOUR_S,
    "d": DAY_S,
    "w": 7 * DAY_S,
    "y": YEAR_S,
}
_LARGEST_BYTES = 10**18
"""Far above any machine, and still well inside 64 bits with room for sums."""

_SIZES = "64GiB, 1.5TB or 0"
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.I)


def _parse(text: str | float, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(str(text))
    if match is None or match[2].lower() not in units:
        raise QuantityError(f"{text!r} is not a {what}; write it like {example}")
    value = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(value):
        raise QuantityError(f"{text!r} is too large a {what}")
    return value


def parse_bytes(text: str | int) -> int:
    """Read a size with its unit (B, kB, MB, GB, TB, PB; KiB, MiB, GiB, TiB, PiB).

    A number that is no text is in bytes. Text needs a unit, but for 0: whoever writes ``2`` means
    2 TB, and a tier that is made so small loses all that it has.

    Raises
    ------
    QuantityError
        If it is not a number with a known unit.
    """
    count = round(_parse(text, _BYTE_UNITS, "size", _SIZES))
    if count >= _LARGEST_BYTES:
        raise QuantityError(f"{text!r} is too large a size; the largest is 1000 PB")
    if count and isinstance(text, str) and text.strip()[-1] in "0123456789.":
        raise QuantityError(f"{text!r} is a size without a unit; write it like {_SIZES}")
    return count


def parse_s(text: str | float) -> float:
    """Read a duration: a plain number of seconds, or with a unit (ms, s, min, h, d, w, y).

    Raises
    ------
    QuantityError
        If it is not a number with a known unit.
    """
    return _parse(text, _SECOND_UNITS, "duration", "30s, 15min or 2h")


def write_bytes(count: int) -> str:
    """Write a size in one word that `parse_bytes` reads as just that: ``512GiB``, ``1.5TB``."""
    texts = [f"{count}B" if count else "0"]
    for i, (decimal, binary) in enumerate(zip("kMGTP", "KMGTP", strict=True), 1):
        if count and count % 2 ** (10 * i) == 0:
            texts.append(f"{count >> 10 * i}{binary}iB")
        if count >= 10 ** (3 * i) and count * 1000 % 10 ** (3 * i) == 0:
            texts.append(f"{Decimal(count).scaleb(-3 * i).normalize():f}{decimal}B")
    return min(texts, key=len)


def write_s(duration_s: float) -> str:
    """Write a duration in one word that `parse_s` reads as just that: ``100ms``, ``15min``."""
    for unit in ("d", "h", "min", "s", "ms"):
        text = f"{duration_s / _SECOND_UNITS[unit]:.1f}".removesuffix(".0") + unit
        if duration_s >= _SECOND_UNITS[unit] and parse_s(text) == duration_s:
            return text
    return f"{Decimal(repr(duration_s)):f}".removesuffix(".0") + "s"


def format_bytes(count: float) -> str:
    """Write a size as people write it: ``512 GiB`` where that is exact, else ``1.5 TB``."""
    for unit, whole in (("TiB", TIB), ("GiB", GIB), ("MiB", 2**20)):
        if count >= whole and count % whole == 0:
            return f"{count / whole:,.0f} {unit}"
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:  # what rounds up to 1000 of the next smaller unit
            return f"{float(f'{count / scale:.3g}'):g} {unit}"
    return f"{count:.0f} B"
