"""The highest load that an engine keeps up with."""

from __future__ import annotations

from collections.abc import Callable

from greencache.bench.simulation import Batching, StorageSetup, simulate
from greencache.controller.performance import ServingHardware
from greencache.errors import InputError
from greencache.traces.requests import RequestTrace

__all__ = ["PRECISION", "saturation_rate"]

PRECISION = 0.02
"""Relative; the criterion, a queue of 2 % of the trace, is no sharper."""

_FASTEST = 2.0**40
"""Requests per second that no engine keeps up with."""


def saturation_rate(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    *,
    batching: Batching | None = None,
    replicas: int = 1,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """Mean requests per second up to which a trace's queue drains in time.

    In time is within `greencache.bench.simulation.DRAIN_SHARE` of the trace's span, however short
    that gets: a queue that is as long as the minute that a replay allows would pass for none.

    The trace is squeezed or stretched as a whole and served from cold caches. So its bursts count
    too: a trace whose busy minutes overload an engine while the others do not drain in time has a
    lower rate than one of even arrivals.

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
            drain_s=0.0,
        )
        return run.overloaded is None

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
