"""Types of settings: quantities with their units and URLs, written as text."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from greencache.errors import QuantityError
from greencache.quantities import parse_bytes, parse_s

__all__ = ["Bytes", "Seconds", "Url", "Urls"]


def _bytes(text: Any) -> int:  # noqa: ANN401 - whatever the environment or a file holds
    try:
        return parse_bytes(text)
    except QuantityError as fault:
        raise ValueError(str(fault)) from None


def _seconds(text: Any) -> float:  # noqa: ANN401
    try:
        return parse_s(text)
    except QuantityError as fault:
        raise ValueError(str(fault)) from None


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port != 0
    except ValueError:
        raise ValueError("this is no URL; write it like http://127.0.0.1:8000/metrics") from None
    if parts.username is not None or parts.password is not None:
        # Not quoted: settings are printed and logged.
        raise ValueError("a URL here has no user or password in it; there are settings for them")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(f"{text!r} is no URL; write it like http://127.0.0.1:8000/metrics")
    return text


def _urls(text: str) -> str:
    return ",".join(_url(each.strip()) for each in text.split(","))


Bytes = Annotated[int, BeforeValidator(_bytes)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Url = Annotated[str, AfterValidator(_url)]
Urls = Annotated[str, AfterValidator(_urls)]
"""One or more, separated by commas."""
