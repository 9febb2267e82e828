"""What is learned of reuse is what the requests say, and what keeping is worth follows from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.errors import InputError
from greencache.tiers.reuse import (
    BUCKETS,
    CLASSES,
    COUNT,
    EDGES_S,
    LONGEST_S,
    SLICE_S,
    SLICES,
    Reuse,
    bucket_of,
    grow_reuse,
    new_reuse,
    observe,
)
from greencache.tiers.worth import HAZARD, RUN_S, TRUST_IN_ALL, is_due, learn, rank, survival_at
from tests.tiers.spells import PlainReuse, best_ratio
from tests.tiers.test_policies import prefix_requests


@kernel
def note(model: Reuse, ids: NDArray[np.int32], begin: int, now_s: float) -> None:
    observe(model, ids, begin, len(ids), now_s)


@kernel
def make_tables(model: Reuse, now_s: float) -> None:
    learn(model, now_s)
    rank(model)


@kernel
def survival(model: Reuse, kind: int, age_s: float) -> float:
    return survival_at(model, kind, age_s)


@kernel
def due(model: Reuse, now_s: float) -> bool:
    return is_due(model, now_s)


@kernel
def bucket(age_s: float) -> int:
    return bucket_of(age_s)


def index_of(model: Reuse, now_s: float) -> NDArray[np.float64]:
    make_tables(model, now_s)
    return model.density


def ask(model: Reuse, block: int, now_s: float) -> None:
    note(model, np.array([block], np.int32), 0, now_s)


def test_every_age_has_its_bucket() -> None:
    for i in range(BUCKETS):
        middle_s = (EDGES_S[i] + EDGES_S[i + 1]) / 2
        assert bucket(middle_s) == i
    assert bucket(LONGEST_S * 100) == BUCKETS - 1
    assert EDGES_S[-1] == LONGEST_S == SLICE_S * SLICES


@pytest.mark.slow
@given(
    requests=prefix_requests(),
    gaps=st.data(),
    half_life_s=st.sampled_from([300.0, 86_400.0, np.inf]),
    split=st.booleans(),
)
@settings(max_examples=100)
def test_the_life_table_is_that_of_all_spells_one_by_one(
    requests: list[list[int]], gaps: st.DataObject, half_life_s: float, split: bool
) -> None:
    model, plain = new_reuse(400, half_life_s), PlainReuse(half_life_s)
    now_s = 0.0
    for request in requests:
        now_s += gaps.draw(st.sampled_from([0.0, 0.3, 2.0, 50.0, 700.0, 20_000.0]))
        ids = np.array(request, np.int32)
        known = int(np.count_nonzero(model.seen["accesses"][ids]))
        if split:  # as a reservation does that follows a lease
            note(model, ids[:known], 0, now_s)
            note(model, ids, known, now_s)
        else:
            note(model, ids, 0, now_s)
        plain.observe(request, now_s)
        if gaps.draw(st.booleans()):
            make_tables(model, now_s)  # whenever it is asked makes no difference
    for name, block in plain.blocks.items():
        assert model.seen["kind"][name] == block.kind
        assert model.seen["last_s"][name] == block.spell.began_s
    make_tables(model, now_s)
    moves = np.zeros((CLASSES, CLASSES))
    for pair, weight in plain.moves(now_s).items():
        moves[pair] = weight
    np.testing.assert_allclose(model.moves, moves, rtol=1e-9, atol=1e-12)
    for kind in range(CLASSES):
        ended, exposed_s = plain.life_table(kind, now_s)
        np.testing.assert_allclose(model.ended[kind, :, COUNT], ended, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            model.table[kind, :, RUN_S], exposed_s, rtol=1e-6, atol=1e-6 * (1 + now_s)
        )
        hazards = model.table[kind, :, HAZARD].tolist()
        for start in range(0, BUCKETS, 9):
            assert model.density[kind, start] == pytest.approx(best_ratio(hazards, start), rel=1e-6)


def test_nothing_is_known_at_first_and_the_index_falls_with_age() -> None:
    model = new_reuse(1)
    ask(model, 0, 1000.0)
    index = index_of(model, 1000.0)
    assert (index > 0).all()
    assert (np.diff(index, axis=1) < 0).all()
    np.testing.assert_allclose(index, np.broadcast_to(index[0], index.shape), rtol=0.01)


def test_constant_hazard_is_worth_the_hazard_at_every_age() -> None:
    """Reuse without memory: to wait longer changes neither the chance nor what it takes."""
    rng, rate_per_s = np.random.default_rng(0), 0.01
    model = new_reuse(20_000)
    first_s = rng.uniform(0, 2000, 20_000)
    events = np.concatenate([first_s, first_s + rng.exponential(1 / rate_per_s, 20_000)])
    blocks = np.tile(np.arange(20_000), 2)
    for i in np.argsort(events, kind="stable"):
        ask(model, int(blocks[i]), float(events[i]))
    index = index_of(model, 10_000.0)
    known = [bucket(age_s) for age_s in (5.0, 20.0, 50.0, 100.0)]
    np.testing.assert_allclose(index[0, known], rate_per_s, rtol=0.1)
    assert survival(model, 0, 100.0) == pytest.approx(math.exp(-1), rel=0.05)


def test_a_block_due_at_a_fixed_gap_gains_worth_until_then() -> None:
    gap_s, blocks = 300.0, 5000
    model = new_reuse(blocks)
    for i in range(blocks):
        ask(model, i, float(i))
        if i >= gap_s:
            ask(model, int(i - gap_s), float(i))
    index = index_of(model, float(blocks))
    young, late = index[0, bucket(10.0)], index[0, bucket(200.0)]
    # Its hit is all but sure: about one over the seconds until it comes, where ages within a
    # bucket are not told apart, and a little is always thought possible before.
    begins_s, ends_s = EDGES_S[bucket(gap_s)], EDGES_S[bucket(gap_s) + 1]
    assert 0.8 / (gap_s - 10.0) < young < 1 / (begins_s - 16.0)
    assert late > 2 * young
    assert survival(model, 0, 256.0) > 0.93
    assert survival(model, 0, ends_s) < 0.1


def test_what_is_never_asked_for_again_is_worth_next_to_nothing() -> None:
    model = new_reuse(4000)
    for i in range(4000):
        ask(model, i, float(i))
        ask(model, 0, float(i))  # but for one, asked for at once
    index = index_of(model, 4000.0)
    once, often = 0, int(model.seen["kind"][0])
    age = bucket(60.0)
    assert index[once, age] < 1e-4
    assert survival(model, once, 3000.0) > 0.95
    assert index[often, 0] > 100 * index[once, 0]


def test_it_follows_change() -> None:
    """Half a day of blocks asked for twice, then two days of ones that never are."""
    model = new_reuse(60_000, half_life_s=6 * 3600.0)
    now_s, block = 0.0, 0
    before = 0.0
    for hour in range(60):
        for _ in range(600):
            now_s += 6.0
            ask(model, block, now_s)
            if hour < 12:
                ask(model, block, now_s + 3.0)
            block += 1
        if hour == 11:
            before = index_of(model, now_s)[0, bucket(2.0)]
    after = index_of(model, now_s)[0, bucket(2.0)]
    assert after < before / 50


def test_spells_older_than_the_ring_outlive_all_ages() -> None:
    model = new_reuse(1001, half_life_s=np.inf)
    for i in range(1000):
        ask(model, i, float(i))
    later_s = 3 * LONGEST_S
    ask(model, 1000, later_s)
    ask(model, 0, later_s + 1)  # ends a spell that is counted already
    index_of(model, later_s + 1)
    assert model.outlived.sum() == 1000
    assert model.running.sum() == 2
    assert model.ended.sum() == 0
    np.testing.assert_allclose(model.table[0, 1:, RUN_S], 1000 * np.diff(EDGES_S)[1:])
    assert survival(model, 0, LONGEST_S) > 1 - 2 * BUCKETS * TRUST_IN_ALL / 1000


def test_tables_are_made_often_at_first_and_seldom_later() -> None:
    model = new_reuse(1)
    assert not due(model, 5.0), "nothing has been seen"
    ask(model, 0, 0.0)
    assert not due(model, 9.0)
    assert due(model, 11.0)
    made = []
    for now_s in np.arange(0.0, 86_400.0, 5.0):
        ask(model, 0, float(now_s))
        if due(model, float(now_s)):
            index_of(model, float(now_s))
            made.append(now_s)
    assert 50 < len(made) < 150
    assert np.diff(made)[-1] == 1800


def test_growing_keeps_what_is_known() -> None:
    model = new_reuse(1)
    ask(model, 0, 1.0)
    grown = grow_reuse(model, 5)
    ask(grown, 4, 2.0)
    assert grown.seen["accesses"].tolist()[:5] == [1, 0, 0, 0, 1]
    assert grow_reuse(grown, 3) is grown


def test_a_half_life_is_some_time() -> None:
    with pytest.raises(InputError, match="half-life"):
        new_reuse(1, half_life_s=0.0)
