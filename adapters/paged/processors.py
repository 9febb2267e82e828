"""Processors beside those that an engine computes on."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["processors", "run_anywhere"]


def processors() -> set[int]:
    """Where what is not computing may run: where this process or its parent may.

    vLLM binds its workers on CPUs to processors of their own, on which they spin. What is bound to
    the same has next to no time there, and takes what it has from the engine.
    """
    return os.sched_getaffinity(os.getpid()) | os.sched_getaffinity(os.getppid())


def run_anywhere() -> None:
    """Let the calling thread run on all of `processors`: it began where its maker is bound to."""
    with suppress(OSError):  # where a sandbox forbids it, it runs beside who made it
        os.sched_setaffinity(0, processors())
