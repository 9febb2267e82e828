"""What a sweep's file may say, and what is said to one that cannot be used."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from greencache.bench.scenario_file import scenario_from
from greencache.bench.sweep_spec import MOST_CELLS, read_spec
from greencache.errors import InputError, SpecError


def written(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def test_cells_are_all_combinations_with_the_last_axis_fastest(tmp_path: Path) -> None:
    spec = read_spec(
        written(
            tmp_path,
            """
            [replay]
            plans = "hbm-only"
            skip_bad = true
            trace = "some.jsonl"
            factors.pue = 1.2

            [axes]
            hardware = ["2xH100", "L4"]
            replicas = [1, 2.0]
            ssd = ["4TB", 16_000_000_000_000]
            "factors.ssd_kg_per_tb" = [3.9, 160]
            """,
        )
    )
    cells = spec.cells()
    assert len(cells) == len(spec) == 16
    assert spec.axes == {
        "hardware": ("2xH100", "L4"),
        "replicas": (1, 2),
        "ssd": ("4TB", "16TB"),
        "factors.ssd_kg_per_tb": (3.9, 160.0),
    }, "values of an axis are all of one type, in the file's order"
    assert [type(each) for each in cells[0].values] == [str, int, str, float]
    assert [cell.values for cell in cells] == list(itertools.product(*spec.axes.values()))
    last = cells[-1].scenario
    assert (last.hardware, last.replicas, last.ssd) == ("L4", 2, "16TB")
    assert last.factors == {"pue": 1.2, "ssd_kg_per_tb": 160.0}
    assert (last.plans, last.skip_bad, last.trace) == ("hbm-only", True, Path("some.jsonl"))


@given(
    st.lists(st.floats(0.1, 1e6), min_size=1, max_size=5, unique=True),
    st.lists(st.sampled_from(["FR", "PL", "CISO", "DE"]), min_size=1, max_size=4, unique=True),
)
def test_what_is_written_is_what_is_replayed(
    tmp_path_factory: pytest.TempPathFactory, kgs: list[float], grids: list[str]
) -> None:
    text = f"[axes]\ngrid = {json.dumps(grids)}\nssd_kg_per_tb = {kgs!r}\n"
    spec = read_spec(written(tmp_path_factory.mktemp("spec"), text))
    said = [(cell.scenario.grid, cell.scenario.ssd_kg_per_tb) for cell in spec.cells()]
    assert said == list(itertools.product(grids, kgs))


AXIS = "[axes]\ngrid = ['FR']\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "nothing to vary"),
        ("[replay]\npolicy = 'lru'\n[axes]\n", "nothing to vary"),
        ("[axis]\ngrid = ['FR']\n", "unknown table 'axis'; did you mean axes?"),
        ("policy = 'lru'\n" + AXIS, "options go under [replay] or [axes]"),
        ("axes = 3\n", "axes is not a table"),
        ("[axes]\ngird = ['FR']\n", "[axes] unknown option 'gird'; did you mean grid?"),
        ("[replay]\npolcy = 'lru'\n" + AXIS, "[replay] unknown option 'polcy'; did you mean pol"),
        ("[axes]\nfactors.ssd_kg = [1]\n", "unknown carbon factor 'ssd_kg'; did you mean ssd_kg_"),
        ("[axes]\nfactors = [1]\n", "[axes] factors is not a table"),
        ("[axes]\ngrid = 'FR'\n", "[axes] grid is not a list"),
        ("[axes]\ngrid = []\n", "[axes] grid is empty"),
        ("[axes]\ngrid = ['FR', 'PL', 'FR']\n", "[axes] grid has 'FR' twice"),
        ("[axes]\ngrid = ['FR', ['PL']]\n", "grid = ['PL'] is not a text"),
        ("[axes]\nmean_rate = [1, '2']\n", "mean_rate = '2' is not a number"),
        ("[axes]\nmean_rate = [nan]\n", "mean_rate = nan is not a number"),
        ("[axes]\nmean_rate = [1e400]\n", "mean_rate = inf is not a number"),
        ("[axes]\nreplicas = [1.5]\n", "replicas = 1.5 is not a whole number"),
        ("[axes]\nreplicas = [true]\n", "replicas = True is not a whole number"),
        ("[axes]\nskip_bad = [1]\n", "skip_bad = 1 is not true or false"),
        ("[axes]\ntrace = [1]\n", "trace = 1 is not the name of a file"),
        ("[axes]\ngrid = [2020-01-01]\n", "is not a text"),
        ("[axes]\nfactors.pue = ['much']\n", "factors.pue = 'much' is not a number"),
        ("[replay]\ngrid = {zone = 'FR'}\n" + AXIS, "grid is a table"),
        ("[replay]\npolicy = ['lru']\n" + AXIS, "[replay] policy is a list; lists go under [axes]"),
        ("[replay]\nplans = ['full']\n" + AXIS, 'write them as one text: "hbm-only,full"'),
        ("[replay]\ngrid = 'PL'\n" + AXIS, "grid is under [replay] and under [axes]"),
        (
            "[replay]\nssd_kg_per_tb = 4\n[axes]\nfactors.ssd_kg_per_tb = [1]\n",
            "ssd_kg_per_tb and factors.ssd_kg_per_tb are the same",
        ),
        ("[replay]\ntrace = '-'\n" + AXIS, "cannot read a trace from standard input"),
        ("[axes]\n\ngrid = ['FR'\n", "not TOML"),
        ("[axes]\ngrid = [x]\n", "line 2: not TOML"),
        (f"[axes]\nseed = {list(range(400))}\nhours = {list(range(1, 401))}\n", "160,000 replays"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_file(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(tmp_path / "missing.toml")
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(SpecError, match="not a text file"):
        read_spec(binary)


def test_the_most_cells_are_accepted(tmp_path: Path) -> None:
    seeds = f"seed = {list(range(MOST_CELLS // 100))}\nhours = {list(range(1, 101))}\n"
    assert len(read_spec(written(tmp_path, f"[axes]\n{seeds}"))) == MOST_CELLS


def test_a_scenario_refuses_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match="unknown option 'polcy'; did you mean 'policy'"):
        scenario_from({"polcy": "lru"})
    with pytest.raises(InputError, match="replicas = 'two' is not a whole number"):
        scenario_from({"replicas": "two"})
    assert scenario_from({"ssd": 4_000_000, "replicas": 2.0}).ssd == "4MB"
