"""Runs the simulated engine on a trace, and reads what came out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.cluster import advance, resize_tiers, settle
from greencache.bench.sizes import SizesOverTime
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware
from greencache.controller.sizes import Sizes
from greencache.controller.storage_prices import block_costs, block_prices, load_flops
from greencache.errors import InputError
from greencache.tiers.admission import Admission, Storing, new_storing
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import Reuse, new_reuse
from greencache.tiers.state import HELD, PINNED, TierState, allocate, follow
from greencache.traces.requests import RequestTrace

__all__ = [
    "BIN_S",
    "Batching",
    "Rejections",
    "SimulatedRun",
    "Steering",
    "admit",
    "deadline_s",
    "simulate",
]

BIN_S = 60.0
"""Energy, carbon and fill are kept by the minute."""

SSD_BACKLOG_S = 10.0
"""A store that cannot keep up drops saves and never delays the engine: this much may lag."""

DRAIN_S = 60.0
DRAIN_SHARE = 0.02
"""Every request must have its first token this long after the last arrival, or this share of the
trace's span if that is longer; else the engine is overloaded: its queue grows as long as the trace
lasts, and a latency read off it would only measure the trace."""

_EVENTS_PER_REQUEST = 8
"""A start and a storing, and as much again each time that it is preempted: thrice on average."""

_MOST_RESIZES = 100_000

_SLACK_S = 3600.0
"""No single step takes longer."""

_State = TypeVar("_State", TierState, Reuse, Storing)


@dataclass(frozen=True, slots=True)
class Batching:
    """How the engine fills its steps.

    Attributes
    ----------
    max_batched_tokens:
        Tokens of a step, prompts and answers together. 2,048 is the static default of vLLM's
        ``SchedulerConfig.max_num_batched_tokens`` (docs.vllm.ai, 2026); its servers take more on
        large GPUs.
    max_running:
        Requests in a step; vLLM's ``max_num_seqs`` is 128 in ``SchedulerConfig``, and more in its
        servers.
    """

    max_batched_tokens: int = 2048
    max_running: int = 256


class Steering(Protocol):
    """What changes the tiers while an engine runs.

    Attributes
    ----------
    interval_s:
        How often it is asked: whole bins.
    largest:
        No tier is ever made larger than this.
    """

    interval_s: float
    largest: Sizes

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """What holds from ``now_s`` on, given all that the engines show of the time before.

        Only capacities and what else `greencache.bench.engine_state.Config` says may differ from
        what held before: not the policy, nor whether HBM is reused.
        """


@dataclass(frozen=True, slots=True)
class Rejections:
    """Requests that the engine cannot serve at all."""

    too_long_for_model: int
    too_large_for_hbm: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.too_long_for_model + self.too_large_for_hbm


@dataclass(frozen=True)
class SimulatedRun:
    """What one simulation gave. Arrays over requests are in the trace's order.

    If ``overloaded`` says why the engine could not keep up, the rest covers only the time until
    that was clear and must not be read as a result.
    """

    requests: NDArray[np.void] = field(repr=False)
    """A `greencache.bench.engine_state.REQUEST` record each."""
    bins: NDArray[np.void] = field(repr=False)
    """A `greencache.bench.engine_state.BIN` record for each `BIN_S`, all replicas together."""
    end_s: float
    sizes: SizesOverTime
    """What DRAM and SSD could hold on each replica, and from when."""
    leases_left: int
    """Blocks still leased, written or held in any tier: 0 once every request is finished."""
    overloaded: str | None = None
    events: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, e.EVENT), repr=False)
    """`greencache.bench.engine_state.EVENT` records, if they were to be kept."""


def admit(trace: RequestTrace, hardware: ServingHardware) -> tuple[RequestTrace, Rejections]:
    """Leave out what the model's context or the engine's HBM cannot hold.

    Raises
    ------
    InputError
        If that leaves nothing.
    """
    tokens = trace.input_tokens + trace.output_tokens
    too_long = tokens > hardware.model.context_tokens
    hbm_tokens = int(hardware.kv_bytes // hardware.layout.block_bytes) * trace.block_tokens
    too_large = ~too_long & (tokens > hbm_tokens)
    rejections = Rejections(int(too_long.sum()), int(too_large.sum()))
    if rejections.total == len(trace):
        raise InputError(
            f"{hardware.model.name} on {hardware.name} can serve no request of {trace.name}: "
            f"{rejections.too_long_for_model} exceed its context of "
            f"{hardware.model.context_tokens:,} tokens, {rejections.too_large_for_hbm} its HBM"
        )
    if rejections.total == 0:
        return trace, rejections
    return trace.select(~(too_long | too_large)), rejections


def deadline_s(trace: RequestTrace, drain_s: float = DRAIN_S) -> float:
    """When every request must have its first token, or the engine is overloaded.

    That is ``drain_s`` after the last arrival, or `DRAIN_SHARE` of the trace's span if that is
    longer.
    """
    return float(trace.arrival_s[-1]) + max(drain_s, DRAIN_SHARE * trace.duration_s)


def _rows(one: _State, replicas: int) -> _State:
    """The same state for each replica, as rows of one."""
    arrays: tuple[NDArray[Any], ...] = one
    return type(one)(*(np.repeat(array[np.newaxis], replicas, axis=0) for array in arrays))


def _requests(trace: RequestTrace) -> NDArray[np.void]:
    requests = np.zeros(len(trace), e.REQUEST)
    requests["arrival_s"] = trace.arrival_s
    requests["input_tokens"] = trace.input_tokens
    requests["output_tokens"] = trace.output_tokens
    requests["first_id"] = trace.block_starts[:-1]
    requests["end_id"] = trace.block_starts[:-1] + trace.full_blocks
    requests["reusable"] = trace.reusable_blocks
    requests["first_token_s"] = np.nan
    requests["finish_s"] = np.nan
    return requests


def _config(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    largest: Sizes,
    batching: Batching,
) -> e.Config:
    by_value = storage.admission is Admission.VALUE and largest.ssd_bytes > 0
    ranks = storage.policy is Policy.CARBON
    return e.Config(
        block_tokens=trace.block_tokens,
        block_bytes=float(hardware.layout.block_bytes),
        max_batched_tokens=batching.max_batched_tokens,
        max_running=batching.max_running,
        reuse_hbm=storage.reuse_hbm,
        link_bytes_per_s=hardware.host_link_bytes_per_s,
        ssd_read_bytes_per_s=storage.ssd_read_bytes_per_s,
        ssd_write_bytes_per_s=storage.ssd_write_bytes_per_s,
        ssd_backlog_s=SSD_BACKLOG_S,
        bin_s=BIN_S,
        learns=by_value or ranks,
        ranks=ranks,
        by_value=by_value,
        prices=block_prices(hardware, storage.prices),
        endurance_per_s=storage.prices.endurance_per_s,
    )


def _engines(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    largest: Sizes,
    batching: Batching,
    replicas: int,
    events: int,
) -> e.Engine:
    if hardware.layout.block_tokens != trace.block_tokens:
        raise InputError(
            f"the trace has blocks of {trace.block_tokens} tokens, the KV layout of "
            f"{hardware.layout.block_tokens}"
        )
    config = _config(trace, hardware, storage, largest, batching)
    counts = np.zeros((replicas, e.COUNT_LENGTH), np.int64)
    counts[:, [e.FIRST_WAITING, e.LAST_WAITING]] = e.NOBODY
    counts[:, e.EVENT_STEP] = e.NO_EVENT

    reuse = _rows(new_reuse(trace.unique_blocks if config.learns else 0), replicas)

    def tier(capacity_bytes: float, to_load: float = 0.0) -> TierState:
        one = allocate(
            int(capacity_bytes // hardware.layout.block_bytes),
            trace.unique_blocks,
            storage.policy.code,
            **block_costs(hardware, to_load),
        )
        return follow(_rows(one, replicas), reuse)

    engines = e.Engine(
        rates=hardware.rates,
        config=config,
        hbm=tier(hardware.kv_bytes),
        dram=tier(largest.dram_bytes),
        ssd=tier(largest.ssd_bytes, load_flops(hardware, storage.prices)),
        reuse=reuse,
        storing=_rows(new_storing(tiers=3), replicas),
        requests=_requests(trace),
        ids=trace.block_ids,
        bins=np.zeros((replicas, 0), e.BIN),
        clock=np.zeros((replicas, e.CLOCK_LENGTH)),
        counts=counts,
        events=np.zeros((replicas, events), e.EVENT),
        prefilling=np.zeros((replicas, batching.max_running), np.int64),
        decoding=np.zeros((replicas, batching.max_running), np.int64),
    )
    _resize(engines, storage, hardware)
    return engines


def _resize(engines: e.Engine, storage: StorageSetup, hardware: ServingHardware) -> None:
    block_bytes = hardware.layout.block_bytes
    resize_tiers(engines, storage.dram_bytes // block_bytes, storage.ssd_bytes // block_bytes)


def _note_resize(engines: e.Engine, storage: StorageSetup, hardware: ServingHardware) -> None:
    block_bytes = hardware.layout.block_bytes
    for i in range(len(engines.clock)):
        place = engines.counts[i, e.EVENTS]
        engines.counts[i, e.EVENTS] += 1
        if place < engines.events.shape[1]:
            event = engines.events[i, place]
            event["kind"], event["now_s"] = e.RESIZED, engines.clock[i, e.NOW_S]
            event["dram_blocks"] = storage.dram_bytes // block_bytes
            event["ssd_blocks"] = storage.ssd_bytes // block_bytes
            event["wear_j"] = engines.config.prices.wear_j


def _with_bins(engines: e.Engine, until_s: float) -> e.Engine:
    replicas, have = engines.bins.shape
    missing = int((until_s + _SLACK_S) / BIN_S) + 1 - have
    if missing <= 0:
        return engines
    more = np.zeros((replicas, missing), e.BIN)
    return engines._replace(bins=np.concatenate([engines.bins, more], axis=1))


def _total(bins: NDArray[np.void]) -> NDArray[np.void]:
    """Sum of the replicas' bins."""
    total = np.zeros(bins.shape[1], e.BIN)
    for name in e.BIN.names or ():
        total[name] = bins[name].sum(axis=0)
    return total


