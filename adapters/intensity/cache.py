"""What is known of a zone, in a small file: a restart of the daemon needs no network.

The file is JSON, 0600, replaced as a whole, and never followed through a link. One that is damaged,
another user's, or of another series is left alone and counts as none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from greencache.adapters.intensity.base import Label
from greencache.controller.intensity import LONGEST_PAST_H, Points
from greencache.errors import SourceError

__all__ = ["read_cache", "write_cache"]

_VERSION = 1
_MOST_BYTES = 4 * 2**20


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    zone: str
    kind: str
    factors: str
    source: str
    first_h: int
    gco2_per_kwh: list[float | None]


def read_cache(path: Path, label: Label) -> Points:
    """Hours that were kept; none if there is no file, or it is of another series.

    Raises
    ------
    SourceError
        If the file cannot be used: its kind is ``cache``.
    """
    try:
        body = _read(path)
    except FileNotFoundError:
        return Points.of(())
    except OSError as fault:
        raise SourceError("cache", f"{path} cannot be read ({fault.strerror})") from None
    try:
        kept = msgspec.json.decode(body, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise SourceError("cache", f"{path} is damaged ({fault}); it is ignored") from None
    hours = len(kept.gco2_per_kwh)
    if kept.version != _VERSION or hours > LONGEST_PAST_H + 24 or abs(kept.first_h) > 10**8:
        raise SourceError("cache", f"{path} is of another version; it is ignored")
    if Label(kept.zone, kept.kind, kept.factors, kept.source) != label:
        return Points.of(())
    known = [at for at, value in enumerate(kept.gco2_per_kwh) if value is not None]
    values = np.array([kept.gco2_per_kwh[at] for at in known], np.float64)
    return Points.hourly(kept.first_h + np.array(known, np.int64), values)


def _read(path: Path) -> bytes:
    """A plain file of ours; links and others' files are refused."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise SourceError("cache", f"{path} is no file of this user; it is ignored")
        if status.st_size > _MOST_BYTES:
            raise SourceError(
                "cache", f"{path} is larger than {_MOST_BYTES:,} bytes; it is ignored"
            )
        return file.read(_MOST_BYTES)


def write_cache(path: Path, label: Label, hours: Mapping[int, float]) -> None:
    """Keep hours, by hours since 1970.

    Raises
    ------
    SourceError
        If the file cannot be written: its kind is ``cache``.
    """
    if not hours:
        return
    last = max(hours)
    first = max(min(hours), last - LONGEST_PAST_H)
    values = [hours.get(hour) for hour in range(first, last + 1)]
    body = msgspec.json.encode(_Kept(_VERSION, *label, first_h=first, gco2_per_kwh=values))
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(body)
        new.replace(path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            new.unlink()
        raise SourceError("cache", f"{path} cannot be written ({fault.strerror})") from None
