"""Small traces for tests of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

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


@st.composite
def chats(draw: st.DrawFn) -> RequestTrace:
    """Requests that extend earlier ones, as conversations do."""
    histories: list[list[int]] = [[]]
    requests = []
    now_s, fresh = 0.0, 0
    for _ in range(draw(st.integers(1, 25))):
        now_s += draw(st.sampled_from([0.0, 0.01, 0.5, 30.0]))
        history = draw(st.sampled_from(histories))
        added = draw(st.integers(1, 12))
        blocks = [*history, *range(fresh, fresh + added)]
        fresh += added
        histories.append(blocks)
        partial = draw(st.integers(0, 511))
        names = [*blocks, fresh] if partial else blocks
        fresh += 1
        requests.append((now_s, len(blocks) * 512 + partial, draw(st.integers(1, 300)), names))
    return make_trace(requests)
