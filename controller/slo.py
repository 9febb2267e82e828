"""What users were promised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slo"]


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits on latency, and the share of requests that must meet both."""

    ttft_s: float
    tpot_s: float
    target: float

    def kept(self, ttft_s: NDArray[np.float64], tpot_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which requests meet both limits; a TPOT of NaN, of an answer of one token, does."""
        return np.asarray((ttft_s <= self.ttft_s) & ~(tpot_s > self.tpot_s))
