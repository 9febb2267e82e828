"""A simulated inference engine with continuous batching, over the real index of each tier.

One loop, compiled. Requests wait first come, first served. One starts when the batch has a place
and HBM can hold its prompt; what its prefix hits in HBM is leased there, what DRAM or SSD add is
loaded over the host link while others compute. Each step takes a token from every running answer
and fills up to ``max_batched_tokens`` with prompts, oldest first (chunked prefill). When a prompt
is done, its first token is out and its full blocks are stored: in HBM, in DRAM, and on SSD unless
writes there lag too far behind.

Answers grow in HBM block by block. Where there is no room for one more, the request that started
last is preempted: it gives up what it holds, waits as the first in the queue, and computes prompt
and answer so far anew, less what it then hits. vLLM does the same.

Between two events a batch that only decodes is stepped over at once. The tiers are the arrays of
`greencache.tiers`, changed by the same compiled transactions as in the live store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench.engine_state import (
    BACKLOG,
    BLOCKED,
    CONTEXT,
    DECODE_STEPS,
    DECODING,
    EVENT_STEP,
    FINISHED,
    FIRST_WAITING,
    LAST_WAITING,
    LINK_FREE_S,
    NO_EVENT,
    NOBODY,
    NOW_S,
    PREFILLING,
    SSD_READ_FREE_S,
    SSD_WRITE_FREE_S,
    STARTS,
    Engine,
)
from greencache.compiled import subroutine
from greencache.controller.performance import Step, step_cost
from greencache.tiers.state import USED
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

__all__ = ["enqueue", "run", "spend"]


@subroutine
def _blocks(engine: Engine, tokens: int) -> int:
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
    context = request.input_tokens + request.generated
    held = _blocks(engine, context) - in_hbm
    if not hold(engine.hbm, held, now_s):
        unlease(engine.hbm, ids, in_hbm, now_s)
        return False
    count_hits(engine.hbm, ids, in_hbm)
    touch(engine.hbm, ids, in_hbm, now_s)
    request.held = held
    request.leased_hbm = in_hbm
    request.leased_dram = acquire(engine.dram, ids, reusable, now_s)
    request.leased_ssd = acquire(engine.ssd, ids, reusable, now_s)
    from_dram = max(0, request.leased_dram - in_hbm)
    from_ssd = max(0, request.leased_ssd - max(in_hbm, request.leased_dram))
    if request.preemptions == 0:
        request.hbm_blocks = in_hbm
        request.dram_blocks = from_dram
        request.ssd_blocks = from_ssd
    request.computed = (in_hbm + from_dram + from_ssd) * engine.config.block_tokens
    request.ready_s = _load(engine, from_dram, from_ssd)
    request.started = engine.counts[STARTS]
    engine.counts[STARTS] += 1
    engine.clock[BACKLOG] += context - request.computed - request.expected
    engine.prefilling[engine.counts[PREFILLING]] = r
    engine.counts[PREFILLING] += 1
    return True


@subroutine
def enqueue(engine: Engine, r: int, expected: int) -> None:
    """Let a request wait behind all others; ``expected`` of its prompt's tokens are to compute."""
    engine.requests[r].next = NOBODY
    engine.requests[r].expected = expected
    engine.clock[BACKLOG] += expected
    if engine.counts[FIRST_WAITING] == NOBODY:
        engine.counts[FIRST_WAITING] = r
    else:
        engine.requests[engine.counts[LAST_WAITING]].next = r
    engine.counts[LAST_WAITING] = r


@subroutine
def _start_waiting(engine: Engine) -> None:
    """Start as many of those who wait as batch and HBM have room for."""
    counts = engine.counts
    while (
        counts[FIRST_WAITING] != NOBODY
        and counts[BLOCKED] == 0
        and counts[PREFILLING] + counts[DECODING] < engine.config.max_running
    ):
        r = counts[FIRST_WAITING]
        if _start(engine, r):
            counts[FIRST_WAITING] = engine.requests[r].next
        else:
            counts[BLOCKED] = 1


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
def _end_loads(engine: Engine, r: int) -> None:
    """End the leases of a request in DRAM and SSD."""
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    ids = engine.ids[request.first_id : request.end_id]
    unlease(engine.dram, ids, request.leased_dram, now_s)
    unlease(engine.ssd, ids, request.leased_ssd, now_s)
    request.leased_dram = 0
    request.leased_ssd = 0


