"""A system that has few threads left."""

from __future__ import annotations

import threading

import pytest


def few_threads(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """Let so many more of our threads start, and refuse the next as Python does."""
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name.startswith("greencache"):
            left -= 1
            if left < 0:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)


def our_threads() -> set[threading.Thread]:
    """Those of ours that run."""
    return {each for each in threading.enumerate() if each.name.startswith("greencache")}
