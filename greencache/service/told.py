"""What clients told of single requests, and what shadow caches are shown of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from greencache.client.messages import KEY_BYTES
from greencache.controller.naming import BlockNames
from greencache.controller.prompts import Prompts

__all__ = ["Request", "handed_over", "likely_tokens"]


@dataclass(slots=True)
class Request:
    """One of a client's, as far as is known."""

    arrived_s: float
    teller: Hashable = None
    """Its client, if the client gave it no number."""
    keys: bytes | None = None
    """None until its prompt is told of; empty again once the shadow caches know it."""
    reusable: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    hit_tokens: Mapping[str, float] = field(default_factory=dict)
    told: bool = False
    """Whether its client tells what becomes of it."""
    ended: bool = False
    counted: bool = False
    """Whether it was as one that came."""
    finished: bool = False
    """Whether it was counted as one that ended."""
    handed_over: bool = False
    """Whether the shadow caches know its prompt."""

    @property
    def finished_s(self) -> float:
        """When its answer ended; infinite if it has not."""
        if not self.ended or self.ttft_s is None:
            return math.inf
        return self.arrived_s + self.ttft_s + (self.tpot_s or 0.0) * self.later_tokens

    @property
    def later_tokens(self) -> int:
        """Output tokens after the first."""
        return max((self.output_tokens or 1) - 1, 0)

    def all_known(self, *, awaited: bool) -> bool:
        """Whether nothing more can come of it that counts.

        Parameters
        ----------
        awaited:
            Whether its client is going to tell of its end.
        """
        without_answer = self.ended and self.ttft_s is None
        return self.handed_over and (self.finished or without_answer or not awaited)


def likely_tokens(full_blocks: int, block_tokens: int) -> int:
    """Tokens of a prompt of so many full blocks: half of another one."""
    return full_blocks * block_tokens + max(block_tokens // 2, 1)


def handed_over(
    requests: Sequence[Request],
    block_tokens: int,
    since_s: float,
    until_s: float,
    *,
    usual_ttft_s: float,
    usual_output_tokens: float,
) -> Callable[[BlockNames], Prompts]:
    """Prompts as shadow caches take them, as they stand now; their keys are not kept any longer.

    Of clients that tell of first tokens, a prompt without one was not computed; of others it is
    taken to have been after the usual time.

    Parameters
    ----------
    requests:
        In the order of their arrival, of prompts that are known.
    block_tokens:
        Tokens to a block.
    since_s, until_s:
        The interval.
    usual_ttft_s, usual_output_tokens:
        Of requests of which nobody tells.

    Returns
    -------
    Callable
        Names their blocks, which takes long, and may run in a thread.
    """
    keys = [one.keys or b"" for one in requests]
    full = np.array([len(each) // KEY_BYTES for each in keys], np.int64)
    tokens = [
        one.prompt_tokens or likely_tokens(int(blocks), block_tokens)
        for one, blocks in zip(requests, full, strict=True)
    ]
    arrival_s = np.array([one.arrived_s for one in requests], np.float64)
    after_s = [
        one.ttft_s if one.ttft_s is not None else np.nan if one.told else usual_ttft_s
        for one in requests
    ]
    usual = max(round(usual_output_tokens), 1)
    unnamed = Prompts(
        ids=np.zeros(0, np.int32),
        starts=np.cumsum(full) - full,
        full=full,
        reusable=np.array([one.reusable for one in requests], np.int64),
        input_tokens=np.array(tokens, np.int64),
        output_tokens=np.array([one.output_tokens or usual for one in requests], np.int64),
        arrival_s=np.maximum(arrival_s, since_s),  # what was told late; time does not go back
        computed_s=arrival_s + np.array(after_s, np.float64),
    )
    for one in requests:
        one.keys, one.handed_over = b"", True
    return partial(_named, unnamed, b"".join(keys), until_s)


def _named(prompts: Prompts, keys: bytes, until_s: float, names: BlockNames) -> Prompts:
    return replace(prompts, ids=names.ids(keys, until_s))
