"""Whether an access costs the same however many there are: a made stream in several sizes."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import numpy as np

from greencache.bench.curve import prefix_hits
from greencache.bench.plain_lru import plain_lru_hits
from greencache.bench.two_tiers import two_tier_hits
from greencache.tiers.policies import Policy
from greencache.tiers.state import allocate
from greencache.traces.requests import RequestTrace

__all__ = ["SCALES", "make_sessions", "measure_scaling"]

SCALES = (300_000, 3_000_000, 30_000_000)
"""Accesses of the streams."""

TURNS = 4
SHARED_BLOCKS = 4  # of the system prompt that a session begins with
SESSIONS_PER_SHARED = 50
MOST_NEW_BLOCKS = 15  # that a turn adds; 1 is the least
BLOCK_TOKENS = 512

# With 8 new blocks a turn on average, a session asks for 4 * 4 + 8 * (1 + 2 + 3 + 4) = 96 blocks.
ACCESSES_PER_SESSION = 96

SSD_SHARE = 0.25
"""Capacity over different blocks; 50,000 blocks are 0.27 of the Mooncake conversation trace's."""

DRAM_SHARE = SSD_SHARE / 4


def make_sessions(accesses: int, seed: int = 0) -> RequestTrace:
    """Chats of four turns that interleave: about ``accesses`` blocks, a third of them different.

    A session begins with one of some system prompts of 4 blocks, which 50 sessions share, and each
    turn sends all before it and 1 to 15 new blocks. Sessions begin evenly over the time; the pause
    before each further turn is exponential with a mean of a fifth of the whole time, so that at
    every size the same share of the blocks is in use.
    """
    draws = np.random.default_rng(seed)
    sessions = max(1, accesses // ACCESSES_PER_SESSION)
    added = draws.integers(1, MOST_NEW_BLOCKS, (sessions, TURNS), endpoint=True)
    lengths = SHARED_BLOCKS + np.cumsum(added, axis=1)
    pauses_s = draws.exponential(sessions / 5, (sessions, TURNS))
    pauses_s[:, 0] = draws.uniform(0, sessions, sessions)
    arrival_s = np.cumsum(pauses_s, axis=1).ravel()
    order = np.argsort(arrival_s, kind="stable")
    blocks = lengths.ravel()[order]
    session = order // TURNS
    starts = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    depth = np.arange(starts[-1]) - np.repeat(starts[:-1], blocks)
    # A session's own blocks are named by the session, shared ones by the system prompt.
    shared = draws.integers(0, -(-sessions // SESSIONS_PER_SHARED), sessions)
    names = np.where(
        depth < SHARED_BLOCKS,
        np.repeat(-1 - shared[session], blocks),
        np.repeat(session, blocks),
    )
    return RequestTrace(
        name=f"made of {sessions:,} sessions",
        arrival_s=arrival_s[order],
        input_tokens=blocks * BLOCK_TOKENS + 1,
        output_tokens=np.ones(len(blocks), np.int64),
        block_tokens=BLOCK_TOKENS,
        block_names=names,
        block_starts=starts,
    )


def _tier_bytes(capacity_blocks: int, ids: int) -> int:
    """What the index of a tier takes under lru."""
    state = allocate(capacity_blocks, ids, Policy.LRU.code)
    return sum(array.nbytes for array in state)


def _peak_bytes() -> int:
    """Most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_scaling(
    accesses: int, best_s: Callable[[Callable[[], int]], tuple[float, int]]
) -> dict[str, Any]:
    """Time plain LRU and the index over one size of the stream.

    Parameters
    ----------
    accesses:
        Block accesses of the stream, about.
    best_s:
        Runs a side some times: its shortest time in seconds and what it returns.
    """
    trace = make_sessions(accesses)
    count, unique = len(trace.block_ids), trace.unique_blocks
    dram_blocks, ssd_blocks = int(DRAM_SHARE * unique), int(SSD_SHARE * unique)
    dram_bytes, ssd_bytes = _tier_bytes(dram_blocks, unique), _tier_bytes(ssd_blocks, unique)
    sides: dict[str, tuple[Callable[[], int], int]] = {
        "plain LRU": (lambda: plain_lru_hits(trace.block_ids, ssd_blocks), 4 * unique),
        "index, one tier": (lambda: prefix_hits(trace, Policy.LRU, ssd_blocks), ssd_bytes),
        "index, two tiers and leases": (
            lambda: two_tier_hits(trace, Policy.LRU, dram_blocks, ssd_blocks),
            dram_bytes + ssd_bytes,
        ),
    }
    result: dict[str, Any] = {}
    for name, (side, state_bytes) in sides.items():
        shortest_s, hits = best_s(side)
        result[name] = {
            "hits": hits,
            "best_s": shortest_s,
            "ns_per_access": shortest_s / count * 1e9,
            "state_bytes": state_bytes,
        }
    return {
        "accesses": count,
        "unique_blocks": unique,
        "dram_blocks": dram_blocks,
        "ssd_blocks": ssd_blocks,
        "ids_bytes": trace.block_ids.nbytes,
        "peak_process_bytes": _peak_bytes(),
        "sides": result,
    }
