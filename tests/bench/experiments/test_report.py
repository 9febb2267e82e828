"""The document of results: what is filled in, and what is left alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from greencache.bench.experiments import pictures, tables
from greencache.bench.experiments.checks import checks_of
from greencache.bench.experiments.report import PARTS, filled, write_report
from greencache.bench.experiments.running import Results
from greencache.errors import InputError
from greencache.output import write_json

DOCS = Path(__file__).parents[3] / "docs"

GRAMS = {"hbm-only": 1.25, "full-write-all": 2.0, "full": 1.7, "best-static": 1.0, "oracle": 1.0}
REFERENCES = list(GRAMS)


def results(name: str = "main", ours: float = 1.02) -> Results:
    """Two zones, two factors and a run that is invalid in the dirtier zone."""
    rows: list[dict[str, Any]] = []
    for zone, intensity in (("NO", 31.0), ("SE-SE3", 17.0), ("FR", 92.0)):
        for kg in (5.0, 30.0):
            for run, grams in {**GRAMS, "greencache": ours}.items():
                valid = not (run == "hbm-only" and zone == "FR")
                of_valid = {**GRAMS, "greencache": ours}
                if zone == "FR":
                    del of_valid["hbm-only"]
                rows.append(
                    {
                        "workload": "document",
                        "load_fraction": 0.6,
                        "seed": 1,
                        "zone": zone,
                        "ssd_kg_per_tb": kg,
                        "scope": "attributable",
                        "wear": True,
                        "run": run,
                        "control": {},
                        "valid": valid,
                        "error": None,
                        "mean_gco2_per_kwh": intensity,
                        "sci_g_per_1k_output_tokens": grams,
                        "slo_attainment_by_day": [0.95],
                        "slo_attainment_worst_day": 0.95,
                        "hit_rate_tokens": 0.5,
                        "ssd_bytes_written": 10**12,
                        "saving_vs": {
                            each: 1 - grams / of_valid[each] if valid and each in of_valid else None
                            for each in REFERENCES
                        },
                    }
                )
    limits = {"document": {"ttft_s": 300.0, "tpot_s": 0.5, "target": 0.9}}
    return Results(name, "Small", limits, REFERENCES, rows, checks_of(rows))


def test_only_what_is_marked_is_replaced() -> None:
    text = (
        "Before.\n<!-- begin main.limits -->old<!-- end main.limits -->\nBetween.\n"
        "<!-- begin seeds.seeds -->\nkept\n<!-- end seeds.seeds -->\nAfter.\n"
    )
    once = filled(text, {"main": results()})
    assert "old" not in once
    assert "| document | 300 | 0.5 | 90% |" in once
    assert once.startswith("Before.\n<!-- begin main.limits -->")
    assert once.endswith("Between.\n" + text.split("Between.\n")[1])
    assert filled(once, {"main": results()}) == once


def test_a_marker_of_an_unknown_part_is_refused() -> None:
    text = "<!-- begin main.colours --><!-- end main.colours -->"
    with pytest.raises(InputError, match=r"main\.colours: there are limits, checks, headline"):
        filled(text, {"main": results()})


def test_every_part_has_its_place_in_the_document() -> None:
    text = (DOCS / "results.md").read_text()
    begun = re.findall(r"<!-- begin (\S+) -->", text)
    assert begun == re.findall(r"<!-- end (\S+) -->", text)
    assert len(set(begun)) == len(begun)
    optional = {"ablations.limits", "forecast_error.limits", "forecast_error.checks"}
    optional |= {"seeds.limits"}
    known = {f"{name}.{part}" for name, parts in PARTS.items() for part in parts}
    assert set(begun) <= known
    assert known - set(begun) <= optional


def test_savings_stand_beside_one_another() -> None:
    lines = tables.headline(results()).splitlines()
    assert lines[2].startswith("| NO | document | 0.6 | 1.25 | 2 | 1.7 | 1 | 1.02 | 1 |")
    assert lines[2].endswith("| 49.0 | 40.0 | 18.4 | -2.0 | 95.0 |")
    matrix = tables.matrices(results())
    assert (
        "| NO | 31 | 49.0 / 40.0 / 18.4 / -2.0 / 2.0 | 49.0 / 40.0 / 18.4 / -2.0 / 2.0 |" in matrix
    )
    assert "| FR | 92 | 49.0 / 40.0 / - / -2.0 / 2.0 |" in matrix, "hbm-only is invalid there"


def test_claims_that_fail_are_shown() -> None:
    shown = tables.checks(results(ours=1.3))
    assert "| greencache is within 3 % of oracle | **no** | 6 | 6 | 0 | 30.00 %: document" in shown
    assert "| oracle is at least as good as best-static | yes |" in shown


@pytest.mark.parametrize("text", ["0.0", "-0.1", "12.3"])
def test_shares_read_as_per_cent(text: str) -> None:
    assert tables.per_cent(float(text) / 100) == text
    assert tables.per_cent(-1e-9) == "0.0"
    assert tables.per_cent(None) == tables.per_cent(float("nan")) == "-"


def test_folders_become_a_document_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    write_json(tmp_path / "results" / "results.json", results().as_json())
    (tmp_path / "results.md").write_text((DOCS / "results.md").read_text())
    write_report([tmp_path / "results"], tmp_path)
    assert "30 kg/TB" in (tmp_path / "results.md").read_text()
    drawn = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert drawn == ["results-main-oracle.png", "results-main-savings.png"]
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert pictures.timeline(results()) is None
    with pytest.raises(InputError, match="name the folders"):
        write_report([], tmp_path)
