"""How live control stands: for ``greencache status``, and for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from greencache.carbon import J_PER_KWH
from greencache.durations import Durations
from greencache.metrics import (
    CARBON,
    CONTROL_FAILURES,
    DECISIONS,
    ENERGY,
    FALLBACKS,
    GROWTHS,
    INTENSITY,
    PLAN_SOLVE,
    SLO_ATTAINMENT,
    Sample,
)
from greencache.service.causes import FALLBACK_KINDS, PARTS, at_zero
from greencache.service.control import LiveControl

__all__ = ["ControlStatus", "control_samples"]


@dataclass(frozen=True)
class ControlStatus:
    """What the controller did and knows, since the daemon began.

    Attributes
    ----------
    state:
        ``off``, ``waiting`` (for an engine that stores something), ``learning`` or ``deciding``.
    because:
        Why it is off, or what it waits for.
    engine:
        What it takes the engine to be.
    zone, gco2_per_kwh, intensity_fallback:
        The grid, its intensity that is reckoned with now, and what that rests on if not on news.
    sizes_bytes:
        What tiers should have.
    decided, grown, last_reason, last_decided_s, next_s:
        How often sizes were chosen, and how often within an interval because work waited; why, and
        when, in seconds since 1970; and when an interval ends next.
    fallbacks, failures:
        Decisions made otherwise than planned, and what failed; by kind.
    accounted_s:
        Time that energy and grams are of.
    energy_kwh, energy_sources:
        By component, PUE not included; and what measured each, or ``model``.
    operational_g, embodied_g, scope:
        Grams by component, PUE included; the embodied ones as the scope says.
    requests, finished, within_slo:
        Requests that came, that ended, and that ended in time; up to the last interval's end.
    interval_attainment:
        Share in time of those that ended in the last interval; None if none did.
    asked_tokens, hit_tokens:
        Prompt tokens asked for, and those that each tier had.
    lost:
        Of what nothing was learned, by why.
    took:
        How long decisions took.
    """

    state: str
    because: str = ""
    engine: str = ""
    zone: str = ""
    gco2_per_kwh: float | None = None
    intensity_fallback: str | None = None
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    decided: int = 0
    grown: int = 0
    last_reason: str = ""
    last_decided_s: float | None = None
    next_s: float | None = None
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    accounted_s: float = 0.0
    energy_kwh: Mapping[str, float] = field(default_factory=dict)
    energy_sources: Mapping[str, str] = field(default_factory=dict)
    operational_g: Mapping[str, float] = field(default_factory=dict)
    embodied_g: Mapping[str, float] = field(default_factory=dict)
    scope: str = ""
    requests: int = 0
    finished: int = 0
    within_slo: int = 0
    interval_attainment: float | None = None
    asked_tokens: int = 0
    hit_tokens: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    took: Durations = field(default_factory=Durations, repr=False)

    @classmethod
    def of(
        cls,
        control: LiveControl,
        *,
        zone: str = "",
        gco2_per_kwh: float | None = None,
        intensity_fallback: str | None = None,
    ) -> ControlStatus:
        """How a loop stands that runs."""
        decision = control.decisions[-1] if control.decisions else None
        carbon, counted = control.accounts.report(), control.requests.counted
        learning = decision is None or decision.fallback == "learning"
        window = control.window
        return cls(
            state="learning" if learning else "deciding",
            engine=control.name,
            zone=zone,
            gco2_per_kwh=gco2_per_kwh,
            intensity_fallback=intensity_fallback,
            sizes_bytes={"dram": control.sizes.dram_bytes, "ssd": control.sizes.ssd_bytes},
            decided=control.decided,
            grown=control.grown,
            last_reason=decision.reason if decision is not None else "",
            last_decided_s=decision.now_s if decision is not None else None,
            next_s=control.schedule.ends_s,
            fallbacks=dict(control.pilot.controller.fallbacks),
            failures=dict(control.failures),
            accounted_s=control.accounts.seconds,
            energy_kwh=carbon.energy_kwh,
            energy_sources=dict(control.accounts.sources),
            operational_g=carbon.operational_g,
            embodied_g=carbon.embodied_g[control.accounts.scope],
            scope=control.accounts.scope.value,
            requests=counted.requests,
            finished=counted.finished,
            within_slo=counted.within_slo,
            interval_attainment=window.attainment if window and window.finished else None,
            asked_tokens=counted.asked_tokens,
            hit_tokens=dict(counted.hit_tokens),
            lost=dict(counted.lost),
            took=control.took.copy(),
        )

    @property
    def grams(self) -> float:
        """All of it."""
        return sum(self.operational_g.values()) + sum(self.embodied_g.values())

    def as_json(self) -> dict[str, Any]:
        """The entry ``control`` of ``greencache status --json``."""
        fields = asdict(self)
        del fields["took"]
        took = {"decisions": len(self.took), "total_s": self.took.total_s}
        return {**fields, "grams": self.grams, "took": took}


def control_samples(status: ControlStatus) -> Iterator[Sample]:
    """The same for Prometheus."""
    for kind, grams in (("operational", status.operational_g), ("embodied", status.embodied_g)):
        for component, value in grams.items():
            yield Sample(CARBON, value, (kind, component))
    for component, kwh in status.energy_kwh.items():
        yield Sample(ENERGY, kwh * J_PER_KWH, (component,))
    if status.gco2_per_kwh is not None:
        yield Sample(INTENSITY, status.gco2_per_kwh, (status.zone,))
    if status.interval_attainment is not None:
        yield Sample(SLO_ATTAINMENT, status.interval_attainment, ("both",))
    yield Sample(DECISIONS, status.decided)
    yield Sample(GROWTHS, status.grown)
    yield from at_zero(FALLBACKS, FALLBACK_KINDS)
    for kind, count in status.fallbacks.items():
        yield Sample(FALLBACKS, count, (kind,))
    yield from at_zero(CONTROL_FAILURES, PARTS)
    for part, count in status.failures.items():
        yield Sample(CONTROL_FAILURES, count, (part,))
    yield Sample(PLAN_SOLVE, status.took)
