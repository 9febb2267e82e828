"""The daemon benchmark: what it times is stored and read back, and what is wanted is compared."""

from __future__ import annotations

from typing import Any

import pytest

from greencache.bench.client_sides import ClientSide
from greencache.bench.daemon import targets
from greencache.bench.tier_rounds import DRAM, Case, measure_case
from greencache.bench.tier_sides import MEMCPY, MemcpySide


@pytest.mark.soak  # it starts a daemon by the command line
def test_a_client_takes_turns_with_memcpy() -> None:
    case = Case(DRAM, block_bytes=64 * 1024, blocks=4, batches=2)
    sides = measure_case(case, [MemcpySide(), ClientSide()], rounds=2)["sides"]
    assert sides[ClientSide.name].get("missing") is None
    assert sides[ClientSide.name]["timed_puts"] == 4
    assert sides[ClientSide.name]["times"][MEMCPY]["get"] > 0


@pytest.mark.parametrize(("put", "ms", "holds"), [(0.9, 2.0, True), (0.7, 4.0, False)])
def test_what_is_wanted_is_compared(put: float, ms: float, holds: bool) -> None:
    result: dict[str, Any] = {
        "cases": [
            {
                "block_bytes": 2 << 20,
                "sides": {"Client": {"times": {MEMCPY: {"put": put, "get": put}}}},
            }
        ],
        "lookups": [{"client": "Client", "what": "lookup", "there": 1000, "ms": {"p50": ms}}],
        "idle": {"share_of_a_core": 0.005 if holds else 0.5},
    }
    found = targets(result)
    assert len(found) == 4
    assert {each["holds"] for each in found} == {holds}
