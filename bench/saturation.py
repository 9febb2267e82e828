"""The highest load that an engine keeps up with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from greencache.bench.simulation import Batching, SimulatedRun, StorageSetup, simulate
from greencache.controller.performance import ServingHardware
from greencache.errors import InputError
from greencache.traces.requests import RequestTrace

__all__ = ["PRECISION", "saturation_rate"]

PRECISION = 0.02
"""Relative. A queue that grows by less than this share of the time that passes is taken to stand
still, and the search ends when its bounds are as close."""

_FASTEST = 2.0**40
"""Requests per second that no engine keeps up with."""


def _queue_grows(run: SimulatedRun) -> bool:
    """Whether the last tenth of requests waits longer than the tenth in the middle.

    The first half warms the caches: what queues up while they are cold does not count.
    """
    requests = run.requests
    count = len(requests)
    middle = requests[int(0.45 * count) : max(int(0.55 * count), int(0.45 * count) + 1)]
    last = requests[min(int(0.9 * count), count - 1) :]
    waited_s = [np.mean(each["first_token_s"] - each["arrival_s"]) for each in (middle, last)]
    passed_s = np.mean(last["arrival_s"]) - np.mean(middle["arrival_s"])
    return bool(waited_s[1] - waited_s[0] > PRECISION * passed_s)


def saturation_rate(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    *,
    batching: Batching | None = None,
    replicas: int = 1,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """Mean requests per second above which the queue grows as long as requests come.

    The trace is squeezed or stretched as a whole until that is so, and served from cold caches, of
    which the first half of the trace is the warm-up.

    Parameters
    ----------
    trace, hardware, storage, batching, replicas:
        As for `simulate`; the trace must hold only admissible requests.
    on_progress:
        Called now and then with the share done.

    Raises
    ------
    InputError
        If all requests arrive at once, so that there is no rate to change.
    """
    if trace.duration_s == 0:
        raise InputError("all requests arrive at once: the load that saturates cannot be found")

    def keeps_up(rate: float) -> bool:
        run = simulate(
            trace.at_mean_rate(rate),
            hardware,
            storage,
            batching=batching,
            replicas=replicas,
            drain_s=np.inf,
        )
        return not _queue_grows(run)

    low = high = trace.mean_rate
    if keeps_up(high):
        while high < _FASTEST and keeps_up(high):
            low, high = high, 2 * high
    else:
        while low > 1 / _FASTEST and not keeps_up(low):
            low, high = low / 2, low
    first_gap = high / low - 1
    while high / low - 1 > PRECISION:
        middle = (low * high) ** 0.5
        if keeps_up(middle):
            low = middle
        else:
            high = middle
        if on_progress is not None:
            on_progress(1 - (high / low - 1) / first_gap)
    return low
