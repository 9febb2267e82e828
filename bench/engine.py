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

from greencache.bench.engine_state import (
    BACKLOG,
    BLOCKED,
    CONTEXT,
    DECODE_STEPS,
    DECODING,
    EVENT_STEP,
    FINISHED,
    FIRST_WAITING,
    NO_EVENT,
    NOBODY,
    NOW_S,
    PREFILLING,
    Engine,
)
from greencache.bench.occupancy import leave_hbm, preempt_youngest, publish, start
from greencache.compiled import subroutine
from greencache.controller.performance import Step, step_cost
from greencache.tiers.state import HELD, USED, int64
from greencache.tiers.transactions import hold

__all__ = ["run", "spend"]


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
        if start(engine, r):
            counts[FIRST_WAITING] = engine.requests[r].next
        else:
            counts[BLOCKED] = 1


@subroutine
def _finish(engine: Engine, r: int) -> None:
    engine.requests[r].finish_s = engine.clock[NOW_S]
    engine.counts[FINISHED] += 1
    leave_hbm(engine, r)


@subroutine
def spend(engine: Engine, duration_s: float, power_w: float, busy: float) -> None:
    """Let time pass at a power, shared out over the bins that it spans; ``busy`` is 1.0 or 0.0."""
    bin_s = engine.config.bin_s
    at_s = engine.clock[NOW_S]
    end_s = at_s + duration_s
    where = int(at_s / bin_s)
    while at_s < end_s:
        upto_s = min(end_s, (where + 1) * bin_s)
        totals = engine.bins[min(where, len(engine.bins) - 1)]  # never beyond, whatever the rates
        totals.gpu_j += power_w * (upto_s - at_s)
        totals.busy_s += busy * (upto_s - at_s)
        totals.dram_blocks = engine.dram.meta[USED]
        totals.ssd_blocks = engine.ssd.meta[USED]
        totals.held_blocks = max(totals.held_blocks, engine.hbm.meta[HELD])
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
        if not hold(engine.hbm, int64(1), engine.clock[NOW_S]):
            preempt_youngest(engine)
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
    publish(engine, r)
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
    """Count prompt tokens of a step, and the time and energy it takes more than without them."""
    idle_w, running = engine.rates.idle_w, float(engine.counts[DECODING])
    added_s, added_j = step.duration_s, (step.power_w - idle_w) * step.duration_s
    if running > 0:
        context = engine.clock[CONTEXT]
        without = step_cost(engine.rates, running, running, context, context)
        added_s -= without.duration_s
        added_j -= (without.power_w - idle_w) * without.duration_s
    totals = engine.bins[int(engine.clock[NOW_S] / engine.config.bin_s)]
    totals.prefill_tokens += tokens
    totals.prefill_s += added_s
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
    spend(engine, step.duration_s, step.power_w, 1.0)
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
    spend(engine, steps * step.duration_s, step.power_w, 1.0)
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
            spend(engine, event_s - clock[NOW_S], engine.rates.idle_w, 0.0)
        else:
            return
