"""The highest load that engines keep up with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from greencache.bench.simulation import Batching, simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware
from greencache.errors import InputError
from greencache.traces.requests import RequestTrace

__all__ = ["FEWEST_REQUESTS", "PRECISION", "saturation_rate"]

PRECISION = 0.02
"""Relative; the search ends when two looks agree as closely. How much requests differ decides how
far another sample of them would: see docs/replay.md."""

FEWEST_REQUESTS = 100
"""Fewer do not show a rate."""

_OVERLOAD = 1.1
"""How much faster than they are served requests come, so that there is always one to serve, and the
queue stays so short that a router still knows what each engine holds."""

_MOST_LOOKS = 40


def _served_rate(
    trace: RequestTrace,
    rate: float,
    hardware: ServingHardware,
    storage: StorageSetup,
    batching: Batching | None,
    replicas: int,
) -> float:
    """First tokens a second over the second half of a trace's requests, coming evenly at a rate.

    The first half warms the caches and fills the batch.
    """
    even = replace(trace, arrival_s=np.arange(len(trace)) / rate)
    run = simulate(even, hardware, storage, batching=batching, replicas=replicas, drain_s=np.inf)
    times_s = np.sort(run.requests["first_token_s"])
    half = len(times_s) // 2
    return float((len(times_s) - 1 - half) / (times_s[-1] - times_s[half]))


def saturation_rate(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    *,
    batching: Batching | None = None,
    replicas: int = 1,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """Requests per second that engines serve when a little more come, evenly.

    Above this rate the queue grows as long as requests come, below it, it does not. The requests
    come in the trace's order but without its bursts: what a trace's busy minutes do to latency is
    the replay's to show.

    Parameters
    ----------
    trace, hardware, storage, batching, replicas:
        As for `simulate`; the trace must hold only admissible requests. Caches are cold at first.
    on_progress:
        Called now and then with the share done.

    Raises
    ------
    InputError
        If there are fewer than `FEWEST_REQUESTS`.
    """
    if len(trace) < FEWEST_REQUESTS:
        raise InputError(
            f"{len(trace)} requests are too few to find the load that saturates an engine; "
            f"{FEWEST_REQUESTS} are needed, or give --mean-rate"
        )
    offered = 1.0
    served = 0.0
    for look in range(_MOST_LOOKS):
        before = served
        served = _served_rate(trace, offered, hardware, storage, batching, replicas)
        if served > offered * (1 - PRECISION):  # it keeps up: ask for more
            offered *= 2
        elif abs(served - before) <= PRECISION * served:
            break
        else:
            offered = _OVERLOAD * served
        if on_progress is not None:
            on_progress((look + 1) / _MOST_LOOKS)
    return served
