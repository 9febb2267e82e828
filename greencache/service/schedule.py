"""When live control looks: at whole intervals since the clock's zero, and now and then within."""

from __future__ import annotations

import math

from greencache.controller.loop import look_s
from greencache.settings import ControlSettings

__all__ = ["Schedule"]

_LATE = 0.1
_LATE_S = 30.0
"""By what share of an interval, or by how long, its end may be missed; later it was slept through.
A meter that does not answer is waited for 10 s."""


class Schedule:
    """The interval that goes on, of which the first may have begun before.

    Parameters
    ----------
    control:
        How long intervals are, and how often to look in each.
    now_s:
        When it begins.

    Attributes
    ----------
    began_s:
        When this interval did, as far as it was seen.
    """

    def __init__(self, control: ControlSettings, now_s: float) -> None:
        self.began_s = now_s
        self._control = control
        self._looked = self._look(now_s)

    @property
    def ends_s(self) -> float:
        """When the interval ends."""
        return look_s(self._control, self._interval + 1, 0)

    @property
    def next_look_s(self) -> float:
        """When to look next: within the interval, or at its end."""
        look = self._looked + 1
        if look == self._control.looks:
            return self.ends_s
        return look_s(self._control, self._interval, look)

    def slept(self, now_s: float) -> bool:
        """Whether the interval's end was slept through.

        Counters and meters that are read now are of a longer time than the interval, then.
        """
        return now_s > self.ends_s + max(_LATE * self._control.interval, _LATE_S)

    def is_whole(self, until_s: float) -> bool:
        """Whether what was seen until then is the whole interval, and no more."""
        least_s = self._control.interval * (1 - 1e-6)
        return until_s == self.ends_s and until_s - self.began_s >= least_s

    def next_interval(self, now_s: float) -> None:
        """Go on to the interval after this one, or to the rest of that in which one woke up."""
        self.began_s = now_s if self.slept(now_s) else self.ends_s
        self._looked = self._look(now_s)

    def skip(self, seconds: float) -> None:
        """The clock was moved forward: the interval goes on as the rest of a later one."""
        self.began_s += seconds
        self._looked = self._look(self.began_s)

    def looked(self, now_s: float) -> float | None:
        """The last time to look that has come within the interval; None if it was told before."""
        look = self._look(now_s)
        if look <= self._looked:
            return None
        self._looked = look
        return look_s(self._control, self._interval, look)

    @property
    def _interval(self) -> int:
        """Which one it is since the clock's zero."""
        return math.floor(self.began_s / self._control.interval + 1e-9)

    def _look(self, now_s: float) -> int:
        """Which of the interval's looks was the last up to now."""
        since = now_s / self._control.interval - self._interval
        return min(math.floor(since * self._control.looks + 1e-6), self._control.looks - 1)
