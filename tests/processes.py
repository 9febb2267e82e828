"""Processes that tests start and kill, forked from a server that has everything loaded."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

__all__ = ["process_context"]


def process_context() -> ForkServerContext:
    """Makes processes that have imported what they need already.

    The server is started once and for all tests, so it loads what any of them needs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiers.warm", "tests.service.warm"])
    return context
