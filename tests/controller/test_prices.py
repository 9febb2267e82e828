"""Prices of an interval against the ledger and the accounting that results are made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.controller.prices import Prices
from greencache.errors import InputError
from greencache.factors import Factors

HOUR_S = 3600.0
CATALOG = Catalog.load()
FACTORS = Factors.of(CATALOG, CATALOG.part("gpu", "L40"))
INSTALLED = 16e12


def prices(scope: Scope, wear: bool = True) -> Prices:
    return Prices(FACTORS, 4, 512e9, INSTALLED, scope, wear)


@given(
    ssd_tb=st.floats(0.01, 16),
    written_tb=st.one_of(st.just(0.0), st.floats(0.001, 20)),
    scope=st.sampled_from(Scope),
    wear=st.booleans(),
)
def test_one_interval_of_ssd_is_what_the_ledger_says(
    ssd_tb: float, written_tb: float, scope: Scope, wear: bool
) -> None:
    ledger = FACTORS.ledger(INSTALLED)
    ledger.record(ssd_tb * 1e12, HOUR_S, written_tb * 1e12)
    grams = prices(scope, wear).ssd_g(
        np.array([ssd_tb * 1e12]), np.array([written_tb * 1e12]), HOUR_S
    )
    assert grams[0] == pytest.approx(ledger.embodied_g(scope, wear=wear))


@given(written_tb=st.lists(st.floats(0, 10), min_size=2, max_size=8))
def test_intervals_by_themselves_are_never_charged_less_than_the_period(
    written_tb: list[float],
) -> None:
    ledger = FACTORS.ledger(INSTALLED)
    total_g = 0.0
    for each in written_tb:
        ledger.record(4e12, HOUR_S, each * 1e12)
        size, written = np.array([4e12]), np.array([each * 1e12])
        total_g += prices(Scope.ATTRIBUTABLE).ssd_g(size, written, HOUR_S)[0]
    assert total_g >= ledger.embodied_g(Scope.ATTRIBUTABLE) * (1 - 1e-12)


def test_no_ssd_costs_nothing_unless_it_is_installed() -> None:
    none = np.zeros(1)
    assert prices(Scope.ATTRIBUTABLE).ssd_g(none, none, HOUR_S)[0] == 0
    ledger = FACTORS.ledger(INSTALLED)
    ledger.record(0.0, HOUR_S, 0.0)
    provisioned = prices(Scope.PROVISIONED).ssd_g(none, none, HOUR_S)[0]
    assert provisioned == pytest.approx(ledger.embodied_g(Scope.PROVISIONED))


def test_installed_dram_is_charged_whatever_is_allocated() -> None:
    sizes = np.array([0.0, 256e9, 512e9])
    assert prices(Scope.ATTRIBUTABLE).dram_g(sizes, HOUR_S)[0] == 0
    provisioned = prices(Scope.PROVISIONED).dram_g(sizes, HOUR_S)
    np.testing.assert_allclose(provisioned, prices(Scope.ATTRIBUTABLE).dram_g(sizes, HOUR_S)[2])


def test_prices_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="one GPU"):
        Prices(FACTORS, 0, 0.0, 0.0)
    with pytest.raises(InputError, match="installed"):
        Prices(FACTORS, 1, -1.0, 0.0)
