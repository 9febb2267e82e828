"""What reuse there was at every pair of sizes: sums that fade, and a sample of recent requests.

Sums of earlier intervals fade by a half-life, so that their ratios are means over recent hours,
weighted by requests or tokens. Latency needs more than means: whether a prompt's first token is in
time depends on what came just before it. So the last requests are kept as they came, with what
each tier held of their prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.prompts import Prompts
from greencache.errors import InputError

__all__ = ["RequestSample", "ReuseProfile", "ReuseSums"]

Floats = NDArray[np.float64]

_NONE = 1e-300
"""Stands for no requests at all where something is divided by their number."""


class RequestSample(NamedTuple):
    """Recent requests in the order they came.

    Attributes
    ----------
    gaps:
        Time since the one before, over the mean gap of its interval: 1 in the mean.
    input_tokens, output_tokens:
        Lengths of prompt and answer.
    held_blocks:
        Requests by tiers (HBM, each DRAM size, each SSD size): blocks of its prefix that the tier
        held.
    """

    gaps: Floats
    input_tokens: Floats
    output_tokens: Floats
    held_blocks: Floats


@dataclass(frozen=True)
class ReuseProfile:
    """Reuse at every pair of candidate sizes, over recent intervals.

    Arrays over pairs have shape (DRAM sizes, SSD sizes).

    Attributes
    ----------
    block_tokens:
        Tokens to a block.
    dram_blocks, ssd_blocks:
        The candidate sizes.
    requests:
        How many requests the means are over, those of earlier intervals counted less.
    input_tokens, output_tokens:
        Mean lengths of prompt and answer.
    found:
        Prompt tokens found per prompt token, by pair and tier (HBM, DRAM, SSD), each tier counting
        only what it adds to those before it.
    computed_tokens:
        Prompt tokens left to compute, per request.
    attended:
        Sum over those tokens of the positions that each attends to, per request.
    written:
        Tokens whose blocks were new to an SSD of each size and were stored, per prompt token.
    sample:
        Recent requests.
    """

    block_tokens: int
    dram_blocks: tuple[int, ...]
    ssd_blocks: tuple[int, ...]
    requests: float
    input_tokens: float
    output_tokens: float
    found: Floats
    computed_tokens: Floats
    attended: Floats
    written: Floats
    sample: RequestSample = field(repr=False)

    def prefix_tokens(self, dram: int, ssd: int) -> tuple[Floats, Floats, Floats]:
        """For each sampled request, what HBM, DRAM and SSD of these sizes add to its prefix.

        Parameters
        ----------
        dram, ssd:
            Positions in ``dram_blocks`` and ``ssd_blocks``.
        """
        held = self.sample.held_blocks * self.block_tokens
        hbm, in_dram = held[:, 0], held[:, 1 + dram]
        in_ssd = held[:, 1 + len(self.dram_blocks) + ssd]
        from_dram = np.maximum(in_dram - hbm, 0.0)
        return hbm, from_dram, np.maximum(in_ssd - np.maximum(hbm, in_dram), 0.0)


class _Requests(NamedTuple):
    """Requests of an interval that is not closed yet."""

    held: Floats
    input_tokens: Floats
    output_tokens: Floats
    arrival_s: Floats


class ReuseSums:
    """Gathers what miniature caches find out (see `greencache.controller.shadow`)."""

    def __init__(
        self,
        block_tokens: int,
        dram_blocks: tuple[int, ...],
        ssd_blocks: tuple[int, ...],
        *,
        half_life_s: float,
        recent: int,
    ) -> None:
        if recent < 2:
            raise InputError(f"the sample keeps 2 requests or more, not {recent}")
        self._block_tokens = block_tokens
        self._drams, self._ssds = dram_blocks, ssd_blocks
        self._half_life_s, self._recent = half_life_s, recent
        pairs = (len(dram_blocks), len(ssd_blocks))
        self._requests = self._inputs = self._outputs = 0.0
        self._found = np.zeros((*pairs, 3))
        self._computed, self._attended = np.zeros(pairs), np.zeros(pairs)
        self._written = np.zeros(len(ssd_blocks))
        tiers = 1 + sum(pairs)
        self._sample = RequestSample(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, tiers)))
        self._open: list[_Requests] = []
        self._last_s: float | None = None

    def add(self, found: Floats, held: Floats, prompts: Prompts) -> None:
        """Count requests.

        Parameters
        ----------
        found:
            Requests by tiers: blocks found, right in the sum.
        held:
            Requests by tiers: blocks of the prefix that the tier held, as good as can be said of
            each request.
        prompts:
            The requests.
        """
        if len(prompts) == 0:
            return
        tokens = prompts.input_tokens.astype(np.float64)
        answers = prompts.output_tokens.astype(np.float64)
        hbm, dram, ssd = self._by_kind(found)
        larger = np.maximum(hbm, dram)
        summed = np.empty_like(self._found)
        summed[..., 0] = hbm.sum()
        summed[..., 1] = np.maximum(dram - hbm, 0.0).sum(axis=0)[:, None]
        # One DRAM size after the other, so that no array is requests by all pairs.
        for i in range(len(self._drams)):
            summed[i, :, 2] = np.maximum(ssd - larger[:, i : i + 1], 0.0).sum(axis=0)
        self._found += summed * self._block_tokens
        self._computed += tokens.sum() - summed.sum(axis=-1) * self._block_tokens
        hbm, dram, ssd = self._by_kind(held * self._block_tokens)
        larger = np.maximum(hbm, dram)
        for i in range(len(self._drams)):
            prefix = np.maximum(ssd, larger[:, i : i + 1])
            # Positions prefix + 1 to tokens, summed: each new token attends to itself as well.
            whole = tokens * (tokens + 1)
            self._attended[i] += (whole[:, None] - prefix * (prefix + 1)).sum(axis=0) / 2
        self._requests += len(tokens)
        self._inputs += tokens.sum()
        self._outputs += answers.sum()
        self._open.append(_Requests(held, tokens, answers, prompts.arrival_s))

    def add_written(self, blocks: Floats) -> None:
        """Count blocks stored, by tier."""
        self._written += blocks[1 + len(self._drams) :] * self._block_tokens

    def _by_kind(self, tiers: Floats) -> tuple[Floats, Floats, Floats]:
        first_ssd = 1 + len(self._drams)
        return tiers[:, :1], tiers[:, 1:first_ssd], tiers[:, first_ssd:]

    def end_interval(self, start_s: float, duration_s: float) -> None:
        """Close an interval: its requests enter the sample, and all sums fade a little."""
        if self._open:
            held, inputs, outputs, arrival_s = map(np.concatenate, zip(*self._open, strict=True))
            self._open = []
            before_s = start_s if self._last_s is None else self._last_s
            gaps_s = np.maximum(np.diff(arrival_s, prepend=before_s), 0.0)
            self._last_s = float(arrival_s[-1])
            closed = RequestSample(gaps_s * (len(gaps_s) / duration_s), inputs, outputs, held)
            pairs = zip(self._sample, closed, strict=True)
            self._sample = RequestSample._make(
                np.concatenate(pair)[-self._recent :] for pair in pairs
            )
        fade = 0.5 ** (duration_s / self._half_life_s)
        self._requests *= fade
        self._inputs *= fade
        self._outputs *= fade
        for sums in (self._found, self._computed, self._attended, self._written):
            sums *= fade

    def profile(self) -> ReuseProfile:
        """The means of what was counted; zero requests if that is nothing.

        Sums fade after an interval is added, all alike: their ratios do not depend on that.
        """
        requests, inputs = max(self._requests, _NONE), max(self._inputs, _NONE)
        return ReuseProfile(
            self._block_tokens,
            self._drams,
            self._ssds,
            self._requests,
            self._inputs / requests,
            self._outputs / requests,
            self._found / inputs,
            self._computed / requests,
            self._attended / requests,
            self._written / inputs,
            self._sample,
        )
