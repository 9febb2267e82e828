"""What the models were off by lately, and how that is made up for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Calibration"]

_MOST = 2.0
"""Models that are off by more than this factor are not trusted to be mended by one."""

_MOST_SHIFT = 2.0
"""In log odds: at most from 50 % to 88 %."""

_FEW = 50
"""Requests with which an interval's attainment counts half: its log odds are then off by about
0.4 in the mean by chance alone."""


def _logit(share: float, count: float) -> float:
    """Log odds of a share seen over ``count`` requests; finite, by half a request more each way."""
    met = share * count
    return math.log((met + 0.5) / (count - met + 0.5))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Corrections learned from what was predicted and measured for the sizes that ran.

    Each is a mean over intervals, weighted exponentially.

    Attributes
    ----------
    work:
        Factor on the seconds that prompts take.
    energy:
        Factor on the joules that they take.
    shift:
        Added to the log odds of meeting the latency limits.
    gain:
        Weight of the newest interval.
    """

    work: float = 1.0
    energy: float = 1.0
    shift: float = 0.0
    gain: float = 0.1

    def with_energy(self, predicted_j: float, measured_j: float) -> Calibration:
        """Learn from the prompts' energy in an interval; ``predicted_j`` as without `energy`."""
        return replace(self, energy=self._towards(self.energy, predicted_j, measured_j))

    def with_busy(
        self, predicted_prefill_s: float, busy_s: float, duration_s: float, decoding: float
    ) -> Calibration:
        """Learn from an interval's busy time.

        An engine is busy while it computes prompts, and a share ``decoding`` of the other time
        while answers run: ``busy = P + (duration - P) * decoding``. That gives ``P``. The more it
        decodes the less this says; it is weighted by ``1 - decoding``.

        Parameters
        ----------
        predicted_prefill_s:
            Time with prompts as predicted without `work`, for one engine.
        busy_s, duration_s:
            Measured, for one engine.
        decoding:
            Share of the time without prompts in which answers run.
        """
        idle = 1.0 - decoding
        if idle <= 0:
            return self
        prefill_s = max(busy_s - decoding * duration_s, 0.0) / idle
        return replace(
            self, work=self._towards(self.work, predicted_prefill_s, prefill_s, weight=idle)
        )

    def with_attainment(self, predicted: float, measured: float, requests: int) -> Calibration:
        """Learn from how many met the limits; ``predicted`` as without `shift`."""
        if requests == 0 or not (math.isfinite(predicted) and math.isfinite(measured)):
            return self
        off = _logit(measured, requests) - _logit(predicted, requests)
        weight = self.gain * requests / (requests + _FEW)
        shift = self.shift + weight * (off - self.shift)
        return replace(self, shift=max(-_MOST_SHIFT, min(_MOST_SHIFT, shift)))

    def _towards(
        self, factor: float, predicted: float, measured: float, weight: float = 1.0
    ) -> float:
        if predicted <= 0 or measured <= 0:
            return factor
        ratio = max(1 / _MOST, min(_MOST, measured / predicted))
        return factor + self.gain * weight * (ratio - factor)
