"""Small traces for tests of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greencache.traces import RequestTrace


def make_trace(
    requests: Sequence[tuple[float, int, int, Sequence[int]]], block_tokens: int = 512
) -> RequestTrace:
    """A trace from ``(arrival_s, input_tokens, output_tokens, block names)``."""
    arrivals, inputs, outputs, names = zip(*requests, strict=True)
    return RequestTrace(
        name="made",
        arrival_s=np.array(arrivals, float),
        input_tokens=np.array(inputs, np.int64),
        output_tokens=np.array(outputs, np.int64),
        block_tokens=block_tokens,
        block_names=np.array([name for each in names for name in each], np.int64),
        block_starts=np.cumsum([0] + [len(each) for each in names]).astype(np.int64),
    )


def fresh_prompts(count: int, gap_s: float, *, blocks: int = 4, output: int = 50) -> RequestTrace:
    """Prompts of whole blocks that share nothing, ``gap_s`` apart."""
    return make_trace(
        [
            (i * gap_s, blocks * 512, output, range(i * blocks, (i + 1) * blocks))
            for i in range(count)
        ]
    )
