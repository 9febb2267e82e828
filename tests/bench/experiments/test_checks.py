"""Claims are held against rows, and what violates them is found."""

from __future__ import annotations

from typing import Any

import pytest

from greencache.bench.experiments.checks import Check, checks_of

WORSE, ORACLE, STATIC, DAYS = range(4)
GRAMS = {
    "hbm-only": 1.2,
    "full": 1.5,
    "full-write-all": 1.6,
    "full-lcs": 1.55,
    "best-static": 1.01,
    "greencache": 1.02,
    "oracle": 1.0,
}


def cell(zone: str = "NO", **changes: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each run, as an experiment has them."""
    rows = []
    for run, grams in GRAMS.items():
        row = {
            "workload": "conversation",
            "load_fraction": 0.6,
            "seed": 1,
            "zone": zone,
            "ssd_kg_per_tb": 30.0,
            "scope": "attributable",
            "wear": True,
            "run": run,
            "valid": True,
            "error": None,
            "sci_g_per_1k_output_tokens": grams,
            "slo_attainment_by_day": [0.97, 0.95, 0.93],
        }
        rows.append({**row, **changes.get(run.replace("-", "_"), {})})
    return rows


def grams(value: float) -> dict[str, Any]:
    return {"sci_g_per_1k_output_tokens": value}


def test_what_holds_is_said_to() -> None:
    checks = checks_of(cell("NO") + cell("PL"))
    assert [(check.holds, check.cells, check.failed) for check in checks] == [(True, 2, 0)] * 4
    assert checks[ORACLE].worst == pytest.approx(0.02)
    assert checks[WORSE].worst == pytest.approx(1.02 / 1.2 - 1)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"greencache": grams(1.02), "hbm_only": grams(1.0)}, WORSE),
        ({"greencache": grams(1.02), "full_lcs": grams(1.0)}, WORSE),
        ({"greencache": grams(1.04)}, ORACLE),
        ({"best_static": grams(0.999)}, STATIC),
        ({"greencache": {"slo_attainment_by_day": [0.97, 0.899, 0.93]}}, DAYS),
    ],
)
def test_a_violation_is_found_and_placed(changes: dict[str, Any], claim: int) -> None:
    checks = checks_of(cell("NO") + cell("PL", **changes))
    found = checks[claim]
    assert not found.holds
    assert (found.cells, found.failed) == (2, 1)
    assert found.worst_cell == "conversation at 0.6, PL, 30 kg/TB"
    others = [check for i, check in enumerate(checks) if i != claim]
    assert all(check.holds for check in others)


def test_a_controller_that_alone_is_invalid_fails() -> None:
    invalid = {"valid": False, "slo_attainment_by_day": [0.97, 0.5, 0.93]}
    checks = checks_of(cell(greencache=invalid))
    assert [check.holds for check in checks] == [False, False, True, False]
    assert checks[WORSE].worst is None
    overloaded = {"valid": False, "slo_attainment_by_day": None, "sci_g_per_1k_output_tokens": None}
    assert not checks_of(cell(greencache=overloaded))[DAYS].holds


def test_a_day_that_full_misses_is_no_ones_to_keep() -> None:
    missed = {"slo_attainment_by_day": [0.97, 0.5, 0.93]}
    assert checks_of(cell(full=missed, greencache=missed))[DAYS].holds
    none_kept = {"slo_attainment_by_day": [0.5, 0.5, None]}
    check = checks_of(cell(full=none_kept, greencache=missed))[DAYS]
    assert (check.cells, check.left_out, check.holds) == (0, 1, False)


def test_invalid_references_are_left_out_and_counted() -> None:
    checks = checks_of(cell(oracle={"valid": False}, hbm_only={"valid": False}))
    assert (checks[ORACLE].cells, checks[ORACLE].left_out) == (0, 1)
    assert checks[WORSE].worst == pytest.approx(1.02 / 1.5 - 1), "the others stay"


def test_nothing_is_claimed_of_runs_that_were_not_made() -> None:
    assert checks_of([]) == []
    rows = cell(greencache={"error": "unknown plan"}, oracle={"error": "unknown plan"})
    assert checks_of(rows) == []
    without_oracle = [row for row in cell() if row["run"] != "oracle"]
    assert [check.claim for check in checks_of(without_oracle)] == [
        check.claim for i, check in enumerate(checks_of(cell())) if i in (WORSE, DAYS)
    ]
    assert Check("c", 0, 0, 1, None, None).holds is False
