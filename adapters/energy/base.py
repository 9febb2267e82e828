"""What every meter of energy is to the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["COMPONENTS", "Meter"]

COMPONENTS = ("gpu", "cpu", "dram", "host")
"""Whose energy: all GPUs, all CPU packages, all DRAM, or the host as a whole without its GPUs."""


class Meter(Protocol):
    """A source of energy in joules."""

    @property
    def source(self) -> str:
        """What it is called in reports."""

    @property
    def components(self) -> frozenset[str]:
        """Whose energy it measures; of `COMPONENTS`. Known once it is open."""

    @property
    def longest_s(self) -> float:
        """How long it may be left unread without losing anything. Known once it is open."""

    async def open(self) -> None:
        """Find out whether it works here.

        Raises
        ------
        SourceError
            If it does not; its text says why, and what to do.
        """

    async def read(self, now_s: float) -> Mapping[str, float]:
        """Joules of each component since it was first read.

        Raises
        ------
        SourceError
            If it cannot be read now; what it then misses is in the next reading.
        """

    async def close(self) -> None:
        """Let go of everything; also if it was never opened."""
