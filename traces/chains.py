"""What block chains say about sessions: which prompts continue, repeat or branch off others.

A trace without session names still shows them. Prompts form a tree: each block is a node, its
parent the block before it.

* *Common* blocks, which a large share of all requests pass through, are system prompts. In
  Mooncake's conversation trace that is one block, in every one of its 12,031 requests; no other is
  in more than 43. Any threshold between 0.4 % and all requests gives the same.
* A *session* is what hangs below one child of the common blocks: requests that share more than the
  system prompt. Nothing but common blocks is ever shared between two sessions.
* Within a session, a prompt that holds all full blocks of an earlier prompt *and* is long enough to
  hold its answer *continues* it: the next turn. One that holds all its full blocks but has no room
  for the answer *repeats* it: the same text with another question at its end, or the same question
  once more. One that leaves an earlier prompt before its end *branches* off it.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.traces.numbering import number_by_first_appearance
from greencache.traces.requests import RequestTrace

__all__ = ["COMMON_SHARE", "Reuse", "common_blocks", "reuse_kinds", "sessions_by_chain"]

COMMON_SHARE = 0.01
"""Blocks in more than this share of all requests are taken for a system prompt."""

_ANSWER_SLACK_TOKENS = 64
"""A next turn may be this much too short for the answer. Lengths of Mooncake's prompts less the
earlier prompt and answer crowd just above 0, a fifth as many lie down to -64, and hardly any below:
answers come back a little shorter than they were generated."""

_FAR = 2**62


class Reuse(IntEnum):
    """How a prompt relates to earlier ones of its session."""

    FIRST = 0
    """Shares nothing but common blocks."""
    CONTINUES = 1
    """Holds an earlier prompt and has room for its answer."""
    REPEATS = 2
    """Holds an earlier prompt but has no room for its answer."""
    BRANCHES = 3
    """Shares the beginning of an earlier prompt and leaves it before its end."""


_FIRST, _CONTINUES, _REPEATS, _BRANCHES = (int(kind) for kind in Reuse)


def common_blocks(trace: RequestTrace, share: float = COMMON_SHARE) -> NDArray[np.int64]:
    """How many leading blocks of each request are common.

    Parameters
    ----------
    trace:
        The trace; its blocks are counted once a request, since a chain never repeats a block.
    share:
        Blocks in more than this share of all requests are common.
    """
    requests_through = np.bincount(trace.block_ids, minlength=1)
    common = requests_through > share * len(trace)
    before = np.concatenate([[0], np.cumsum(common[trace.block_ids])])
    counts: NDArray[np.int64] = before[trace.block_starts[1:]] - before[trace.block_starts[:-1]]
    return counts


def sessions_by_chain(trace: RequestTrace, share: float = COMMON_SHARE) -> NDArray[np.int64]:
    """Session of each request, numbered in the order in which they begin.

    Requests belong together if they share a block that is not common. A request that has none but
    common blocks is a session of its own.
    """
    common = common_blocks(trace, share)
    at = trace.block_starts[:-1] + common
    alone = common == np.diff(trace.block_starts)
    root = np.empty(len(trace), np.int64)
    root[~alone] = trace.block_ids[at[~alone]]
    root[alone] = trace.unique_blocks + np.arange(alone.sum())
    return number_by_first_appearance(root.astype(np.int32)).astype(np.int64)


@kernel
def _classify(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    full: NDArray[np.int64],
    common: NDArray[np.int64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    seen: NDArray[np.bool_],
    shortest_end: NDArray[np.int64],
    kinds: NDArray[np.int8],
    shared: NDArray[np.int64],
) -> None:
    for r in range(len(full)):
        first, end = starts[r], starts[r] + full[r]
        at = first
        while at < end and seen[ids[at]]:
            at += 1
        shared[r] = at - first
        if shared[r] <= common[r]:
            kinds[r] = _FIRST
        elif shortest_end[ids[at - 1]] <= input_tokens[r]:
            kinds[r] = _CONTINUES
        elif shortest_end[ids[at - 1]] < _FAR:
            kinds[r] = _REPEATS
        else:
            kinds[r] = _BRANCHES
        for i in range(at, end):
            seen[ids[i]] = True
        if end > first:
            last = ids[end - 1]
            answered = input_tokens[r] + max(output_tokens[r] - _ANSWER_SLACK_TOKENS, 1)
            shortest_end[last] = min(shortest_end[last], answered)


def reuse_kinds(trace: RequestTrace) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """How each prompt relates to the earlier ones.

    Returns
    -------
    tuple
        A `Reuse` for each request, and how many of its leading full blocks were seen before.
    """
    kinds, shared = np.zeros(len(trace), np.int8), np.zeros(len(trace), np.int64)
    _classify(
        trace.block_ids,
        trace.block_starts,
        trace.full_blocks,
        common_blocks(trace),
        trace.input_tokens,
        trace.output_tokens,
        np.zeros(trace.unique_blocks, np.bool_),
        np.full(trace.unique_blocks, _FAR),
        kinds,
        shared,
    )
    return kinds, shared
