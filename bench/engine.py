"""A simulated inference engine with continuous batching, over the real index of each tier.

One loop, compiled. Requests wait first come, first served. One starts when the batch has a place
and HBM can hold its prompt and its whole answer (so none is preempted); what its prefix hits in
HBM is leased there, what DRAM or SSD add is loaded over the host link while others compute. Each
step takes a token from every running answer and fills up to ``max_batched_tokens`` with prompts,
oldest first (chunked prefill). When a prompt is done, its first token is out and its full blocks
are stored: in HBM, in DRAM, and on SSD unless writes there lag too far behind.

Between two events a batch that only decodes is stepped over at once. The tiers are the arrays of
`greencache.tiers`, changed by the same compiled transactions as in the live store.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel, subroutine
from greencache.controller.performance import Rates, step_cost
from greencache.tiers.state import USED, TierState
from greencache.tiers.transactions import (
    acquire,
    count_hits,
    hold,
    lease,
    match,
    store,
    touch,
    unhold,
    unlease,
)

__all__ = ["BIN", "REQUEST", "Config", "Engine", "advance"]

# Positions in ``Engine.clock``.
NOW_S = 0
LINK_FREE_S = 1  # when the host link has moved all it was asked to
SSD_READ_FREE_S = 2
SSD_WRITE_FREE_S = 3
CONTEXT = 4  # tokens of context over all running answers
CLOCK_LENGTH = 5

# Positions in ``Engine.counts``.
NEXT = 0  # first request that has not started
PREFILLING = 1
DECODING = 2
DECODE_STEPS = 3  # steps that produced a token for every running answer
FINISHED = 4
COUNT_LENGTH = 5


class Config(NamedTuple):
    """What the engine is set to."""

    block_tokens: int
    block_bytes: float
    max_batched_tokens: int
    max_running: int
    reuse_hbm: bool
    """Whether the engine keeps a prefix cache of its own."""
    link_bytes_per_s: float
    ssd_read_bytes_per_s: float
    ssd_write_bytes_per_s: float
    ssd_backlog_s: float
    """A store that would take longer than this to be written, after all before it, is dropped."""
    bin_s: float


REQUEST = np.dtype(
    [
        # What the trace says.
        ("arrival_s", np.float64),
        ("input_tokens", np.int64),
        ("output_tokens", np.int64),
        ("first_id", np.int64),  # where the ids of its full blocks begin in ``Engine.ids``
        ("end_id", np.int64),  # and end
        ("full", np.int64),  # full blocks of its prompt
        ("reusable", np.int64),  # those of them that may hit
        # What became of it; times are NaN until they come.
        ("first_token_s", np.float64),
        ("finish_s", np.float64),
        ("hbm_blocks", np.int64),  # blocks found in HBM
        ("dram_blocks", np.int64),  # what DRAM added to that, and then SSD
        ("ssd_blocks", np.int64),
        # Where it stands.
        ("ready_s", np.float64),  # when its hits are in HBM
        ("computed", np.int64),  # tokens of its prompt in HBM
        ("last_step", np.int64),  # decode step at which its answer ends
        ("leased_dram", np.int64),  # blocks leased there until the prompt is computed
        ("leased_ssd", np.int64),
    ]
)

BIN = np.dtype(
    [
        ("gpu_j", np.float64),
        ("busy_s", np.float64),
        ("read_bytes", np.float64),  # from SSD
        ("written_bytes", np.float64),  # to SSD
        ("dropped_bytes", np.float64),  # not written to SSD because writing lagged
        ("dram_blocks", np.float64),  # in use when the interval ended
        ("ssd_blocks", np.float64),
    ]
)
"""What is kept for each interval of ``bin_s``."""


class Engine(NamedTuple):
    """An engine, its tiers and its requests."""

    rates: Rates
    config: Config
    hbm: TierState
    dram: TierState
    ssd: TierState
    requests: NDArray[np.void]
    """A `REQUEST` record each."""
    ids: NDArray[np.int32]
    """Block ids of all requests, one after the other."""
    bins: NDArray[np.void]
    """A `BIN` record each."""
    clock: NDArray[np.float64]
    counts: NDArray[np.int64]
    prefilling: NDArray[np.int64]
    """Requests whose prompts are loaded or computed, in the order they started."""
    decoding: NDArray[np.int64]


@subroutine
def _blocks_needed(engine: Engine, r: int) -> int:
    tokens = engine.requests[r].input_tokens + engine.requests[r].output_tokens
    return -(-tokens // engine.config.block_tokens)


@subroutine
def _load(engine: Engine, from_dram: int, from_ssd: int) -> float:
    """Ask for blocks from DRAM and SSD; when all are in HBM.

    Each device serves what it is asked in order; SSD blocks cross the host link as well, while
    later ones are still read.
    """
    config, clock = engine.config, engine.clock
    now_s = clock[NOW_S]
    ready_s = now_s
    if from_dram + from_ssd > 0:
        moved_bytes = (from_dram + from_ssd) * config.block_bytes
        clock[LINK_FREE_S] = max(now_s, clock[LINK_FREE_S]) + moved_bytes / config.link_bytes_per_s
        ready_s = clock[LINK_FREE_S]
    if from_ssd > 0:
        read_bytes = from_ssd * config.block_bytes
        begin_s = max(now_s, clock[SSD_READ_FREE_S])
        clock[SSD_READ_FREE_S] = begin_s + read_bytes / config.ssd_read_bytes_per_s
        engine.bins[int(now_s / config.bin_s)].read_bytes += read_bytes
        ready_s = max(ready_s, clock[SSD_READ_FREE_S])
    return ready_s


@subroutine
def _start(engine: Engine, r: int) -> bool:
    """Give the request its place in HBM and begin to load its hits; False if HBM is full."""
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    ids, reusable = engine.ids[request.first_id : request.end_id], request.reusable
    in_hbm = match(engine.hbm, ids, reusable) if engine.config.reuse_hbm else 0
    lease(engine.hbm, ids, in_hbm)
    if not hold(engine.hbm, _blocks_needed(engine, r) - in_hbm, now_s):
        unlease(engine.hbm, ids, in_hbm, now_s)
        return False
    count_hits(engine.hbm, ids, in_hbm)
    touch(engine.hbm, ids, in_hbm, now_s)
    in_dram = acquire(engine.dram, ids, reusable, now_s)
    in_ssd = acquire(engine.ssd, ids, reusable, now_s)
    request.leased_dram = in_dram
    request.leased_ssd = in_ssd
    request.hbm_blocks = in_hbm
    request.dram_blocks = max(0, in_dram - in_hbm)
    request.ssd_blocks = max(0, in_ssd - max(in_hbm, in_dram))
    found = request.hbm_blocks + request.dram_blocks + request.ssd_blocks
    request.computed = found * engine.config.block_tokens
    request.ready_s = _load(engine, request.dram_blocks, request.ssd_blocks)
    engine.prefilling[engine.counts[PREFILLING]] = r
    engine.counts[PREFILLING] += 1
    return True


@subroutine
def _write_to_ssd(engine: Engine, ids: NDArray[np.int32]) -> None:
    """Store a prompt on SSD, or drop what is new of it if writing it would lag too far behind.

    What is stored can be read at once: until it is on flash, from the buffer it is written from.
    """
    config, clock = engine.config, engine.clock
    now_s = clock[NOW_S]
    totals = engine.bins[int(now_s / config.bin_s)]
    missing_bytes = (len(ids) - match(engine.ssd, ids, len(ids))) * config.block_bytes
    begin_s = max(now_s, clock[SSD_WRITE_FREE_S])
    if begin_s + missing_bytes / config.ssd_write_bytes_per_s > now_s + config.ssd_backlog_s:
        totals.dropped_bytes += missing_bytes
        return
    new_bytes = store(engine.ssd, ids, len(ids), now_s) * config.block_bytes
    clock[SSD_WRITE_FREE_S] = begin_s + new_bytes / config.ssd_write_bytes_per_s
    totals.written_bytes += new_bytes


@subroutine
def _publish(engine: Engine, r: int) -> None:
    """Store the full blocks of a prompt that is computed, and end its leases in DRAM and SSD."""
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    ids, full = engine.ids[request.first_id : request.end_id], request.full
    if engine.config.reuse_hbm:
        unhold(engine.hbm, full - request.hbm_blocks)
        store(engine.hbm, ids, full, now_s)
        lease(engine.hbm, ids, full)
        unlease(engine.hbm, ids, request.hbm_blocks, now_s)
    store(engine.dram, ids, full, now_s)
    unlease(engine.dram, ids, request.leased_dram, now_s)
    _write_to_ssd(engine, ids)
    unlease(engine.ssd, ids, request.leased_ssd, now_s)


@subroutine
def _finish(engine: Engine, r: int) -> None:
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    request.finish_s = now_s
    engine.counts[FINISHED] += 1
    named = 0
    if engine.config.reuse_hbm:
        named = request.full
        unlease(engine.hbm, engine.ids[request.first_id : request.end_id], named, now_s)
    unhold(engine.hbm, _blocks_needed(engine, r) - named)


@subroutine
def _spend(engine: Engine, duration_s: float, power_w: float, busy: bool) -> None:
    """Let time pass at a power, shared out over the bins that it spans."""
    bin_s = engine.config.bin_s
    at_s = engine.clock[NOW_S]
    end_s = at_s + duration_s
    where = int(at_s / bin_s)
    while at_s < end_s:
        upto_s = min(end_s, (where + 1) * bin_s)
        totals = engine.bins[min(where, len(engine.bins) - 1)]  # never beyond, whatever the rates
        totals.gpu_j += power_w * (upto_s - at_s)
        if busy:
            totals.busy_s += upto_s - at_s
        totals.dram_blocks = engine.dram.meta[USED]
        totals.ssd_blocks = engine.ssd.meta[USED]
        at_s = upto_s
        where += 1
    engine.clock[NOW_S] = end_s


@subroutine
def _end_answers(engine: Engine) -> None:
    """Finish every answer that had its last token in the step just done."""
    kept = 0
    for i in range(engine.counts[DECODING]):
        r = engine.decoding[i]
        request = engine.requests[r]
        if request.last_step <= engine.counts[DECODE_STEPS]:
            engine.clock[CONTEXT] -= request.input_tokens + request.output_tokens
            _finish(engine, r)
        else:
            engine.decoding[kept] = r
            kept += 1
    engine.counts[DECODING] = kept


@subroutine
def _end_prompts(engine: Engine) -> None:
    """Give every prompt that is computed its first token, and start its answer."""
    kept = 0
    for i in range(engine.counts[PREFILLING]):
        r = engine.prefilling[i]
        request = engine.requests[r]
        if request.computed < request.input_tokens:
            engine.prefilling[kept] = r
            kept += 1
            continue
        request.first_token_s = engine.clock[NOW_S]
        _publish(engine, r)
        if request.output_tokens <= 1:
            _finish(engine, r)
            continue
        request.last_step = engine.counts[DECODE_STEPS] + request.output_tokens - 1
        engine.clock[CONTEXT] += request.input_tokens + 1
        engine.decoding[engine.counts[DECODING]] = r
        engine.counts[DECODING] += 1
    engine.counts[PREFILLING] = kept


@subroutine
def _mixed_step(engine: Engine) -> bool:
    """One step with prompts in it; False, and nothing done, if no prompt is ready."""
    now_s, running = engine.clock[NOW_S], engine.counts[DECODING]
    budget = max(1, engine.config.max_batched_tokens - running)
    tokens, samples = float(running), float(running)
    attended, resident = engine.clock[CONTEXT], engine.clock[CONTEXT]
    chunked = False
    for i in range(engine.counts[PREFILLING]):
        request = engine.requests[engine.prefilling[i]]
        if budget == 0:
            break
        if request.ready_s > now_s:
            continue
        before = request.computed
        chunk = min(budget, request.input_tokens - before)
        budget -= chunk
        tokens += chunk
        attended += chunk * (before + (chunk + 1) / 2)
        resident += before
        request.computed = before + chunk
        if request.computed == request.input_tokens:
            samples += 1
        chunked = True
    if not chunked:
        return False
    step = step_cost(engine.rates, tokens, samples, attended, resident)
    _spend(engine, step.duration_s, step.power_w, True)
    if running > 0:
        engine.counts[DECODE_STEPS] += 1
        engine.clock[CONTEXT] += running
        _end_answers(engine)
    _end_prompts(engine)
    return True


@subroutine
def _decode(engine: Engine, until_s: float) -> None:
    """Step a batch without prompts until an answer ends or, about, until ``until_s``."""
    running, context = engine.counts[DECODING], engine.clock[CONTEXT]
    first_end = engine.requests[engine.decoding[0]].last_step
    for i in range(1, running):
        first_end = min(first_end, engine.requests[engine.decoding[i]].last_step)
    left_s = until_s - engine.clock[NOW_S]
    steps = first_end - engine.counts[DECODE_STEPS]
    first = step_cost(engine.rates, running, running, context, context)
    steps = max(1, min(steps, int(left_s / first.duration_s) + 1))
    # Later steps take longer: fewer fit than by the first one's duration. Those that this leaves
    # are taken by the next call.
    middle = context + running * (steps - 1) / 2
    step = step_cost(engine.rates, running, running, middle, middle)
    steps = max(1, min(steps, int(left_s / step.duration_s) + 1))
    # Duration and power change so little over the steps that the middle one stands for the mean.
    middle = context + running * (steps - 1) / 2
    step = step_cost(engine.rates, running, running, middle, middle)
    _spend(engine, steps * step.duration_s, step.power_w, True)
    engine.counts[DECODE_STEPS] += steps
    engine.clock[CONTEXT] += running * steps
    _end_answers(engine)


@kernel
def advance(engine: Engine, until_s: float) -> None:
    """Simulate up to ``until_s``, or a step beyond, or until every request is finished."""
    clock, counts, requests = engine.clock, engine.counts, engine.requests
    total = len(requests)
    while clock[NOW_S] < until_s and counts[FINISHED] < total:
        full = False
        while (
            not full and counts[NEXT] < total and requests[counts[NEXT]].arrival_s <= clock[NOW_S]
        ):
            full = counts[PREFILLING] + counts[DECODING] >= engine.config.max_running
            if not full and _start(engine, counts[NEXT]):
                counts[NEXT] += 1
            else:
                full = True
        if _mixed_step(engine):
            continue
        event_s = until_s
        if not full and counts[NEXT] < total:
            event_s = min(event_s, requests[counts[NEXT]].arrival_s)
        for i in range(counts[PREFILLING]):
            event_s = min(event_s, requests[engine.prefilling[i]].ready_s)
        if counts[DECODING] > 0:
            _decode(engine, event_s)
        else:
            _spend(engine, event_s - clock[NOW_S], engine.rates.idle_w, False)
