"""Names of shadowed blocks stay bounded, and what is forgotten changes nothing that is held."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.controller.naming import BlockNames
from greencache.controller.prompts import Prompts
from greencache.controller.reuse import ReuseProfile
from greencache.controller.shadow import ShadowCaches, ShadowSizes, StoringRules
from greencache.errors import InputError

TOKENS = 16
SIZES = ShadowSizes(20, (0, 40), (0, 60, 120))


def shadow(*, by_value: bool = False) -> ShadowCaches:
    storing = StoringRules(by_value=by_value)
    return ShadowCaches(SIZES, TOKENS, storing=storing, rate=1.0)


def keys(first: int, count: int) -> bytes:
    return b"".join((first + i).to_bytes(16, "little") for i in range(count))


def prompts(names: BlockNames, asked: list[bytes], began_s: float) -> Prompts:
    full = np.array([len(each) // 16 for each in asked], np.int64)
    arrival_s = began_s + np.arange(len(asked), dtype=np.float64)
    return Prompts(
        ids=names.ids(b"".join(asked), began_s),
        starts=np.cumsum(full) - full,
        full=full,
        reusable=full,
        input_tokens=full * TOKENS + 1,
        output_tokens=np.full(len(asked), 10),
        arrival_s=arrival_s,
        computed_s=arrival_s + 0.5,
    )


def served(names: BlockNames, shadow: ShadowCaches, hours: int) -> ReuseProfile:
    """Hours of prompts, half of which come back within the hour, the others never."""
    rng = np.random.default_rng(3)
    for hour in range(hours):
        asked = []
        for place in range(60):
            fresh = 10_000 * hour + 10 * place
            old = 10_000 * hour + 10 * int(rng.integers(max(place - 20, 0), place + 1))
            asked.append(keys(old if place % 2 else fresh, 5))
        shadow.observe(prompts(names, asked, 3600.0 * hour), 3600.0 * (hour + 1))
        shadow.end_interval(3600.0 * hour, 3600.0)
        names.forget()
    return shadow.profile()


@pytest.mark.parametrize("by_value", [False, True])
def test_what_is_forgotten_was_of_no_use(by_value: bool) -> None:
    bounded, unbounded = shadow(by_value=by_value), shadow(by_value=by_value)
    few, all_of_them = BlockNames(bounded, most=400), BlockNames(unbounded, most=10**6)
    least, most = served(few, bounded, 12), served(all_of_them, unbounded, 12)
    np.testing.assert_array_equal(least.found, most.found)
    np.testing.assert_array_equal(least.written, most.written)
    assert len(few) <= 400 + 60 * 5
    assert len(all_of_them) > 1500
    assert few.memory_bytes < all_of_them.memory_bytes


def test_what_is_held_or_waited_for_is_never_forgotten() -> None:
    caches = shadow()
    names = BlockNames(caches, most=1)
    asked = [keys(0, 5), keys(100, 5)]
    late = prompts(names, asked, 0.0)
    caches.observe(late, 0.7)  # the first is stored, the second waits to be
    assert names.forget() == 0
    assert names.ids(keys(0, 5), 1.0).tolist() == late.ids[:5].tolist()
    assert names.ids(keys(100, 5), 1.0).tolist() == late.ids[5:].tolist()


def test_by_default_as_many_are_known_as_the_largest_sizes_have() -> None:
    large = ShadowCaches(ShadowSizes(100_000, (0, 200_000), (0, 300_000)), TOKENS, rate=0.01)
    assert BlockNames(large).most == 720_000
    assert BlockNames(shadow()).most == 65_536
    with pytest.raises(InputError):
        BlockNames(shadow(), most=0)
