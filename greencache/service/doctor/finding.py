"""``Finding``: what a check of this machine found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict", "fail", "ok", "warn"]


class Verdict(StrEnum):
    """How good it is."""

    OK = "ok"
    WARN = "warn"
    """It works, but worse than it could, or not for long."""
    FAIL = "fail"
    """The daemon does not start, or does not do what it is set to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check:
        What was looked at, in a few words; the same on every machine.
    verdict:
        How good it is.
    text:
        What was found, in a line.
    advice:
        What to do, in a line; empty if nothing.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, text)


def warn(check: str, text: str, advice: str) -> Finding:
    """It works, with a loss."""
    return Finding(check, Verdict.WARN, text, advice)


def fail(check: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.FAIL, text, advice)
