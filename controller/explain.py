"""Says in one line why the controller decided as it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.controller.sizes import Sizes
from greencache.quantities import HOUR_S, format_bytes

__all__ = ["Facts", "change_text", "explain", "explain_growth"]

_ALIKE = 0.2
"""An intensity within this share of the present one is called the same."""

_FLAT = 0.005
"""A reuse curve is called flat where more capacity adds less than this share of prompt tokens."""


@dataclass(frozen=True)
class Facts:
    """What a decision rests on.

    Attributes
    ----------
    gco2_per_kwh:
        Expected carbon intensity in each interval to come.
    interval_s:
        Length of an interval.
    ssd_bytes, hit_rates:
        Candidate sizes of the SSD, and prompt tokens found in any tier per prompt token at each of
        them, with the DRAM decided on.
    attained, target:
        Expected share of the horizon's requests within the SLO, and what is promised.
    saved, of_grams:
        Grams that the plan saves over the horizon against keeping the present size, and grams of
        keeping it; None if that is not sure enough to keep the SLO.
    less_late:
        Requests of the horizon that are in time beyond those with the present size.
    """

    gco2_per_kwh: NDArray[np.float64]
    interval_s: float
    ssd_bytes: tuple[int, ...]
    hit_rates: NDArray[np.float64]
    attained: float
    target: float
    saved: float | None
    of_grams: float | None
    less_late: float


def _size(size: int) -> str:
    return format_bytes(size) if size else "0"


def change_text(before: Sizes, after: Sizes) -> str:
    """What changes, as ``SSD 12 TB to 6 TB``; what stays is left out."""
    names = ("DRAM", "SSD")
    parts = [
        f"{name} {_size(old)} to {_size(new)}"
        for name, old, new in zip(names, before, after, strict=True)
        if old != new
    ]
    return ", ".join(parts)


def _intensity(facts: Facts) -> str:
    now = float(facts.gco2_per_kwh[0])
    differs = np.abs(facts.gco2_per_kwh - now) > _ALIKE * max(now, 1.0)
    if not differs.any():
        hours = len(differs) * facts.interval_s / HOUR_S
        return f"intensity about {now:.0f} g/kWh for {hours:.0f} h and more"
    change = int(np.argmax(differs))
    hours = change * facts.interval_s / HOUR_S
    return f"intensity {now:.0f} g/kWh for {hours:.3g} h, then {facts.gco2_per_kwh[change]:.0f}"


def _curve(facts: Facts) -> str:
    rates = facts.hit_rates
    if rates[-1] - rates[0] < _FLAT:
        return f"SSD adds {max(rates[-1] - rates[0], 0):.1%} of prompt tokens at most"
    flat = int(np.argmax(rates >= rates[-1] - _FLAT))
    if flat == len(rates) - 1:
        return f"reuse curve still rises at {_size(facts.ssd_bytes[-1])} of SSD"
    return f"reuse curve flat past {_size(facts.ssd_bytes[flat])} of SSD"


def _slack(facts: Facts) -> str:
    points = (facts.attained - facts.target) * 100
    return f"SLO slack {points:.0f} points" if points >= 0 else f"SLO short by {-points:.0f} points"


def explain(facts: Facts, before: Sizes, after: Sizes, kept_because: str | None = None) -> str:
    """One line: what changes, what is expected, what it saves.

    Parameters
    ----------
    facts:
        What the decision rests on.
    before, after:
        Sizes until now and from now on.
    kept_because:
        Why they are the same, if a plan said otherwise.
    """
    if before == after:
        what = "keep " + (kept_because or "the present sizes, the best expected")
    else:
        what = change_text(before, after)
    parts = [_intensity(facts), _curve(facts), _slack(facts)]
    if before != after:
        if facts.saved is None or not facts.of_grams:
            parts.append("with the present sizes the SLO is not sure enough")
        elif facts.saved >= 0:
            parts.append(f"saves {facts.saved / facts.of_grams:.2%} against no change")
        else:
            cost = f"costs {-facts.saved / facts.of_grams:.2%} against no change"
            parts.append(f"{cost} for {facts.less_late:.0f} requests less late")
    return f"{what}: {', '.join(parts)}"


def explain_growth(before: Sizes, after: Sizes, began_s: float, waits_s: float) -> str:
    """One line: what grows within an interval, and why.

    Parameters
    ----------
    before, after:
        Sizes until now and from now on.
    began_s, waits_s:
        Seconds of work that waited when the interval began, and that wait now.
    """
    grew = f"waiting work grew from {_seconds(began_s)} to {_seconds(waits_s)} s"
    return f"{change_text(before, after)}: {grew}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"
