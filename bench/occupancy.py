"""What a request holds in the tiers of its engine, from its start to its end.

At its start: a lease of what it hits in HBM, room there for the rest of its prompt, and a lease of
what DRAM and SSD add until that is loaded. When its prompt is computed: a lease of its full blocks,
now stored under their names. At its end, or when it is preempted, nothing.
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
    FIRST_WAITING,
    LAST_WAITING,
    LINK_FREE_S,
    NOBODY,
    NOW_S,
    PREEMPTED,
    PREFILLING,
    SSD_READ_FREE_S,
    STARTED,
    STARTS,
    STORED,
    Engine,
    note_event,
)
from greencache.bench.storing import learn_from, write_to_ssd
from greencache.compiled import subroutine
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

__all__ = ["enqueue", "leave_hbm", "preempt_youngest", "publish", "start"]


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
def start(engine: Engine, r: int) -> bool:
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
    note_event(engine, STARTED, r)
    from_dram = max(0, request.leased_dram - in_hbm)
    from_ssd = max(0, request.leased_ssd - max(in_hbm, request.leased_dram))
    if request.preemptions == 0:
        learn_from(engine, ids, max(in_hbm, request.leased_dram))
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
def _end_loads(engine: Engine, r: int) -> None:
    """End the leases of a request in DRAM and SSD."""
    request, now_s = engine.requests[r], engine.clock[NOW_S]
    ids = engine.ids[request.first_id : request.end_id]
    unlease(engine.dram, ids, request.leased_dram, now_s)
    unlease(engine.ssd, ids, request.leased_ssd, now_s)
    request.leased_dram = 0
    request.leased_ssd = 0


@subroutine
def publish(engine: Engine, r: int) -> None:
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
    note_event(engine, STORED, r)
    write_to_ssd(engine, ids)
    _end_loads(engine, r)


@subroutine
def leave_hbm(engine: Engine, r: int) -> None:
    """Give up all that a request keeps in HBM."""
    request = engine.requests[r]
    ids = engine.ids[request.first_id : request.end_id]
    unlease(engine.hbm, ids, request.leased_hbm, engine.clock[NOW_S])
    unhold(engine.hbm, request.held)
    request.leased_hbm = 0
    request.held = 0
    engine.counts[BLOCKED] = 0


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
def preempt_youngest(engine: Engine) -> int:
    """Put the running request that started last back to the head of the queue; which it is."""
    counts, requests = engine.counts, engine.requests
    youngest = int(engine.decoding[0])
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
        note_event(engine, PREEMPTED, youngest)
        _end_loads(engine, youngest)
    leave_hbm(engine, youngest)
    request.expected = request.input_tokens + request.generated
    request.preemptions += 1
    request.next = counts[FIRST_WAITING]
    if counts[FIRST_WAITING] == NOBODY:
        counts[LAST_WAITING] = youngest
    counts[FIRST_WAITING] = youngest
    return youngest
