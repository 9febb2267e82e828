"""What the models were off by lately, and how that is made up for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration"]

Floats = NDArray[np.float64]

_MOST = 2.0
"""Models that are off by more than this factor are not trusted to be mended by one."""

_MOST_SHIFT = 2.0
"""In log odds: at most from 50 % to 88 %."""

_CLUMPING = 30.0
"""Variance of misses over their expectation as long as few were seen. Days of conversation and of
documents ended between 9 and 56 (Llama 3.1 70B on 4xL40, load ``m-large``, seeds 8 and 9)."""

_CLUMPING_BELIEF = 200.0
"""Misses that would have to be expected for what was seen to count as much."""

_CLUMPING_GAIN = 0.01
"""Bursts are rare: they are counted over days."""

_BELIEF = 50.0
"""Requests that would have to be seen for the measured attainment to count as much as the model,
if each were late by itself: so many have a standard error of 5 points at 85 %, and the model is off
by more where documents run at a high load (docs/results.md). As they are late together, it takes
`Calibration.clumping` times as many."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Corrections learned from what was predicted and measured for the sizes that ran.

    Attributes
    ----------
    work:
        Factor on the seconds that prompts take; a mean over intervals.
    energy:
        Factor on the joules that they take; a mean over intervals.
    requests, predicted, met:
        Requests, and those in time as predicted and as measured; sums over intervals.
    gain:
        Weight of the newest interval in the means, and what older ones lose of theirs in the sums.
    expected_missed, squared_error:
        Misses that plans expected, and the squares of what they were off by; sums over intervals.
    """

    work: float = 1.0
    energy: float = 1.0
    requests: float = 0.0
    predicted: float = 0.0
    met: float = 0.0
    gain: float = 0.05
    expected_missed: float = 0.0
    squared_error: float = 0.0

    @property
    def clumping(self) -> float:
        """Variance of misses over their expectation: 1 if each request is late by itself."""
        seen = self.squared_error + _CLUMPING * _CLUMPING_BELIEF
        return max(1.0, seen / (self.expected_missed + _CLUMPING_BELIEF))

    @property
    def shift(self) -> float:
        """Added to the log odds of being in time.

        The log odds of the measured share less those of the predicted one, both over all intervals
        together and with some requests more that are as predicted.
        """
        if self.requests == 0:
            return 0.0
        belief = _BELIEF * self.clumping
        total = self.requests + belief
        share = min(max(self.predicted / self.requests, 0.5 / total), 1 - 0.5 / total)
        seen = min(max((self.met + belief * share) / total, 0.5 / total), 1 - 0.5 / total)
        shift = math.log(seen / (1 - seen)) - math.log(share / (1 - share))
        return max(-_MOST_SHIFT, min(_MOST_SHIFT, shift))

    def shifted(self, share: Floats) -> Floats:
        """Shares of requests with `shift` added to their log odds."""
        odds = math.exp(self.shift)
        return share * odds / (1 - share + share * odds)

    def with_prompts(
        self,
        predicted_s: float,
        measured_s: float,
        predicted_j: float,
        measured_j: float,
    ) -> Calibration:
        """Learn from the seconds and joules that prompts took; predicted as with factors of 1."""
        return replace(
            self,
            work=self._towards(self.work, predicted_s, measured_s),
            energy=self._towards(self.energy, predicted_j, measured_j),
        )

    def with_attainment(self, predicted: float, measured: float, requests: int) -> Calibration:
        """Learn from the share in time; ``predicted`` as without `shift`."""
        if requests == 0 or not (math.isfinite(predicted) and math.isfinite(measured)):
            return self
        keep = 1 - self.gain
        return replace(
            self,
            requests=keep * self.requests + requests,
            predicted=keep * self.predicted + predicted * requests,
            met=keep * self.met + measured * requests,
        )

    def with_misses(self, planned: float, measured: float, requests: int) -> Calibration:
        """Learn how misses scatter around a plan that expected the share ``planned`` in time."""
        if requests == 0 or not (math.isfinite(planned) and math.isfinite(measured)):
            return self
        keep = 1 - _CLUMPING_GAIN
        error = (planned - measured) * requests
        return replace(
            self,
            expected_missed=keep * self.expected_missed + (1 - planned) * requests,
            squared_error=keep * self.squared_error + error**2,
        )

    def _towards(self, factor: float, predicted: float, measured: float) -> float:
        if predicted <= 0 or measured <= 0:
            return factor
        ratio = max(1 / _MOST, min(_MOST, measured / predicted))
        return factor + self.gain * (ratio - factor)
