"""Prompts as shadow caches are fed with them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prompts"]


@dataclass(frozen=True)
class Prompts:
    """Requests in the order of their arrival.

    Attributes
    ----------
    ids:
        Block ids of all requests, chained: an id stands for a block and all before it.
    starts:
        Where each request begins in ``ids``.
    full, reusable:
        Its full blocks, and those of them that may hit.
    input_tokens, output_tokens:
        Lengths of prompt and answer.
    arrival_s:
        When it came.
    computed_s:
        When its prompt was computed and stored.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    full: NDArray[np.int64]
    reusable: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    arrival_s: NDArray[np.float64]
    computed_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.full)

    @classmethod
    def none(cls) -> Prompts:
        """No requests."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(np.zeros(0, np.int32), whole, whole, whole, whole, whole, real, real)

    def select(self, chosen: NDArray[np.bool_]) -> Prompts:
        """Only those for which ``chosen`` is true, with only their own ids."""
        full = self.full[chosen]
        starts = np.cumsum(full) - full
        within = np.arange(int(full.sum())) - np.repeat(starts, full)
        ids = self.ids[np.repeat(self.starts[chosen], full) + within]
        others = [getattr(self, field.name)[chosen] for field in fields(self)[3:]]
        return Prompts(ids, starts, full, *others)

    def followed_by(self, later: Prompts) -> Prompts:
        """These and then others."""
        both = {
            field.name: np.concatenate([getattr(self, field.name), getattr(later, field.name)])
            for field in fields(self)
        }
        both["starts"] = np.concatenate([self.starts, later.starts + len(self.ids)])
        return Prompts(**both)

    def events(
        self, looked_up: int, until_s: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What happens to them, in the order of time, and when.

        Request ``r`` is looked up (``r``) at its arrival, but for the first ``looked_up`` that have
        been, and stored (``~r``) once it is computed, if that is by ``until_s``. What is looked up
        at the same moment comes first.
        """
        arriving = np.arange(looked_up, len(self))
        stored = np.flatnonzero(self.computed_s <= until_s)
        what = np.concatenate([arriving, ~stored])
        when_s = np.concatenate([self.arrival_s[arriving], self.computed_s[stored]])
        order = np.argsort(when_s, kind="stable")
        return what[order], when_s[order]
