"""What a simulated engine consists of: settings, requests, tiers and where it stands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import subroutine
from greencache.controller.performance import Rates
from greencache.tiers.admission import Prices, Storing
from greencache.tiers.reuse import Reuse
from greencache.tiers.state import EVICTED, EVICTED_AGE_S, HELD, USED, TierState

__all__ = ["BIN", "EVENT", "REQUEST", "Config", "Engine", "note_event"]

# Positions in ``Engine.clock``.
NOW_S = 0
LINK_FREE_S = 1  # when the host link has moved all it was asked to
SSD_READ_FREE_S = 2
SSD_WRITE_FREE_S = 3
CONTEXT = 4  # tokens of context over all running answers
BACKLOG = 5  # prompt tokens that are still to be computed, of all requests here
CLOCK_LENGTH = 6

# Positions in ``Engine.counts``.
PREFILLING = 0
DECODING = 1
DECODE_STEPS = 2  # steps that produced a token for every running answer
EVENT_STEP = 3  # decode step at which the next answer ends or needs another block
FINISHED = 4
FIRST_WAITING = 5  # ends of the queue, `NOBODY` if it is empty
LAST_WAITING = 6
BLOCKED = 7  # 1 while the first waiting request does not fit and nothing has been freed since
STARTS = 8  # requests started so far, restarts included
EVENTS = 9  # what was asked of DRAM and SSD so far, whether or not it is kept
COUNT_LENGTH = 10

NOBODY = -1
NO_EVENT = 2**62


class Config(NamedTuple):
    """What an engine is set to."""

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
    learns: bool
    """Whether reuse is learned, as the next two need."""
    ranks: bool
    """Whether tiers are told what keeping a block is worth."""
    by_value: bool
    """Whether what is stored on SSD is chosen by its worth."""
    prices: Prices
    endurance_per_s: float
    """Share of the SSD's capacity that may be written each second to spend it evenly over its
    life."""


REQUEST = np.dtype(
    [
        # What the trace says.
        ("arrival_s", np.float64),
        ("input_tokens", np.int64),
        ("output_tokens", np.int64),
        ("first_id", np.int64),  # where the ids of its full blocks begin in ``Engine.ids``
        ("end_id", np.int64),  # and end
        ("reusable", np.int64),  # those of them that may hit
        # What became of it; times are NaN until they come.
        ("first_token_s", np.float64),
        ("finish_s", np.float64),
        ("hbm_blocks", np.int32),  # blocks found in HBM when it first started
        ("dram_blocks", np.int32),  # what DRAM added to that, and then SSD
        ("ssd_blocks", np.int32),
        ("preemptions", np.int32),
        ("replica", np.int32),
        # Where it stands.
        ("next", np.int32),  # behind it in the queue
        ("started", np.int64),  # how many were before it
        ("ready_s", np.float64),  # when its hits are in HBM
        ("computed", np.int64),  # tokens of its context in HBM, while it prefills
        ("expected", np.int64),  # tokens it adds to the backlog while it waits
        ("generated", np.int64),  # tokens of its answer when it last began to decode
        ("grow_step", np.int64),  # decode step before which it needs another block
        ("last_step", np.int64),  # decode step at which its answer ends
        ("held", np.int64),  # blocks in HBM without a name: unfinished prompts, answers
        ("leased_hbm", np.int64),
        ("leased_dram", np.int64),  # until the prompt is computed
        ("leased_ssd", np.int64),
    ]
)

BIN = np.dtype(
    [
        ("gpu_j", np.float64),
        ("busy_s", np.float64),
        ("prefill_tokens", np.float64),  # prompt tokens computed
        ("prefill_s", np.float64),  # time that they added to the steps
        ("prefill_j", np.float64),  # energy that they added to what else the GPUs did
        ("read_bytes", np.float64),  # from SSD
        ("written_bytes", np.float64),  # to SSD
        ("dropped_bytes", np.float64),  # not written to SSD because writing lagged
        ("declined_bytes", np.float64),  # not written because it was not worth it
        ("dram_blocks", np.float64),  # in use when the interval ended
        ("ssd_blocks", np.float64),
        ("held_blocks", np.float64),  # most blocks of HBM that were no cache at any one time
    ]
)
"""What is kept for each interval of ``bin_s``."""


# Kinds of events.
STARTED = 0  # a request acquires what DRAM and SSD have of its prompt
STORED = 1  # its prompt is stored there, and what it acquired is released
PREEMPTED = 2  # that is released before it was computed
RESIZED = 3  # DRAM and SSD have other sizes from now on

EVENT = np.dtype(
    [
        ("kind", np.int8),
        ("dropped", np.bool_),  # the write to SSD was, because writing lagged
        ("again", np.bool_),  # it had started before
        ("request", np.int32),
        ("now_s", np.float64),
        ("dram_blocks", np.int64),  # found, added to what those before have; or the new size
        ("ssd_blocks", np.int64),
        ("wear_j", np.float64),  # what writing a block wears, from now on
        # What the reuse model asks about HBM.
        ("hbm_blocks", np.int64),  # found there
        ("hbm_used", np.int64),
        ("hbm_held", np.int64),
        ("hbm_evicted", np.int64),
        ("hbm_evicted_age_s", np.float64),
    ]
)
"""What the engine asked of DRAM and SSD, in its order: enough to do the same to a real store."""


class Engine(NamedTuple):
    """One engine, its tiers, and all requests of the run, of which it serves some."""

    rates: Rates
    config: Config
    hbm: TierState
    dram: TierState
    ssd: TierState
    reuse: Reuse
    storing: Storing
    requests: NDArray[np.void]
    """A `REQUEST` record each."""
    ids: NDArray[np.int32]
    """Block ids of all requests, one after the other."""
    bins: NDArray[np.void]
    """A `BIN` record each."""
    clock: NDArray[np.float64]
    counts: NDArray[np.int64]
    events: NDArray[np.void]
    """Room for `EVENT` records; none to keep none."""
    prefilling: NDArray[np.int64]
    """Requests whose prompts are loaded or computed, in the order they started."""
    decoding: NDArray[np.int64]


@subroutine
def note_event(engine: Engine, kind: int, r: int) -> None:
    """Keep what request ``r`` asks of DRAM and SSD now, if there is room for it."""
    place = engine.counts[EVENTS]
    engine.counts[EVENTS] = place + 1
    if place >= len(engine.events):
        return
    event, request, hbm = engine.events[place], engine.requests[r], engine.hbm
    event.kind = kind
    event.request = r
    event.now_s = engine.clock[NOW_S]
    event.again = request.preemptions > 0
    event.hbm_blocks = request.leased_hbm
    event.dram_blocks = max(0, request.leased_dram - request.leased_hbm)
    above = max(request.leased_hbm, request.leased_dram)
    event.ssd_blocks = max(0, request.leased_ssd - above)
    event.hbm_used = hbm.meta[USED]
    event.hbm_held = hbm.meta[HELD]
    event.hbm_evicted = hbm.meta[EVICTED]
    event.hbm_evicted_age_s = hbm.weights[EVICTED_AGE_S]
