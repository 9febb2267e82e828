"""README's table of results says what its commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import greencache

README = (Path(__file__).parents[2] / "README.md").read_text()
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.M)
PLANS = ("hbm-only", "full", "best-static")


def grams_of(cell: str) -> str | None:
    """Grams per 1,000 output tokens, as the table has them."""
    found = re.search(r"\d\.\d{3}", cell)
    return found and found[0]


def sizes_of(run: dict[str, Any]) -> str:
    """What a run had of storage, as the table says it."""
    capacity = run["capacity_bytes"][0][1]
    dram = f"{capacity['dram'] / 2**30:.0f} GiB of DRAM + " if capacity["dram"] else ""
    return f"{dram}{capacity['ssd'] / 1e12:.0f} TB of SSD: "


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
    (cells,) = (row for row in ROW.findall(README) if row[0].startswith(begins))
    options = cells[0].strip("`").split() if cells[0].startswith("`") else []
    out = tmp_path / "replay.json"
    plans = f"--plans={','.join(PLANS)}"
    assert greencache("replay", *options, plans, *steps, "--json", out) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [grams_of(cell) for cell in cells[1:4]] == [
        f"{run['sci_g_per_1k_output_tokens']:.3f}" if run["valid"] else None for run in runs
    ]
    assert sizes_of(runs[2]) in cells[3]


def test_half_the_machine_saves_what_the_table_says() -> None:
    above, half = (
        row[3] for row in ROW.findall(README) if "hour of chat" in row[0] or "2x" in row[0]
    )
    (share,) = re.findall(r"(\d+) % below the row above", half)
    assert round(100 * (1 - float(grams_of(half) or 0) / float(grams_of(above) or 0))) == int(share)
