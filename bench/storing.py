"""What an engine learns from its requests, and what it writes to SSD by that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench.engine_state import EVENTS, NOW_S, SSD_WRITE_FREE_S, Engine
from greencache.compiled import subroutine
from greencache.tiers.admission import admit, draw, note_computed
from greencache.tiers.learning import learn_from as learn_from_request
from greencache.tiers.state import CAPACITY
from greencache.tiers.transactions import match, store

__all__ = ["learn_from", "write_to_ssd"]


@subroutine
def learn_from(engine: Engine, ids: NDArray[np.int32], held: int) -> None:
    """Note that a request for ``ids`` has started, of which HBM or DRAM held ``ids[:held]``."""
    if not engine.config.learns:
        return
    learn_from_request(
        engine.reuse,
        engine.storing,
        engine.hbm,
        engine.dram,
        engine.ssd,
        engine.config.reuse_hbm,
        engine.config.ranks,
        ids,
        held,
        engine.clock[NOW_S],
    )


@subroutine
def write_to_ssd(engine: Engine, ids: NDArray[np.int32]) -> None:
    """Store of a prompt on SSD what is admitted, or nothing if writing it would lag too far behind.

    What is stored can be read at once: until it is on flash, from the buffer it is written from.
    """
    if engine.ssd.meta[CAPACITY] == 0:
        return
    config, clock = engine.config, engine.clock
    now_s = clock[NOW_S]
    totals = engine.bins[int(now_s / config.bin_s)]
    found = match(engine.ssd, ids, len(ids))
    stop = len(ids)
    if config.by_value:
        note_computed(engine.reuse.seen, ids)
        blocks_per_s = config.endurance_per_s * engine.ssd.meta[CAPACITY]
        stop = admit(
            engine.reuse.seen, engine.storing, config.prices, blocks_per_s, ids, found, now_s
        )
        totals.declined_bytes += (len(ids) - stop) * config.block_bytes
    missing_bytes = (stop - found) * config.block_bytes
    begin_s = max(now_s, clock[SSD_WRITE_FREE_S])
    if begin_s + missing_bytes / config.ssd_write_bytes_per_s > now_s + config.ssd_backlog_s:
        totals.dropped_bytes += missing_bytes
        if engine.counts[EVENTS] <= len(engine.events):
            engine.events[engine.counts[EVENTS] - 1].dropped = True  # of this prompt's `STORED`
        return
    new = store(engine.ssd, ids, stop, now_s)
    if config.by_value:
        draw(engine.storing.pace, float(new))
    new_bytes = new * config.block_bytes
    clock[SSD_WRITE_FREE_S] = begin_s + new_bytes / config.ssd_write_bytes_per_s
    totals.written_bytes += new_bytes
