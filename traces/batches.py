"""``Batch``: some thousand requests of a trace, so that reading takes memory that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH_NAMES", "BATCH_REQUESTS", "Batch", "join"]

BATCH_REQUESTS = 4096
"""About as many requests as a batch has."""

BATCH_NAMES = 2**20
"""About as many block names as a batch has at most: 8 MiB of them."""


@dataclass(frozen=True)
class Batch:
    """Requests in order of arrival, none before those of the batch that came earlier.

    Arrays have one entry a request, unless said otherwise.

    Attributes
    ----------
    arrival_s:
        Arrival, in seconds of the trace's own clock.
    input_tokens, output_tokens:
        Lengths of prompt and answer, both at least 1.
    block_tokens:
        Tokens to a block; the same in all batches of a trace.
    block_names:
        Block names of all requests, one request after the other: equal where the trace says that
        the blocks are equal. Empty where the trace has none.
    block_starts:
        Where each request begins in ``block_names``; one entry more than there are requests.
    sessions:
        A number for the session of each request, equal where the session is; None where the trace
        does not tell.
    skipped:
        Lines left out since the batch before: malformed ones, or no answered requests.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    block_tokens: int
    block_names: NDArray[np.int64]
    block_starts: NDArray[np.int64]
    sessions: NDArray[np.int64] | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """The requests at the positions ``rows``, in that order; ``skipped`` is carried over."""
        lengths = np.diff(self.block_starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.block_starts[:-1][rows] - starts[:-1], lengths)
        return Batch(
            self.arrival_s[rows],
            self.input_tokens[rows],
            self.output_tokens[rows],
            self.block_tokens,
            self.block_names[np.arange(starts[-1]) + shift],
            starts,
            None if self.sessions is None else self.sessions[rows],
            self.skipped,
        )


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several, at least one, of the same trace."""
    counts = np.cumsum([0, *(len(batch.block_names) for batch in batches)])
    starts = [
        batch.block_starts[:-1] + first for batch, first in zip(batches, counts[:-1], strict=True)
    ]
    sessions = [batch.sessions for batch in batches if batch.sessions is not None]
    return Batch(
        np.concatenate([batch.arrival_s for batch in batches]),
        np.concatenate([batch.input_tokens for batch in batches]),
        np.concatenate([batch.output_tokens for batch in batches]),
        batches[0].block_tokens,
        np.concatenate([batch.block_names for batch in batches]),
        np.concatenate([*starts, counts[-1:]]).astype(np.int64),
        np.concatenate(sessions) if sessions else None,
        sum(batch.skipped for batch in batches),
    )
