"""What experiments say they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from greencache.bench.experiments.report import PARTS
from greencache.bench.experiments.running import selected
from greencache.bench.experiments.spec import find_spec, read_experiment, shipped
from greencache.errors import InputError, SpecError
from greencache.traces.samples import sample_grid

SPEC = """
[experiment]
title = "Small"
references = ["full"]
[replay]
model = "llama-3.1-8b"
[workloads.chat]
trace = "mooncake-conversation"
[sizes]
dram = ["0", "64GiB"]
ssd = ["0", "1TB"]
[zones]
FR = "2022-06-13T00:00Z"
[runs.full]
plan = "full"
policy = "lru"
[runs.none]
plan = "none"
policy = "lru"
[[blocks]]
name = "one"
why = "both factors"
workloads = ["chat"]
load_fractions = [0.5]
zones = ["FR"]
ssd_kg_per_tb = [5, 30]
scopes = ["attributable"]
wear = [true]
seeds = [1]
runs = ["full"]
[[blocks]]
name = "two"
why = "one of them again, under another run"
workloads = ["chat"]
load_fractions = [0.5]
zones = ["FR"]
ssd_kg_per_tb = [30]
scopes = ["attributable"]
wear = [true, false]
seeds = [1]
runs = ["full", "none"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped())
def test_what_ships_is_read_and_leaves_weeks_of_history_in_every_zone(name: str) -> None:
    spec = read_experiment(find_spec(name))
    assert name in PARTS, "it has a place in the report"
    assert all(block.why for block in spec.blocks)
    for zone, start in spec.zones.items():
        series = sample_grid(zone)
        begun = series.beginning_at(series.start.fromisoformat(start))
        assert len(series) - len(begun) >= 8 * 7 * 24
        assert len(begun) >= 6 * 24


def test_the_papers_setting_is_as_it_was_asked_for() -> None:
    spec = read_experiment(find_spec("main"))
    assert spec.sizes.ssd_bytes == [tb * 10**12 for tb in range(17)]
    assert spec.sizes.dram_bytes == [gib * 2**30 for gib in (0, 128, 256, 384, 512)]
    factorial = spec.blocks[0]
    assert len(factorial.cells()) == 2 * 3 * 6 * 5
    wanted = spec.cells()
    assert {cell.scope for cell in wanted} == {"attributable", "provisioned"}
    assert {cell.wear for cell in wanted} == {True, False}
    policies = {spec.runs[run].policy for runs in wanted.values() for run in runs}
    assert policies == {"lru", "lfu", "lcs", "carbon"}


def test_a_cell_of_two_blocks_is_one_cell_with_the_runs_of_both(tmp_path: Path) -> None:
    spec = read_experiment(written(tmp_path, SPEC))
    cells = spec.cells()
    assert [(cell.ssd_kg_per_tb, cell.wear, runs) for cell, runs in cells.items()] == [
        (5.0, True, ["full"]),
        (30.0, True, ["full", "none"]),
        (30.0, False, ["full", "none"]),
    ]


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 5),
        (["ssd_kg_per_tb=30"], 4),
        (["wear=true", "run=full"], 2),
        (["ssd_kg_per_tb=5,30", "run=none"], 2),
    ],
)
def test_filters_leave_what_all_of_them_let_through(
    tmp_path: Path, only: list[str], count: int
) -> None:
    spec = read_experiment(written(tmp_path, SPEC))
    assert sum(map(len, selected(spec, only).values())) == count


def test_filters_that_say_nothing_are_refused(tmp_path: Path) -> None:
    spec = read_experiment(written(tmp_path, SPEC))
    with pytest.raises(InputError, match="write AXIS=VALUE"):
        selected(spec, ["colour=green"])
    with pytest.raises(InputError, match="lets no cell through"):
        selected(spec, ["zone=PL"])


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('runs = ["full", "none"]', 'runs = ["ful"]', r"block two, runs: 'ful' is not there"),
        ('zones = ["FR"]', 'zones = ["PL"]', r"block one, zones: 'PL' is not there; there are FR"),
        ("FR = ", "ATLANTIS = ", r"\[zones\]: 'ATLANTIS' is not there"),
        ('references = ["full"]', 'references = ["best"]', "references: 'best' is not there"),
        ('title = "Small"', 'title = "Small"\nslo = "wide"', "the only rule is 'full-keeps'"),
        ('dram = ["0", "64GiB"]', 'dram = ["64GiB", "0"]', "from the smallest to the largest"),
        ('ssd = ["0", "1TB"]', 'ssd = ["0", "1 parsec"]', "parsec"),
        ('model = "llama-3.1-8b"', 'modell = "llama-3.1-8b"', "unknown option 'modell'"),
        ("seeds = [1]", "seeds = 1", r"Expected `array`, got `int` - at `\$\.blocks\[0\]\.seeds`"),
        ("wear = [true]", "wear = [true]\nwhen = 1", "unknown field `when`"),
        ("seeds = [1]", "seeds = []", "nothing to run"),
    ],
)
def test_mistakes_are_told_with_their_place(
    tmp_path: Path, before: str, after: str, reason: str
) -> None:
    assert before in SPEC
    with pytest.raises(SpecError, match=reason):
        read_experiment(written(tmp_path, SPEC.replace(before, after)))


def test_a_name_that_is_no_experiment_lists_those_that_ship() -> None:
    with pytest.raises(InputError, match=r"ablations, at_scale, .*main"):
        find_spec("mian")
