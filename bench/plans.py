"""Plans: what storage a run may use, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from greencache.bench.accounting import Installed
from greencache.controller.sizes import Candidates
from greencache.errors import InputError, QuantityError, UnknownNameError
from greencache.quantities import format_bytes, parse_bytes

__all__ = ["Plan", "fixed_plans", "parse_plans"]

_NAMES = ("none", "hbm-only", "full", "static:SIZE", "best-static")


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
    """

    name: str
    reuse_hbm: bool = True
    dram_bytes: int = 0
    ssd_bytes: int = 0
    hindsight: bool = False

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


def fixed_plans(plan: Plan, candidates: Candidates) -> list[Plan]:
    """A plan in hindsight at each fixed size that it chooses from, smallest first."""
    return [replace(plan, dram_bytes=dram, ssd_bytes=ssd) for dram, ssd in candidates.pairs()]