@subroutine
def _publish(engine: Engine, r: int) -> None:
    """Store the full blocks of a prompt that is computed, and end its leases in DRAM and SSD."""
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    ids = engine.ids[request.first_id : request.end_id]
    full = len(ids)
    if engine.config.reuse_hbm:
        unhold(engine.hbm, full - request.leased_hbm)
        store(engine.hbm, ids, full, now_s)
        lease(engine.hbm, ids, full)
        unlease(engine.hbm, ids, request.leased_hbm, now_s)
        request.held -= full - request.leased_hbm
        request.leased_hbm = full
        engine.counts[BLOCKED] = 0  # others may have stored the same blocks, or wait for them
    store(engine.dram, ids, full, now_s)
    _write_to_ssd(engine, ids)
    _end_loads(engine, r)


@subroutine
def _leave_hbm(engine: Engine, r: int) -> None:
    """Give up all that a request keeps in HBM."""
    request = engine.requests[r]
    ids = engine.ids[request.first_id : request.end_id]
    unlease(engine.hbm, ids, request.leased_hbm, engine.clock[NOW_S])
    unhold(engine.hbm, request.held)
    request.leased_hbm = 0
    request.held = 0
    engine.counts[BLOCKED] = 0


@subroutine
def _finish(engine: Engine, r: int) -> None:
    engine.requests[r].finish_s = engine.clock[NOW_S]
    engine.counts[FINISHED] += 1
    _leave_hbm(engine, r)


@subroutine
def _without(members: NDArray[np.int64], count: int, r: int) -> int:
    """Take ``r`` out of a list if it is there, keeping its order; how many are left."""
    kept = 0
    for i in range(count):
        if members[i] != r:
            members[kept] = members[i]
            kept += 1
    return kept


@subroutine
def _preempt_youngest(engine: Engine) -> int:
    """Put the running request that started last back to the head of the queue; which it is."""
    counts, requests = engine.counts, engine.requests
    youngest = engine.decoding[0]
    for i in range(counts[DECODING]):
        if requests[engine.decoding[i]].started > requests[youngest].started:
            youngest = engine.decoding[i]
    for i in range(counts[PREFILLING]):
        if requests[engine.prefilling[i]].started > requests[youngest].started:
            youngest = engine.prefilling[i]
    request = requests[youngest]
    decoding = counts[DECODING]
    counts[DECODING] = _without(engine.decoding, decoding, youngest)
    if counts[DECODING] < decoding:
        request.generated = request.output_tokens - (request.last_step - counts[DECODE_STEPS])
        engine.clock[CONTEXT] -= request.input_tokens + request.generated
        engine.clock[BACKLOG] += request.input_tokens + request.generated
    else:
        counts[PREFILLING] = _without(engine.prefilling, counts[PREFILLING], youngest)
        engine.clock[BACKLOG] += request.computed
        _end_loads(engine, youngest)
    _leave_hbm(engine, youngest)
    request.expected = request.input_tokens + request.generated
    request.preemptions += 1
    request.next = counts[FIRST_WAITING]
    if counts[FIRST_WAITING] == NOBODY:
        counts[LAST_WAITING] = youngest
    counts[FIRST_WAITING] = youngest
    return youngest


@subroutine
def spend(engine: Engine, duration_s: float, power_w: float, busy: bool) -> None:
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
def _grow(engine: Engine) -> bool:
    """Give a block to every answer that needs one; False if someone was preempted for it."""
    counts = engine.counts
    for i in range(counts[DECODING]):
        r = engine.decoding[i]
        request = engine.requests[r]
        if request.grow_step > counts[DECODE_STEPS]:
            continue
        if not hold(engine.hbm, 1, engine.clock[NOW_S]):
            _preempt_youngest(engine)
            return False
        request.held += 1
        request.grow_step += engine.config.block_tokens
    return True


@subroutine
def _end_answers(engine: Engine) -> None:
    """Finish every answer that had its last token, and let the others grow."""
    counts = engine.counts
    if counts[DECODE_STEPS] < counts[EVENT_STEP]:
        return
    kept = 0
    for i in range(counts[DECODING]):
        r = engine.decoding[i]
        request = engine.requests[r]
        if request.last_step <= counts[DECODE_STEPS]:
            engine.clock[CONTEXT] -= request.input_tokens + request.output_tokens
            _finish(engine, r)
        else:
            engine.decoding[kept] = r
            kept += 1
    counts[DECODING] = kept
    while not _grow(engine):
        pass
    counts[EVENT_STEP] = NO_EVENT
    for i in range(counts[DECODING]):
        request = engine.requests[engine.decoding[i]]
        event_step = min(request.last_step, request.grow_step)
        counts[EVENT_STEP] = min(counts[EVENT_STEP], event_step)


