"""What an engine did, interval by interval: all that the controller knows of the past.

A `Window` is filled by whoever watches the engine: the replay from the simulated engine's bins and
requests, a daemon from its connector and its meters. `Telemetry` keeps the last ones in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError
from greencache.quantities import HOUR_S

__all__ = ["Spread", "Telemetry", "Window"]

_LONGEST = 24 * 7 * 8
"""Intervals kept unless said otherwise: eight weeks of hours, enough for a weekly season."""


class Spread(NamedTuple):
    """A latency over the requests of a window, in seconds; NaN where there were none."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float

    @classmethod
    def of(cls, values_s: NDArray[np.float64]) -> Spread:
        """Summarise latencies."""
        if len(values_s) == 0:
            return cls(np.nan, np.nan, np.nan, np.nan)
        return cls(float(values_s.mean()), *np.quantile(values_s, (0.5, 0.9, 0.99)).tolist())


@dataclass(frozen=True)
class Window:
    """What happened in one interval, over all engines together.

    Attributes
    ----------
    start_s, duration_s:
        When, on the caller's clock.
    arrivals, prompt_tokens, output_tokens:
        Requests that arrived, and the tokens that they asked for; answers as far as known.
    hit_tokens:
        Prompt tokens of requests started in the interval that each tier served, by ``hbm``,
        ``dram`` and ``ssd``, each counting only what it added to those before it.
    finished, within_slo:
        Requests that ended in the interval, whenever they came, and those that met every limit.
    ttft, tpot:
        Latencies of these requests.
    busy_s, gpu_j:
        Time in which engines stepped, and energy of all GPUs, idle power included.
    prefill_tokens, prefill_s, prefill_j:
        Prompt tokens computed, and the time and energy that they added to what else the engines
        did; 0 where nobody measures them: the models are not corrected by them then.
    read_bytes, written_bytes, declined_bytes:
        SSD traffic, and what was not written, by admission or because writes lagged.
    held_blocks:
        HBM blocks that running requests kept from being used as cache: the most in each minute, in
        the mean over minutes. What a peak evicts is not back when the peak is over.
    backlog_s:
        Work left unserved at the end of the interval, in seconds of one engine.
    capacity_bytes, used_bytes:
        Size and content of ``dram`` and ``ssd`` of one engine at the end of the interval.
    """

    start_s: float
    duration_s: float
    arrivals: int
    prompt_tokens: int
    output_tokens: int
    hit_tokens: Mapping[str, float]
    finished: int
    within_slo: int
    ttft: Spread
    tpot: Spread
    busy_s: float
    gpu_j: float
    prefill_tokens: float
    prefill_s: float
    prefill_j: float
    read_bytes: float
    written_bytes: float
    declined_bytes: float
    held_blocks: float
    backlog_s: float
    capacity_bytes: Mapping[str, float] = field(default_factory=dict)
    used_bytes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.start_s) and 0 < self.duration_s < np.inf):
            raise InputError(
                f"a telemetry window needs a start and a duration above 0, not {self.start_s} s and"
                f" {self.duration_s} s"
            )
        if not 0 <= self.within_slo <= self.finished:
            raise InputError(
                f"{self.within_slo} of {self.finished} finished requests within the SLO cannot be"
            )

    @classmethod
    def empty(cls, start_s: float, duration_s: float) -> Window:
        """An interval in which nothing happened."""
        none = Spread(np.nan, np.nan, np.nan, np.nan)
        return cls(
            start_s=start_s,
            duration_s=duration_s,
            arrivals=0,
            prompt_tokens=0,
            output_tokens=0,
            hit_tokens={},
            finished=0,
            within_slo=0,
            ttft=none,
            tpot=none,
            busy_s=0.0,
            gpu_j=0.0,
            prefill_tokens=0.0,
            prefill_s=0.0,
            prefill_j=0.0,
            read_bytes=0.0,
            written_bytes=0.0,
            declined_bytes=0.0,
            held_blocks=0.0,
            backlog_s=0.0,
        )

    @property
    def end_s(self) -> float:
        """When the interval ended."""
        return self.start_s + self.duration_s

    @property
    def requests_per_s(self) -> float:
        """Arrivals per second."""
        return self.arrivals / self.duration_s

    @property
    def attainment(self) -> float:
        """Share of the finished requests that met every limit; NaN if none finished."""
        return self.within_slo / self.finished if self.finished else np.nan

    @property
    def hit_rate(self) -> float:
        """Prompt tokens found in any tier, over all prompt tokens; NaN without any."""
        found = float(sum(self.hit_tokens.values()))
        return found / self.prompt_tokens if self.prompt_tokens else np.nan


class Telemetry:
    """The last windows, one for each interval, in the order of time.

    Parameters
    ----------
    interval_s:
        Length of an interval; every window has to begin at a whole number of them after the first.
    longest:
        How many intervals are kept at most, gaps included.
    earlier_loads:
        Requests that arrived in each interval up to the first window, as far as that is known from
        elsewhere: a service has mostly run before somebody sizes its cache.

    Raises
    ------
    InputError
        If ``interval_s`` or ``longest`` is not usable.
    """

    def __init__(
        self,
        interval_s: float = HOUR_S,
        longest: int = _LONGEST,
        *,
        earlier_loads: NDArray[np.float64] | None = None,
    ) -> None:
        if not 0 < interval_s < np.inf or longest < 1:
            raise InputError(
                f"telemetry keeps 1 interval or more, of more than 0 s: {longest} of {interval_s} s"
            )
        self.interval_s = interval_s
        self._windows: deque[Window] = deque()
        self._longest = longest
        self._earlier_loads = np.zeros(0) if earlier_loads is None else earlier_loads

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def windows(self) -> list[Window]:
        """All that are kept, the oldest first."""
        return list(self._windows)

    @property
    def latest(self) -> Window | None:
        """The newest one."""
        return self._windows[-1] if self._windows else None

    def _index(self, window: Window) -> int:
        """Which interval a window is of, counted from the first one that is kept."""
        return round((window.start_s - self._windows[0].start_s) / self.interval_s)

    def add(self, window: Window) -> None:
        """Append a window; what is then too old is forgotten.

        Raises
        ------
        InputError
            If it does not begin at a whole interval after the last one.
        """
        if self._windows:
            first, last = self._windows[0], self._windows[-1]
            at = (window.start_s - first.start_s) / self.interval_s
            if window.start_s <= last.start_s or abs(at - round(at)) > 1e-6:
                raise InputError(
                    f"a window from {window.start_s:g} s does not follow one from "
                    f"{last.start_s:g} s in intervals of {self.interval_s:g} s"
                )
        self._windows.append(window)
        while self._index(window) >= self._longest:
            self._windows.popleft()
            self._earlier_loads = np.zeros(0)  # they would no longer end where the first begins

    def extend(self, windows: Iterable[Window]) -> None:
        """Append several."""
        for window in windows:
            self.add(window)

    def loads(self) -> NDArray[np.float64]:
        """Requests that arrived in each interval up to the last one; NaN for gaps.

        From the first one kept on, or with what is known of the time before.
        """
        if not self._windows:
            return self._earlier_loads
        loads = np.full(self._index(self._windows[-1]) + 1, np.nan)
        for window in self._windows:
            loads[self._index(window)] = window.requests_per_s * self.interval_s
        return np.concatenate([self._earlier_loads, loads])
