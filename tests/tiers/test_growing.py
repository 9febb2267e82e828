"""Arrays that grow with what is known take little more than that, and grow cheaply."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.tiers.directory import KeyDirectory
from greencache.tiers.growing import room_for
from greencache.tiers.reuse import grow_reuse, new_reuse
from greencache.tiers.state import LRU, allocate, grow

KEYS = 200_000


def test_a_sixteenth_more_than_wanted_is_the_most_that_is_allocated() -> None:
    have = grown = copied = 0
    for wanted in range(1, KEYS):
        if wanted > have:
            copied += have
            have, grown = room_for(wanted, have), grown + 1
        assert wanted <= have <= wanted * 17 / 16 + 1024
    assert grown < 150
    assert copied < 20 * KEYS, "copying is in proportion to what there is, not to its square"


def test_far_more_wanted_at_once_is_what_is_allocated() -> None:
    assert room_for(10**6, 1000) == 10**6
    assert room_for(5, 10) == 10


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1000, 7000])
def test_a_directory_takes_no_more_than_34_bytes_a_key(at_once: int) -> None:
    """16 for the key, 12 for the table at the most, a sixteenth more of the former to grow into."""
    directory = KeyDirectory()
    draw = np.random.default_rng(0)
    keys: list[bytes] = []
    while len(directory) < KEYS:
        new = [draw.bytes(16) for _ in range(at_once)]
        keys += new[:3]
        directory.intern(new)
        if len(directory) > 32_000:
            assert directory.nbytes / len(directory) <= 34
    ids = directory.find(keys)
    assert len(set(ids.tolist())) == len(keys)
    assert ids.min() >= 0


def test_ids_of_a_tier_and_of_what_is_known_of_reuse_take_no_more_either() -> None:
    state, model = allocate(0, 0, LRU), new_reuse(0)
    for ids in range(1000, KEYS, 1000):
        state, model = grow(state, 0, ids), grow_reuse(model, ids)
        for array in (state.slot_of, model.seen):
            assert ids <= len(array) <= ids * 17 / 16 + 1024
