"""Published measurements: the simulation of them gives what docs/checks.md says, each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from greencache.bench.published import (
    MEASURES,
    Comparison,
    Setting,
    compare,
    markdown,
    read_published,
)
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import serving_hardware

CHECKS = Path(__file__).parents[2] / "docs" / "checks.md"

Rows = list[tuple[Setting, dict[str, float]]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return read_published()[1]


@pytest.fixture(scope="module")
def comparisons(catalog: Catalog, rows: Rows) -> list[Comparison]:
    return compare(catalog, rows)


def cells(text: str) -> dict[tuple[str, ...], list[float]]:
    """Of Markdown tables: the percentages of a line, by its other cells."""
    table = {}
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        values = [cell.strip() for cell in line.strip("| ").split("|")]
        shares = [float(value[:-1]) for value in values if value.endswith("%")]
        if shares:
            table[tuple(value for value in values if not value.endswith("%"))] = shares
    return table


def test_every_figure_has_a_source_and_can_be_expressed(catalog: Catalog, rows: Rows) -> None:
    sources, _ = read_published()
    assert {setting.source for setting, _ in rows} == set(sources)
    for setting, measured in rows:
        assert measured
        assert all(figure > 0 for figure in measured.values())
        hardware = serving_hardware(
            catalog, find_model(setting.model), setting.hardware, weight_dtype=setting.weights
        )
        assert setting.input_tokens + setting.output_tokens <= hardware.model.context_tokens


def test_both_sizes_several_gpus_and_all_measures_are_covered(rows: Rows) -> None:
    covered = {
        (measure, setting.model.rpartition("-")[2], setting.hardware[2:])
        for setting, measured in rows
        for measure in measured
    }
    assert {measure for measure, _, _ in covered} == set(MEASURES)
    for size in ("8b", "70b"):
        assert {gpu for _, model, gpu in covered if model == size} >= {"A100", "H100", "H200"}


@pytest.mark.slow
def test_the_documented_errors_are_those_of_a_run(comparisons: list[Comparison]) -> None:
    """Within one point, for what rounding does; to renew them, see docs/checks.md."""
    documented = cells(CHECKS.read_text(encoding="utf-8"))
    for key, shares in cells(markdown(comparisons)).items():
        assert key in documented, f"docs/checks.md has no line {key}"
        assert documented[key] == pytest.approx(shares, abs=1.01), key


@pytest.mark.slow
def test_a_simulation_again_gives_the_same(
    catalog: Catalog, rows: Rows, comparisons: list[Comparison]
) -> None:
    some = rows[:: len(rows) // 10]
    again = {(each.setting, each.measure): each.simulated for each in compare(catalog, some)}
    for each in comparisons:
        if (each.setting, each.measure) in again:
            assert again[each.setting, each.measure] == each.simulated


@pytest.mark.slow
def test_errors_stay_within_their_bounds(comparisons: list[Comparison]) -> None:
    """What the documents promise of figures whose settings are published in full.

    Half of the figures of each measure are within 20 %, three of four within a factor of 1.6,
    and all within a factor of 2.
    """
    for measure in MEASURES:
        errors = np.abs(
            [
                np.log(each.simulated / each.published)
                for each in comparisons
                if each.measure == measure and each.setting.lengths_published
            ]
        )
        if len(errors):
            assert np.median(errors) < np.log(1.2), measure
            assert np.quantile(errors, 0.75) < np.log(1.6), measure
            assert errors.max() < np.log(2.0), measure
