"""From a named workload and a load to requests: how many, how fast, and how long to warm up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greencache.bench.saturation import saturation_rate
from greencache.bench.simulation import Batching, admit
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware
from greencache.quantities import HOUR_S
from greencache.traces.compose import compose
from greencache.traces.loads import LoadSeries, flat_load
from greencache.traces.requests import RequestTrace
from greencache.traces.sessions import session_library

__all__ = [
    "LONGEST_WARMUP_HOURS",
    "LoadPoint",
    "busiest_hour_rate",
    "busiest_hour_share",
    "saturation_of_trace",
    "saturation_of_workload",
    "warmup_hours",
]

LONGEST_WARMUP_HOURS = 24
_SHORTEST_WARMUP_HOURS = 1
_FILLED_TIMES = 1.25
"""A tier is taken to be warm when so much has been written as would fill it this often: what is
evicted by then was not all in the order of writing."""

_SAMPLE_REQUESTS = (2_000, 20_000)
"""For each replica: a first look at where it saturates, and a second at about that rate."""
_SAMPLE_RATE = 1.0


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """How much is asked of all replicas together, and how that was chosen.

    Attributes
    ----------
    mean_rate:
        Requests per second over the measured part.
    busiest_hour_rate:
        The same over its busiest hour, or over all of it if it is shorter.
    saturation_rate:
        Requests per second above which ``full`` cannot keep up; None if nobody asked.
    fraction:
        The busiest hour's rate over that one, as asked for; None if the rate was.
    """

    mean_rate: float
    busiest_hour_rate: float
    saturation_rate: float | None = None
    fraction: float | None = None


def busiest_hour_share(load: LoadSeries, hours: float) -> float:
    """Requests per second in the busiest hour of a span, over those of the whole span."""
    span = load.over(hours * HOUR_S, mean_rate=1.0)
    per_hour = max(1, round(HOUR_S / span.window_s))
    whole = len(span.requests_per_s) // per_hour
    if whole < 1:
        return 1.0
    by_hour = span.requests_per_s[: whole * per_hour].reshape(whole, per_hour).mean(axis=1)
    return max(1.0, float(by_hour.max()))


def busiest_hour_rate(trace: RequestTrace) -> float:
    """Requests per second in the busiest hour of a trace, or over all of one that is shorter."""
    if trace.duration_s < HOUR_S:
        return trace.mean_rate
    hour = trace.arrival_s // HOUR_S
    whole = hour[hour < trace.duration_s // HOUR_S]
    return float(np.unique(whole, return_counts=True)[1].max()) / HOUR_S


def saturation_of_trace(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    batching: Batching,
    replicas: int,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """The rate that a trace saturates replicas with, as `saturation_rate`, those rejected apart.

    The rate counts all requests, also those that no replica can serve.
    """
    admitted, _ = admit(trace, hardware)
    rate = saturation_rate(
        admitted,
        hardware,
        storage,
        batching=batching,
        replicas=replicas,
        on_progress=on_progress,
    )
    return rate * len(trace) / len(admitted)


def saturation_of_workload(
    workload: str,
    block_tokens: int | None,
    hardware: ServingHardware,
    storage: StorageSetup,
    batching: Batching,
    replicas: int,
    seed: int,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """The constant rate of a workload above which replicas cannot keep up.

    Found twice: on a few requests, and then on many composed at about the rate found, so that
    sessions run side by side as they will.
    """
    rate = _SAMPLE_RATE
    for requests in _SAMPLE_REQUESTS:
        sample = compose(
            workload,
            flat_load(),
            hours=requests * replicas / rate / HOUR_S,
            mean_rate=rate,
            seed=seed,
            block_tokens=block_tokens,
        )
        rate = saturation_of_trace(sample.trace, hardware, storage, batching, replicas, on_progress)
    return rate


def _new_bytes_per_request(workload: str, block_bytes: int, block_tokens: int | None) -> float:
    """Bytes of KV that a request of a workload adds to what an endless cache holds."""
    library = session_library(workload, block_tokens)
    return library.full_private_blocks * block_bytes / len(library.offset_s)


def warmup_hours(
    workload: str,
    mean_rate: float,
    largest_tier_bytes: float,
    block_bytes: int,
    block_tokens: int | None,
) -> int:
    """Hours until a tier has filled up and begun to evict, between 1 and `LONGEST_WARMUP_HOURS`.

    Parameters
    ----------
    workload, mean_rate, block_tokens:
        What is composed.
    largest_tier_bytes:
        Capacity of the largest tier, over all replicas.
    block_bytes:
        KV of a block.
    """
    written = mean_rate * _new_bytes_per_request(workload, block_bytes, block_tokens)
    if written == 0:
        return _SHORTEST_WARMUP_HOURS  # blocks so large that no prompt fills one
    hours = math.ceil(_FILLED_TIMES * largest_tier_bytes / written / HOUR_S)
    return min(max(hours, _SHORTEST_WARMUP_HOURS), LONGEST_WARMUP_HOURS)
