"""``RequestTrace``: what a serving system was asked, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError
from greencache.tiers.directory import KeyDirectory
from greencache.traces.numbering import number_by_first_appearance

__all__ = ["RequestTrace"]

_LARGEST_BLOCK = 2**31
"""Tokens: more than any prompt has."""


@dataclass(frozen=True)
class RequestTrace:
    """Requests in order of arrival, each with the blocks of its prompt.

    All arrays have one entry a request, unless said otherwise.

    Attributes
    ----------
    name:
        What to call it in results.
    arrival_s:
        Arrival, in seconds since the trace began; never decreasing.
    input_tokens, output_tokens:
        Lengths of prompt and answer, both at least 1.
    block_tokens:
        Tokens to a block.
    block_names:
        Block names as the trace gives them, of all requests one after the other. A partial block
        at the end of a prompt is named too where the trace names it. Empty where the trace names
        no blocks.
    block_starts:
        Where each request begins in ``block_names``; one entry more than there are requests.
    sessions:
        Which session each request belongs to, numbered from 0, where the trace says so.
    chained:
        Whether a name stands for its block *and* the whole prefix before it, and the names are
        32-bit integers from 0 without large holes. Then ids need no table of keys.
    skipped:
        Lines left out: malformed ones, by ``skip_bad``, and those that record no answered request.
    format:
        Which format it was read from, None if it was not read.
    """

    name: str
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    block_tokens: int
    block_names: NDArray[np.signedinteger[Any]]
    block_starts: NDArray[np.int64]
    sessions: NDArray[np.int64] | None = None
    chained: bool = False
    skipped: int = 0
    format: str | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def mean_rate(self) -> float:
        """Mean arrivals per second; infinite if all arrive at once."""
        return len(self) / self.duration_s if self.duration_s else float("inf")

    @property
    def has_blocks(self) -> bool:
        """Whether any block is named; otherwise reuse cannot be seen in this trace."""
        return len(self.block_names) > 0

    @cached_property
    def full_blocks(self) -> NDArray[np.int64]:
        """Full blocks of each prompt: what can be stored."""
        return np.minimum(self.input_tokens // self.block_tokens, np.diff(self.block_starts))

    @cached_property
    def reusable_blocks(self) -> NDArray[np.int64]:
        """Full blocks that may hit: at least one token of the prompt is left to compute."""
        return np.minimum(self.full_blocks, (self.input_tokens - 1) // self.block_tokens)

    @cached_property
    def block_ids(self) -> NDArray[np.int32]:
        """An id for each entry of ``block_names``; equal where name and whole prefix are equal."""
        if self.chained:
            return number_by_first_appearance(self.block_names.astype(np.int32, copy=False))
        names = self.block_names.astype(np.int64, copy=False)
        return KeyDirectory().intern_chains(names, self.block_starts)

    @cached_property
    def unique_blocks(self) -> int:
        """How many different blocks there are, partial ones included."""
        return int(self.block_ids.max()) + 1 if len(self.block_ids) else 0

    def at_mean_rate(self, requests_per_s: float) -> RequestTrace:
        """Stretch or squeeze the gaps between arrivals, all alike, to a mean rate.

        Reuse happens after the same number of requests, but after a longer or shorter time.
        """
        if not (np.isfinite(requests_per_s) and requests_per_s > 0):
            raise InputError(f"a mean rate is more than 0 requests per second: {requests_per_s}")
        if self.duration_s == 0:
            raise InputError("all requests of this trace arrive at once: it has no rate to change")
        return replace(self, arrival_s=self.arrival_s * (self.mean_rate / requests_per_s))

    def in_blocks_of(self, block_tokens: int) -> RequestTrace:
        """The same requests in larger blocks, each of several of this trace's.

        A larger block is named by the id of the last one in it, which stands for the whole prefix
        up to there. A trace that names no blocks can be in blocks of any size.

        Raises
        ------
        InputError
            If ``block_tokens`` is no multiple of the trace's own.
        """
        if block_tokens == self.block_tokens:
            return self
        if not 1 <= block_tokens < _LARGEST_BLOCK:
            raise InputError(f"blocks have 1 token or more, and not {block_tokens}")
        if not self.has_blocks:
            return replace(self, block_tokens=block_tokens)
        if block_tokens % self.block_tokens:
            raise InputError(
                f"blocks of {block_tokens} tokens cannot be made of this trace's blocks of "
                f"{self.block_tokens}: choose a multiple"
            )
        each = block_tokens // self.block_tokens
        fine = np.diff(self.block_starts)
        coarse = -(-fine // each)
        starts = np.concatenate([[0], np.cumsum(coarse)]).astype(np.int64)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], coarse)
        last = np.minimum((within + 1) * each, np.repeat(fine, coarse)) - 1
        return replace(
            self,
            block_tokens=block_tokens,
            block_names=self.block_ids[np.repeat(self.block_starts[:-1], coarse) + last],
            block_starts=starts,
            chained=True,
        )

    def select(self, keep: NDArray[np.bool_]) -> RequestTrace:
        """Only the requests for which ``keep`` is true."""
        lengths = np.diff(self.block_starts)
        return replace(
            self,
            arrival_s=self.arrival_s[keep],
            input_tokens=self.input_tokens[keep],
            output_tokens=self.output_tokens[keep],
            block_names=self.block_names[np.repeat(keep, lengths)],
            block_starts=np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64),
            sessions=None if self.sessions is None else self.sessions[keep],
        )
