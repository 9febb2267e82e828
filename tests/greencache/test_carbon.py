"""The carbon model against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.carbon import (
    DriveLedger,
    Scope,
    chip_kg,
    embodied_by_time_g,
    gpu_kg,
    operational_g,
    sci_g,
)
from greencache.catalog import Catalog
from greencache.errors import InputError
from greencache.quantities import HOUR_S, TB, YEAR_S

DRIVE_BYTES = 8 * TB
DRIVE_KG = 240.0  # 30 kg/TB


def ledger(drives: float = 2, *, rated: float = 14e15, waf: float = 1.0) -> DriveLedger:
    return DriveLedger(
        drives * DRIVE_BYTES,
        drive_bytes=DRIVE_BYTES,
        kg_per_drive=DRIVE_KG,
        lifetime_years=5,
        rated_write_bytes=rated,
        write_amplification=waf,
    )


def test_an_h100_hour() -> None:
    """700 W for an hour is 0.7 kWh; PUE 1.1 makes 0.77 kWh; at 400 g/kWh that is 308 g."""
    energy_j = np.array([700 * HOUR_S])
    assert operational_g(energy_j, np.array([400.0]), 1.1).sum() == pytest.approx(308.0)


def test_intensity_is_taken_interval_by_interval() -> None:
    """1 kWh at 100 and 3 kWh at 20 g/kWh: 100 + 60 g, not 4 kWh at the mean of 60."""
    grams = operational_g(np.array([3.6e6, 10.8e6]), np.array([100.0, 20.0]), 1.0)
    assert grams.tolist() == pytest.approx([100.0, 60.0])


def test_a_site_cannot_use_less_than_its_machines() -> None:
    with pytest.raises(InputError, match="PUE"):
        operational_g(np.ones(1), np.ones(1), 0.9)


def test_16_tb_of_ssd_for_an_hour_by_age() -> None:
    """16 TB x 30 kg/TB = 480 kg over 5 years = 43,830 hours: 10.951 g an hour."""
    drives = ledger()
    drives.record(16 * TB, HOUR_S, 0.0)
    expected = 480_000 / (5 * 8766)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(expected)
    assert expected == pytest.approx(10.951, abs=1e-3)


def test_a_drive_spent_by_writes() -> None:
    """One drive of 240 kg rated for 14 PB: 14 TB written is a thousandth of it, 240 g.

    By age an hour of one whole drive is only 5.48 g, so the writes count.
    """
    drives = ledger(1)
    drives.record(DRIVE_BYTES, HOUR_S, 14 * TB)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(240.0)
    assert drives.embodied_g(Scope.ATTRIBUTABLE, wear=False) == pytest.approx(5.476, abs=1e-3)
    assert drives.wear_bound_drives(Scope.ATTRIBUTABLE) == 1


def test_write_amplification_wears_faster() -> None:
    """Each byte written as 1.5 on flash: 240 g become 360 g."""
    drives = ledger(1, waf=1.5)
    drives.record(DRIVE_BYTES, HOUR_S, 14 * TB)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(360.0)


def test_the_maximum_is_taken_once_over_the_period() -> None:
    """An hour of heavy writing, then a year of none: age (240 kg / 5) outweighs the 240 g of wear.

    Taken hour by hour, the maximum would charge both.
    """
    drives = ledger(1)
    drives.record(DRIVE_BYTES, HOUR_S, 14 * TB)
    drives.record(DRIVE_BYTES, YEAR_S - HOUR_S, 0.0)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(48_000.0)


def test_the_maximum_is_taken_drive_by_drive() -> None:
    """4 TB allocated is half of the first drive: it is worn, the second is not touched.

    Attributable: the first drive by writes (240 g), the second not at all. Provisioned: the first
    by writes, the second by age for the hour (5.476 g).
    """
    drives = ledger(2)
    drives.record(4 * TB, HOUR_S, 14 * TB)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(240.0)
    assert drives.embodied_g(Scope.PROVISIONED) == pytest.approx(240.0 + 5.476, abs=1e-3)


def test_what_is_given_back_is_charged_only_if_provisioned() -> None:
    """Half the time at 16 TB, half at nothing: half the grams, or all of them."""
    drives = ledger()
    drives.record(16 * TB, HOUR_S / 2, 0.0)
    drives.record(0.0, HOUR_S / 2, 0.0)
    hour = 480_000 / (5 * 8766)
    assert drives.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(hour / 2)
    assert drives.embodied_g(Scope.PROVISIONED) == pytest.approx(hour)


def test_a_smaller_last_drive_is_charged_for_its_size() -> None:
    """12 TB in drives of 8 TB: one and a half, 360 kg over 43,830 hours, 8.214 g an hour.

    Its endurance is half as well: 7 TB written to its 4 TB is a thousandth of 120 kg.
    """
    drives = ledger(1.5)
    drives.record(0.0, HOUR_S, 0.0)
    assert drives.installed_bytes == 12 * TB
    assert drives.embodied_g(Scope.PROVISIONED) == pytest.approx(8.214, abs=1e-3)
    worn = ledger(0.5)
    worn.record(4 * TB, 1.0, 7 * TB)
    assert worn.embodied_g(Scope.ATTRIBUTABLE) == pytest.approx(120.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 16e12), st.floats(0, 1e6), st.floats(0, 1e14)),
        min_size=1,
        max_size=6,
    )
)
def test_attributable_never_exceeds_provisioned(steps: list[tuple[float, float, float]]) -> None:
    drives = ledger()
    for allocated, duration_s, written in steps:
        drives.record(allocated, duration_s, written if allocated >= 1 else 0.0)
    attributable = drives.embodied_g(Scope.ATTRIBUTABLE)
    assert attributable <= drives.embodied_g(Scope.PROVISIONED) * (1 + 1e-12)
    assert attributable >= drives.embodied_g(Scope.ATTRIBUTABLE, wear=False) * (1 - 1e-12)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="installed"):
        ledger().record(17 * TB, 1.0, 0.0)
    with pytest.raises(InputError, match="no allocated SSD"):
        ledger().record(0.0, 1.0, 5.0)
    with pytest.raises(InputError):
        ledger(1, rated=0.0)
    with pytest.raises(InputError, match="more than one host holds"):
        ledger(1e6)


def test_a_gpu_by_time() -> None:
    """164 kg over 5 years: one hour of a whole GPU is 164,000 / 43,830 = 3.742 g."""
    assert embodied_by_time_g(164, 1.0, HOUR_S, 5) == pytest.approx(3.742, abs=1e-3)


def test_sci_is_grams_per_thousand_output_tokens() -> None:
    assert sci_g(300.0, 100.0, 2_000) == pytest.approx(200.0)
    assert sci_g(1.0, 1.0, 0) == float("inf")


def test_act_form() -> None:
    """1 cm2 at 1.52 kWh and 0.5 kg/kWh, 0.2 kg gas, 0.5 kg material: 1.46 kg.

    At a yield of 0.875 and with 0.15 kg of packaging: 1.46 / 0.875 + 0.15 = 1.8186 kg.
    """
    kg = chip_kg(
        100,
        energy_kwh_per_cm2=1.52,
        gas_kg_per_cm2=0.2,
        material_kg_per_cm2=0.5,
        grid_kg_per_kwh=0.5,
        fab_yield=0.875,
        packaging_kg=0.15,
    )
    assert kg == pytest.approx(1.8186, abs=1e-4)


def test_gpus_without_a_published_figure_are_derived(catalog: Catalog) -> None:
    derived = gpu_kg(catalog, catalog.part("gpu", "L40"))
    assert derived.low < derived.value < derived.high
    assert derived.source.read == "derived"
    assert gpu_kg(catalog, catalog.part("gpu", "H100")).value == 164


def test_drives_of_any_size_can_be_allocated_whole() -> None:
    """Sizes in binary units are no whole numbers of anything, and sums of them are rounded."""
    for drives in range(1, 40):
        drive_bytes = 3.2 * 2**40
        installed = int(drives * drive_bytes)
        ledger = DriveLedger(
            installed,
            drive_bytes=drive_bytes,
            kg_per_drive=50.0,
            lifetime_years=5.0,
            rated_write_bytes=1e16,
        )
        ledger.record(installed, 3600.0, 1e12)
        assert ledger.embodied_g(Scope.ATTRIBUTABLE) > 0
