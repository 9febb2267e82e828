"""Names that users choose among."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from greencache.errors import UnknownNameError

__all__ = ["parse_choice"]

_Choice = TypeVar("_Choice", bound=StrEnum)


def parse_choice(choices: type[_Choice], kind: str, name: str) -> _Choice:
    """Find one of some choices by its name, in capitals or not.

    Raises
    ------
    UnknownNameError
        If there is none of that name; ``kind`` is what users call it.
    """
    try:
        return choices(name.lower())
    except ValueError:
        raise UnknownNameError(kind, name, [choice.value for choice in choices]) from None
