"""Which versions of an engine a connector is for."""

from __future__ import annotations

import logging
import re

from greencache.errors import RefusedError

__all__ = ["check_version"]

_log = logging.getLogger("vllm.greencache")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (0, 33) of 0.33rc1."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def check_version(
    engine: str, version: str, supported: tuple[str, str], *, any_version: bool = False
) -> None:
    """Refuse an engine that the connector was never run with.

    Parameters
    ----------
    engine:
        Its name, as it is written.
    version:
        Its version.
    supported:
        From the first up to, not including, the second.
    any_version:
        Only say so.

    Raises
    ------
    RefusedError
        If it is not supported; its text has the range.
    """
    first, end = supported
    if _numbers(first) <= _numbers(version) < _numbers(end):
        return
    text = (
        f"this GreenCache supports {engine} from {first} up to, not including, {end}: this is"
        f" {version}"
    )
    if not any_version:
        raise RefusedError(f"{text}; set GREENCACHE_VLLM__ANY_VERSION=true to try it all the same")
    _log.warning("%s; it may fail in ways that no test has seen", text)
