"""What the connector counts, as vLLM carries it from its processes to its Prometheus page."""

from __future__ import annotations

import logging
import threading
from collections import Counter

__all__ = ["COUNTED", "Counts"]

_log = logging.getLogger("vllm.greencache")

COUNTED = {
    "lookup_tokens": "Prompt tokens of requests that asked the store",
    "hit_tokens": "Prompt tokens that were to be loaded from the store; not of preempted requests",
    "loaded_bytes": "KV bytes copied to the engine, of this rank",
    "load_seconds": "Time of these copies and of waiting for the daemon",
    "saved_bytes": "KV bytes copied from the engine, of this rank",
    "save_seconds": "Time of these copies",
    "failed_loads": "Requests of which blocks could not be loaded, and were computed",
    "failed_saves": "Saves that were dropped",
    "failed_pins": "Parts of the daemon's memory that could not be pinned for the GPU",
    "failed_lookups": "Questions that the daemon did not answer in time",
    "untold_requests": "Requests of which the daemon's controller was not told",
}
"""Name and meaning of each counter; on the page it is ``vllm:greencache_NAME_total``."""


class Counts:
    """Counters since they were taken last; any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[str] = Counter()
        self._said: set[str] = set()
        self.failing = False
        """Whether the daemon failed last."""

    def add(self, name: str, amount: float = 1) -> None:
        """Count."""
        with self._lock:
            self._counted[name] += amount  # type: ignore[assignment]  # seconds are counted, too

    def failed(self, name: str, fault: Exception, amount: float = 1) -> None:
        """Count a failure of the daemon's, and say it if it is the first of its kind in a while."""
        self.add(name, amount)
        kind = f"{name}: {type(fault).__name__}"
        with self._lock:
            self.failing = True
            news = kind not in self._said
            self._said.add(kind)
        if news:
            _log.warning("the engine goes on without the store (%s): %s", name, fault)

    def worked(self) -> None:
        """The daemon answers again: its next failure is said again."""
        with self._lock:
            self.failing = False
            self._said.clear()

    def take(self) -> dict[str, float]:
        """What was counted since it was asked last."""
        with self._lock:
            counted, self._counted = self._counted, Counter()
        return dict(counted)
