"""What must hold of the controller, checked over the rows of an experiment.

A claim that does not hold is reported with its worst cell, like one that does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from greencache.bench.experiments.rows import Row
from greencache.bench.experiments.spec import Cell

__all__ = ["BASELINES", "Check", "checks_of"]

CONTROLLED, ORACLE, BEST_STATIC, FULL = "greencache", "oracle", "best-static", "full"
BASELINES = ("hbm-only", "full", "full-write-all", "full-lcs")
"""What is done today, and Least Carbon Savings as published at full size."""

WORSE_BY = 0.01
WITHIN_OF_ORACLE = 0.03
TARGET = 0.9
_ROUNDING = 1e-9

_Runs: TypeAlias = Mapping[str, Row]


@dataclass(frozen=True)
class Check:
    """One claim over all cells that it can be read off.

    Attributes
    ----------
    claim:
        What must hold.
    cells, failed:
        In how many cells it was looked at, and in how many it does not hold.
    left_out:
        In how many cells a run that it speaks of is there but gave no number.
    worst, worst_cell:
        The excess or the shortfall where it holds least, as a share, and where that is; an excess
        of infinity, where the controller alone is invalid, is null.
    """

    claim: str
    cells: int
    failed: int
    left_out: int
    worst: float | None
    worst_cell: str | None

    @property
    def holds(self) -> bool:
        """Whether it holds in every cell, and there is one."""
        return self.cells > 0 and self.failed == 0


def _cell_name(row: Row) -> str:
    said = [
        f"{row['workload']} at {row['load_fraction']:g}",
        row["zone"],
        f"{row['ssd_kg_per_tb']:g} kg/TB",
    ]
    if row["scope"] != "attributable":
        said.append(row["scope"])
    if not row["wear"]:
        said.append("no wear")
    if row["seed"] != 1:
        said.append(f"seed {row['seed']}")
    return ", ".join(said)


def _grams(row: Row | None) -> float | None:
    """Grams per 1,000 output tokens of a valid run."""
    if row is None or not row["valid"]:
        return None
    grams = row.get("sci_g_per_1k_output_tokens")
    return None if grams is None else float(grams)


def _over(ours: float | None, theirs: float | None) -> float | None:
    """By which share ours is more; infinite if only ours is invalid, None if theirs is."""
    if theirs is None:
        return None
    return math.inf if ours is None else ours / theirs - 1


def _kept_by_full(runs: _Runs) -> list[int]:
    """Days on which always-full caching keeps the SLO."""
    by_day = (runs.get(FULL) or {}).get("slo_attainment_by_day") or []
    return [i for i, share in enumerate(by_day) if share is not None and share >= TARGET]


def _shortfall(row: Row, days: Sequence[int]) -> float:
    """How far a run falls short of the target on the worst of these days; 0 or less if not."""
    by_day = row.get("slo_attainment_by_day")
    return math.inf if by_day is None else max(TARGET - float(by_day[i]) for i in days)


def _against_baselines(runs: _Runs) -> float | None:
    """Against baselines that keep the SLO as it is promised, on each day on which it can be."""
    days = _kept_by_full(runs)
    grams = [
        grams
        for name in BASELINES
        if (grams := _grams(runs.get(name))) is not None
        and not (days and _shortfall(runs[name], days) > _ROUNDING)
    ]
    return _over(_grams(runs.get(CONTROLLED)), min(grams)) if grams else None


def _against_oracle(runs: _Runs) -> float | None:
    return _over(_grams(runs.get(CONTROLLED)), _grams(runs.get(ORACLE)))


def _oracle_against_static(runs: _Runs) -> float | None:
    return _over(_grams(runs.get(ORACLE)), _grams(runs.get(BEST_STATIC)))


def _missing_attainment(runs: _Runs) -> float | None:
    """How far the controller falls short of the target on a day on which full has it."""
    days = _kept_by_full(runs)
    return _shortfall(runs[CONTROLLED], days) if days else None


_CLAIMS: tuple[tuple[str, Callable[[_Runs], float | None], float, tuple[str, ...]], ...] = (
    (
        "greencache is at most 1 % worse than the best of hbm-only, full and published LCS that "
        "keep the SLO on every day on which full does",
        _against_baselines,
        WORSE_BY,
        (CONTROLLED,),
    ),
    ("greencache is within 3 % of oracle", _against_oracle, WITHIN_OF_ORACLE, (CONTROLLED, ORACLE)),
    (
        "oracle is at least as good as best-static",
        _oracle_against_static,
        0.0,
        (ORACLE, BEST_STATIC),
    ),
    (
        "greencache keeps the SLO for 90 % on every day on which full does",
        _missing_attainment,
        0.0,
        (CONTROLLED, FULL),
    ),
)
"""What is claimed, by how much it is missed (None if that cannot be said), how much of that is
allowed, and the runs without which nothing is claimed."""


def _check(
    claim: str,
    excess_of: Callable[[_Runs], float | None],
    allowed: float,
    cells: Sequence[_Runs],
) -> Check:
    excesses = [(excess_of(runs), runs) for runs in cells]
    known = [(excess, runs) for excess, runs in excesses if excess is not None]
    worst = max(known, key=lambda pair: pair[0], default=None)
    return Check(
        claim=claim,
        cells=len(known),
        failed=sum(excess > allowed + _ROUNDING for excess, _ in known),
        left_out=len(excesses) - len(known),
        worst=None if worst is None or math.isinf(worst[0]) else worst[0],
        worst_cell=None if worst is None else _cell_name(next(iter(worst[1].values()))),
    )


def checks_of(rows: Sequence[Row]) -> list[Check]:
    """Every claim whose runs are among the rows; a run that failed with an error was not made."""
    by_cell: dict[Cell, dict[str, Row]] = {}
    for row in rows:
        if row["error"] is None:
            cell = Cell(**{name: row[name] for name in Cell._fields})
            by_cell.setdefault(cell, {})[row["run"]] = row
    checks = []
    for claim, excess_of, allowed, needed in _CLAIMS:
        cells = [runs for runs in by_cell.values() if set(needed) <= runs.keys()]
        if cells:
            checks.append(_check(claim, excess_of, allowed, cells))
    return checks