def _latest_s(engines: e.Engine) -> float:
    return float(engines.clock[:, e.NOW_S].max())


def simulate(
    trace: RequestTrace,
    hardware: ServingHardware,
    storage: StorageSetup,
    *,
    batching: Batching | None = None,
    replicas: int = 1,
    drain_s: float = DRAIN_S,
    steering: Steering | None = None,
    keep_events: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> SimulatedRun:
    """Serve a trace of admissible requests (see `admit`) from cold caches.

    Parameters
    ----------
    trace, hardware, storage:
        What is asked, of what engine, with what tiers beside it. The trace's blocks are the
        store's blocks.
    batching:
        How the engine fills its steps; by default as `Batching` says.
    replicas:
        How many such engines share the requests, each with such tiers of its own.
    drain_s:
        As for `deadline_s`.
    steering:
        What may change ``storage`` as time passes.
    keep_events:
        Whether to keep all that was asked of DRAM and SSD.
    on_progress:
        Called now and then with the share of requests finished.
    """
    batching = batching or Batching()
    largest = storage.sizes if steering is None else steering.largest
    events = 0
    if keep_events:
        if replicas != 1:
            raise InputError("events are kept of one engine, not of several")
        events = _EVENTS_PER_REQUEST * len(trace) + _MOST_RESIZES
    engines = _engines(trace, hardware, storage, largest, batching, replicas, events)
    sizes = SizesOverTime.of(storage.sizes)
    steer_s = math.inf if steering is None else steering.interval_s
    total, latest_s = len(trace), deadline_s(trace, drain_s)
    arrived = np.zeros(1, np.int64)
    chunk_s = max(trace.duration_s / 20, 30.0)
    until_s = 0.0
    finished = waiting = 0
    while finished < total and not waiting:
        next_s = until_s + chunk_s
        until_s = min(next_s, steer_s, latest_s) if until_s < latest_s else min(next_s, steer_s)
        engines = _with_bins(engines, until_s)
        advance(engines, arrived, until_s)
        finished = int(engines.counts[:, e.FINISHED].sum())
        if until_s >= latest_s:
            waiting = int(np.isnan(engines.requests["first_token_s"]).sum())
        if steering is not None and until_s >= steer_s and finished < total:
            storage = steering.steer(until_s, engines)
            engines = engines._replace(config=_config(trace, hardware, storage, largest, batching))
            sizes = sizes.then(_latest_s(engines), storage.sizes)
            _resize(engines, storage, hardware)
            _note_resize(engines, storage, hardware)
            steer_s += steering.interval_s
        if on_progress is not None:
            on_progress(finished / total)
    overloaded = None
    if waiting:
        late_s = until_s - float(trace.arrival_s[-1])
        overloaded = (
            f"overloaded: {waiting} of {total} requests had no token {late_s:.0f} s after "
            "the last arrival"
        )
    end_s = until_s if waiting else settle(engines)
    return SimulatedRun(
        requests=engines.requests,
        bins=_total(engines.bins)[: math.ceil(end_s / BIN_S)],
        end_s=end_s,
        sizes=sizes,
        leases_left=sum(
            int(tier.meta[:, [PINNED, HELD]].sum())
            for tier in (engines.hbm, engines.dram, engines.ssd)
        ),
        overloaded=overloaded,
        events=_kept_events(engines),
    )


def _kept_events(engines: e.Engine) -> NDArray[np.void]:
    happened, room = int(engines.counts[0, e.EVENTS]), engines.events.shape[1]
    if 0 < room < happened:
        raise InputError(f"{happened:,} events are more than the {room:,} there is room for")
    return engines.events[0, :happened] if room else engines.events[0]
