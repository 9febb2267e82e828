"""Plans: what storage a run may use, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from greencache.bench.accounting import Installed
from greencache.controller.sizes import Candidates, Sizes
from greencache.errors import InputError, QuantityError, UnknownNameError
from greencache.quantities import format_bytes, parse_bytes

__all__ = ["Plan", "any_steered", "parse_plans", "runs_in_hindsight"]

_NAMES = ("none", "hbm-only", "full", "static:SIZE", "best-static", "greencache", "oracle")

_STEERED = ("greencache", "oracle")

_MOST_SEQUENCES = 256
"""Sequences of sizes that an oracle tries one by one, where there are no more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run may use.

    ``none``
        Recompute everything, not even the engine's own prefix cache: a bound.
    ``hbm-only``
        The engine's own prefix cache and nothing else: what users have today.
    ``full``
        All DRAM and SSD installed, always.
    ``static:SIZE``
        So much SSD and all the DRAM; ``static:DRAM+SSD`` sets both.
    ``best-static``
        The valid fixed size with the least grams per output token, known only in hindsight.
    ``greencache``
        The sizes that the controller chooses, interval after interval, from what it has seen.
    ``oracle``
        In hindsight the best of all fixed sizes and of a controller whose forecasts are perfect;
        of all sequences of sizes, where they are few enough to try.
    """

    name: str
    reuse_hbm: bool = True
    dram_bytes: int = 0
    ssd_bytes: int = 0
    hindsight: bool = False
    """Whether it chooses among several runs, knowing how they end."""
    steered: bool = False
    """Whether the controller may change its sizes."""
    schedule: tuple[Sizes, ...] = ()
    """Sizes for each interval, one after the other; the last one stays."""

    @property
    def largest_tier_bytes(self) -> int:
        """Capacity of the larger of both tiers."""
        return max(self.dram_bytes, self.ssd_bytes)


def _static(text: str, installed: Installed) -> Plan:
    sizes = text.removeprefix("static:").split("+")
    try:
        ssd_bytes = parse_bytes(sizes[-1])
        dram_bytes = parse_bytes(sizes[0]) if len(sizes) == 2 else installed.dram_bytes
    except QuantityError as fault:
        raise QuantityError(f"plan {text}: {fault}") from None
    if len(sizes) > 2:
        raise InputError(f"plan {text!r}: write static:SSD or static:DRAM+SSD")
    if dram_bytes > installed.dram_bytes or ssd_bytes > installed.ssd_bytes:
        raise InputError(
            f"plan {text}: more than the {format_bytes(installed.dram_bytes)} of DRAM and "
            f"{format_bytes(installed.ssd_bytes)} of SSD installed; raise --dram or --ssd"
        )
    return Plan(text, dram_bytes=dram_bytes, ssd_bytes=ssd_bytes)


def parse_plans(text: str, installed: Installed) -> list[Plan]:
    """Read a comma-separated list of plans; the same plan twice is taken once.

    Raises
    ------
    UnknownNameError
        If one is not a plan.
    InputError
        If a size does not parse or exceeds what is installed, or there is no plan.
    """
    fixed = {
        "none": Plan("none", reuse_hbm=False),
        "hbm-only": Plan("hbm-only"),
        "full": Plan("full", dram_bytes=installed.dram_bytes, ssd_bytes=installed.ssd_bytes),
        "best-static": Plan(
            "best-static",
            dram_bytes=installed.dram_bytes,
            ssd_bytes=installed.ssd_bytes,
            hindsight=True,
        ),
        "greencache": Plan(
            "greencache",
            dram_bytes=installed.dram_bytes,
            ssd_bytes=installed.ssd_bytes,
            steered=True,
        ),
        "oracle": Plan(
            "oracle",
            dram_bytes=installed.dram_bytes,
            ssd_bytes=installed.ssd_bytes,
            hindsight=True,
            steered=True,
        ),
    }
    plans: dict[str, Plan] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name.startswith("static:"):
            plans[name] = _static(name, installed)
        elif name in fixed:
            plans[name] = fixed[name]
        else:
            raise UnknownNameError("plan", name, _NAMES)
    if not plans:
        raise InputError(f"name at least one plan: {', '.join(_NAMES)}")
    return list(plans.values())


def any_steered(text: str) -> bool:
    """Whether a list of plans has one whose run depends on all that the controller looks at."""
    return any(name.strip() in _STEERED for name in text.split(","))


def runs_in_hindsight(plan: Plan, candidates: Candidates, intervals: int) -> list[Plan]:
    """What a plan in hindsight chooses from: fixed sizes, smallest first, and what an oracle adds.

    Parameters
    ----------
    plan:
        The plan.
    candidates:
        Sizes to choose from.
    intervals:
        How often an oracle may choose.
    """
    pairs = candidates.pairs()
    fixed = [
        replace(plan, dram_bytes=dram, ssd_bytes=ssd, steered=False, hindsight=False)
        for dram, ssd in pairs
    ]
    if not plan.steered:
        return fixed
    if len(pairs) ** intervals <= _MOST_SEQUENCES:
        return [
            replace(fixed[0], **sizes[0]._asdict(), schedule=sizes)
            for sizes in product(pairs, repeat=intervals)
        ]
    return [*fixed, replace(plan, hindsight=False)]
