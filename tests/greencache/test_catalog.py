"""Every figure in the catalog has a range and a source; users can lay their own over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from greencache.catalog import Catalog
from greencache.errors import InputError, UnknownNameError
from greencache.factors import FACTOR_NAMES, Factors


def test_every_gpu_of_the_design_is_there(catalog: Catalog) -> None:
    assert set(catalog.names("gpu")) == {
        "T4", "L4", "L40", "A6000", "RTX6000Ada", "A100", "H100", "H200",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["gpu", "cpu", "dram", "ssd", "server"])
def test_every_figure_has_a_range_and_a_source(catalog: Catalog, kind: str) -> None:
    for name in catalog.names(kind):
        part = catalog.part(kind, name)
        assert part.quantities
        for quantity in part.quantities.values():
            assert 0 < quantity.low <= quantity.value <= quantity.high
            assert quantity.source.title
            assert quantity.source.url.startswith("http")
            assert quantity.source.read in {"primary", "secondary", "derived"}


def test_names_do_not_mind_case_and_wrong_ones_are_explained(catalog: Catalog) -> None:
    assert catalog.part("gpu", "h100").name == "H100"
    with pytest.raises(UnknownNameError, match=r"unknown GPU 'H10O'; did you mean 'H100'"):
        catalog.part("gpu", "H10O")


def test_a_user_file_replaces_single_figures(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[sources.me]\ntitle="our LCA"\nurl="http://example.org"\nyear=2026\nread="primary"\n'
        '[ssd.NVME]\nkg_per_tb={value=30.0, source="me"}\n'
    )
    ssd = Catalog.load(mine).part("ssd", "NVME")
    assert ssd["kg_per_tb"].value == ssd["kg_per_tb"].low == 30.0
    assert ssd["kg_per_tb"].source.title == "our LCA"
    assert ssd["drive_bytes"].value == 7.68e12


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not toml", "not a TOML file"),
        ('[ssd.NVME]\nkg_per_tb={value=30.0, source="nobody"}', "unknown source of ssd.NVME"),
        ('[ssd.NVME]\nkg_per_tb={value=-3, low=-3, source="act"}', "needs 0 < low"),
        ('[ssd.NVME]\nkg_per_tb={value=0, source="act"}', "ssd.NVME.kg_per_tb needs 0 < low"),
        ('[ssd.NVME]\nkg_per_tb={value="x", source="act"}', "needs a number"),
        ("ssd = 3", "not of the catalog's form"),
    ],
)
def test_a_wrong_user_file_is_explained(tmp_path: Path, content: str, complaint: str) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(content)
    with pytest.raises(InputError, match=complaint):
        Catalog.load(mine)


def test_a_missing_user_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Catalog.load(tmp_path / "none.toml")


def test_factors_can_be_set_and_say_so(catalog: Catalog) -> None:
    gpu = catalog.part("gpu", "H100")
    factors = Factors.of(catalog, gpu, {"ssd_kg_per_tb": 30.0})
    assert factors.ssd_kg_per_tb.value == 30.0
    assert "set by the user" in factors.ssd_kg_per_tb.source.title
    assert set(factors.as_json()) == set(FACTOR_NAMES)
    with pytest.raises(UnknownNameError, match="did you mean 'ssd_kg_per_tb'"):
        Factors.of(catalog, gpu, {"ssd_kg_per_gb": 1.0})
    with pytest.raises(InputError, match="more than 0"):
        Factors.of(catalog, gpu, {"pue": -1.0})
