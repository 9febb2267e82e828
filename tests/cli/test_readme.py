"""README's table of results says what its commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from greencache.bench.scenario import Scenario
from tests.cli.test_commands import greencache

README = (Path(__file__).parents[2] / "README.md").read_text()
TABLE = README.partition("| `greencache replay …` |")[2].partition("\n\n")[0]
ROWS = [[cell.strip() for cell in line[1:-1].split("|")] for line in TABLE.splitlines()[2:]]
PLANS = ("hbm-only", "full", "best-static", "greencache")
"""Of the table's columns."""


def options_of(cell: str) -> list[str]:
    """What a row's command says beyond ``greencache replay``."""
    found = re.match(r"`(.+?)`", cell)
    return found[1].split() if found else []


def grams_of(cell: str) -> str | None:
    """Grams per 1,000 output tokens, as the table has them."""
    found = re.search(r"\d\.\d{3}", cell)
    return found and found[0]


def sizes_of(run: dict[str, Any]) -> str:
    """What a run had of storage, as the table says it."""
    capacity = run["capacity_bytes"][0][1]
    dram = f"{capacity['dram'] / 2**30:.0f} GiB of DRAM + " if capacity["dram"] else ""
    return f"{dram}{capacity['ssd'] / 1e12:.0f} TB of SSD: "


def test_each_command_runs_the_plans_that_its_row_has_figures_of() -> None:
    assert len(ROWS) == 5
    for row in ROWS:
        options = options_of(row[0])
        given = options[options.index("--plans") + 1] if "--plans" in options else Scenario().plans
        has = {plan for plan, cell in zip(PLANS, row[1:], strict=True) if grams_of(cell)}
        assert has <= set(given.split(",")), row[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "steps"),
    [
        ("*(default", ["--dram-step=512GiB", "--ssd-step=1TB"]),
        ("`--hardware 2xH100 --slo-ttft 3s`", ["--dram-step=256GiB", "--ssd-step=16TB"]),
    ],
)
def test_an_hour_of_chat_costs_what_the_table_says(
    begins: str, steps: list[str], tmp_path: Path
) -> None:
    """Of few sizes, which have the best of all among them: that takes seconds."""
    (cells,) = (row for row in ROWS if row[0].startswith(begins))
    options = options_of(cells[0])
    out = tmp_path / "replay.json"
    plans = f"--plans={','.join(PLANS[:3])}"
    assert greencache("replay", *options, plans, *steps, "--json", out) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [grams_of(cell) for cell in cells[1:4]] == [
        f"{run['sci_g_per_1k_output_tokens']:.3f}" if run["valid"] else None for run in runs
    ]
    assert sizes_of(runs[2]) in cells[3]


def test_half_the_machine_saves_what_the_table_says() -> None:
    above, half = ROWS[0][3], ROWS[1][3]
    (share,) = re.findall(r"(\d+) % below the row above", half)
    assert round(100 * (1 - float(grams_of(half) or 0) / float(grams_of(above) or 0))) == int(share)
