"""What settings are made of: sizes, durations and URLs as people write them."""

from __future__ import annotations

from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic.fields import FieldInfo

from greencache.errors import QuantityError
from greencache.quantities import parse_bytes, parse_s, write_bytes, write_s

__all__ = ["Bytes", "Part", "Seconds", "Url", "Urls", "written"]


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


class Part(BaseModel):
    """A part of the tree, which knows its settings and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def written(field: FieldInfo, value: object) -> object:
    """A setting's value as it is given: sizes and durations with their units, others as is."""
    # What a type is annotated with goes to the field, but for types that may be None.
    kinds = {*field.metadata, *get_args(field.annotation)}
    if isinstance(value, int) and kinds & {BeforeValidator(_bytes), Bytes}:
        return write_bytes(value)
    if isinstance(value, float) and kinds & {BeforeValidator(_seconds), Seconds}:
        return write_s(value)
    return value