@subroutine
def _begin_answer(engine: Engine, r: int) -> None:
    """Let a request decode whose context is computed; its next token is out."""
    request, counts = engine.requests[r], engine.counts
    if request.generated == 0:
        request.first_token_s = engine.clock[NOW_S]
    _publish(engine, r)
    room = (request.held + request.leased_hbm) * engine.config.block_tokens
    request.generated += 1
    if request.generated >= request.output_tokens:
        _finish(engine, r)
        return
    context = request.input_tokens + request.generated
    request.last_step = counts[DECODE_STEPS] + request.output_tokens - request.generated
    # The next step writes the KV of the token just out, as the last of ``context``.
    request.grow_step = counts[DECODE_STEPS] + room - context + 1
    engine.clock[CONTEXT] += context
    engine.decoding[counts[DECODING]] = r
    counts[DECODING] += 1
    counts[EVENT_STEP] = min(counts[EVENT_STEP], request.last_step, request.grow_step)


@subroutine
def _end_prompts(engine: Engine) -> None:
    """Begin the answer of every prompt that is computed."""
    kept = 0
    for i in range(engine.counts[PREFILLING]):
        r = engine.prefilling[i]
        request = engine.requests[r]
        if request.computed < request.input_tokens + request.generated:
            engine.prefilling[kept] = r
            kept += 1
        else:
            _begin_answer(engine, r)
    engine.counts[PREFILLING] = kept


@subroutine
def _note_prefill(engine: Engine, tokens: float, step: Step) -> None:
    """Count prompt tokens of a step, and the energy that it takes more than one without them."""
    idle_w, running = engine.rates.idle_w, float(engine.counts[DECODING])
    added_j = (step.power_w - idle_w) * step.duration_s
    if running > 0:
        context = engine.clock[CONTEXT]
        without = step_cost(engine.rates, running, running, context, context)
        added_j -= (without.power_w - idle_w) * without.duration_s
    totals = engine.bins[int(engine.clock[NOW_S] / engine.config.bin_s)]
    totals.prefill_tokens += tokens
    totals.prefill_j += added_j


@subroutine
def _mixed_step(engine: Engine) -> bool:
    """One step with prompts in it; False, and nothing done, if no prompt is ready."""
    now_s, running, context = engine.clock[NOW_S], engine.counts[DECODING], engine.clock[CONTEXT]
    budget = max(1, engine.config.max_batched_tokens - running)
    tokens, samples = float(running), float(running)
    attended, resident = context, context
    left = budget
    for i in range(engine.counts[PREFILLING]):
        request = engine.requests[engine.prefilling[i]]
        if left == 0:
            break
        if request.ready_s > now_s:
            continue
        before, whole = request.computed, request.input_tokens + request.generated
        chunk = min(left, whole - before)
        left -= chunk
        attended += chunk * (before + (chunk + 1) / 2)
        resident += before
        request.computed = before + chunk
        if request.computed == whole:
            samples += 1
    chunks = float(budget - left)
    if chunks == 0:
        return False
    step = step_cost(engine.rates, tokens + chunks, samples, attended, resident)
    _note_prefill(engine, chunks, step)
    engine.clock[BACKLOG] -= chunks
    spend(engine, step.duration_s, step.power_w, True)
    if running > 0:
        engine.counts[DECODE_STEPS] += 1
        engine.clock[CONTEXT] += running
    _end_prompts(engine)
    _end_answers(engine)
    return True


@subroutine
def _decode(engine: Engine, until_s: float) -> None:
    """Step a batch without prompts until its next event or, about, until ``until_s``."""
    running, context = float(engine.counts[DECODING]), engine.clock[CONTEXT]
    left_s = until_s - engine.clock[NOW_S]
    steps = engine.counts[EVENT_STEP] - engine.counts[DECODE_STEPS]
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
    spend(engine, steps * step.duration_s, step.power_w, True)
    engine.counts[DECODE_STEPS] += steps
    engine.clock[CONTEXT] += running * steps
    _end_answers(engine)


@subroutine
def run(engine: Engine, until_s: float, more: bool) -> None:
    """Serve what is here up to ``until_s`` or a step beyond.

    With nothing to do, time passes only if ``more`` may come.
    """
    clock, counts = engine.clock, engine.counts
    while clock[NOW_S] < until_s:
        _start_waiting(engine)
        if _mixed_step(engine):
            continue
        event_s = until_s
        for i in range(counts[PREFILLING]):
            event_s = min(event_s, engine.requests[engine.prefilling[i]].ready_s)
        if counts[DECODING] > 0:
            _decode(engine, event_s)
        elif counts[PREFILLING] > 0 or more:
            spend(engine, event_s - clock[NOW_S], engine.rates.idle_w, False)
        else:
            return
