"""What a hit on SSD is worth where storage keeps the SLO."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.controller.prospects import ProspectsModel
from greencache.controller.served import needs_storage, served_g_per_byte
from greencache.quantities import GB, HOUR_S, YEAR_S
from tests.controller.test_loop import view_of
from tests.controller.test_prospects import DRAMS, model, profile_of

__all__ = ["model"]


def test_it_is_what_dram_costs_for_what_dram_serves(model: ProspectsModel) -> None:
    profile, factors = profile_of(), model.prices.factors
    whole_gb = DRAMS[1] / GB
    kwh = factors.dram_w_per_gb.value * whole_gb / 1000
    lifetime_s = factors.dram_lifetime_years.value * YEAR_S
    embodied_g = 1000 * factors.dram_kg_per_gb.value * whole_gb * HOUR_S / lifetime_s
    mean_g = kwh * 50.0 * factors.pue.value + embodied_g
    found = profile.found[:, 0].sum(axis=-1)
    layout = model.service.hardware.layout
    served_bytes = 200.0 * profile.input_tokens * (found[1] - found[0])
    served_bytes *= layout.block_bytes / layout.block_tokens
    worth = served_g_per_byte(model, profile, 200.0, 50.0)
    assert worth == pytest.approx(10 * mean_g / served_bytes)


def test_dram_that_serves_nothing_is_not_what_else_there_is(model: ProspectsModel) -> None:
    profile = profile_of()
    nothing = replace(profile, found=np.zeros_like(profile.found))
    assert served_g_per_byte(model, nothing, 200.0, 50.0) == 0.0


@pytest.mark.parametrize(("smallest", "needed"), [(9.2, False), (8.9, True)])
def test_storage_is_needed_where_the_smallest_sizes_miss_the_slo(
    smallest: float, needed: bool
) -> None:
    view = view_of([[1, 3, 4]] * 2, [[smallest, 9.5, 9.9]] * 2)
    assert needs_storage(view.instance) == needed
