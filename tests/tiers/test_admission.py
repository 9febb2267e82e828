"""What is admitted is what pays, and the price of wear settles where writes meet the endurance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.errors import UnknownNameError
from greencache.tiers.admission import (
    ANY,
    CREDIT,
    CREDIT_S,
    MIDDLE,
    RATIOS,
    Admission,
    Prices,
    Storing,
    admit_until,
    draw,
    earn,
    foresee,
    kept_s,
    new_storing,
    note_held,
    write_cost_j,
)
from greencache.tiers.index import TierIndex
from greencache.tiers.kernels import access_blocks, observe_blocks
from greencache.tiers.learning import Learner
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import CLASSES, SEEN, Reuse, new_reuse, observe
from greencache.tiers.state import TierState, allocate, follow
from greencache.tiers.worth import learn, survival_at

RATIO = 2.0 ** ((np.arange(RATIOS) - RATIOS // 2) / 2)


@kernel
def admit(
    seen: NDArray[np.void],
    storing: Storing,
    prices: Prices,
    cost_j: float,
    ids: NDArray[np.int32],
    found: int,
) -> int:
    return admit_until(seen, storing, prices, cost_j, ids, found)


@kernel
def look_ahead(model: Reuse, storing: Storing, above_s: float, own_s: float) -> None:
    foresee(model, storing, above_s, own_s, 0.0)


@kernel
def ask(model: Reuse, storing: Storing, ids: NDArray[np.int32], held: int, now_s: float) -> None:
    note_held(storing, model.seen, ids, held, now_s)
    observe(model, ids, 0, len(ids), now_s)


@kernel
def learn_now(model: Reuse, now_s: float) -> None:
    learn(model, now_s)


@kernel
def survival(model: Reuse, kind: int, age_s: float) -> float:
    return survival_at(model, kind, age_s)


@kernel
def pace_of(
    pace: NDArray[np.float64], prices: Prices, blocks_per_s: float, now_s: float, blocks: float
) -> float:
    earn(pace, blocks_per_s, now_s)
    cost_j = write_cost_j(pace, prices, blocks_per_s)
    draw(pace, blocks)
    return cost_j


@kernel
def stay(tier: TierState, flow: NDArray[np.float64], seconds: float) -> float:
    return kept_s(tier, flow, seconds)


def best_prefix(worth_j: list[float], found: int) -> int:
    """The longest of the best, by trying every length."""
    totals = [sum(worth_j[:length]) for length in range(len(worth_j) + 1)]
    return found + max(i for i, total in enumerate(totals) if total >= max(totals) - 1e-9)


@given(
    kinds=st.lists(st.integers(0, CLASSES - 1), max_size=12),
    found=st.integers(0, 12),
    cost_j=st.floats(0.5, 5000.0),
    seed=st.integers(0, 2**16),
)
@example(kinds=[0] * 11, found=5, cost_j=422.0, seed=0)  # ratios below 1, between two places
@settings(max_examples=200)
def test_no_other_prefix_is_worth_more(
    kinds: list[int], found: int, cost_j: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    storing = new_storing(1)
    storing.ahead[:] = np.cumsum(rng.uniform(0, 0.2, storing.ahead.shape), axis=1)
    prices = Prices(compute_j=100.0, compute_j_per_depth=7.0, load_j=120.0, write_j=1.0, wear_j=9.0)
    seen = np.zeros(len(kinds), SEEN)
    seen["kind"], seen["depth"] = kinds, np.arange(len(kinds))
    found = min(found, len(kinds))
    worth_j = []
    for depth in range(found, len(kinds)):
        ratio = max(0.0, 100.0 + 7.0 * depth - 120.0) / cost_j
        ahead = np.interp(ratio, [0.0, *RATIO], [0.0, *storing.ahead[kinds[depth]]])
        worth_j.append(float(ahead - 1) * cost_j)
    ids = np.arange(len(kinds), dtype=np.int32)
    assert admit(seen, storing, prices, cost_j, ids, found) == best_prefix(worth_j, found)


def test_what_costs_nothing_is_written() -> None:
    seen, ids = np.zeros(5, SEEN), np.arange(5, dtype=np.int32)
    prices = Prices(1.0, 0.0, 0.0, 0.0, 0.0)
    assert admit(seen, new_storing(1), prices, 0.0, ids, 2) == 5
    assert admit(seen, new_storing(1), prices, 1.0, ids, 2) == 2


def test_a_hit_is_worth_at_least_what_else_would_serve_it() -> None:
    seen, ids = np.zeros(5, SEEN), np.arange(5, dtype=np.int32)
    storing = new_storing(1)
    storing.ahead[:] = 0.5 * RATIO  # every other block is asked for again
    dear = Prices(compute_j=1.0, compute_j_per_depth=0.0, load_j=0.0, write_j=1.0, wear_j=9.0)
    assert admit(seen, storing, dear, 10.0, ids, 0) == 0
    assert admit(seen, storing, dear._replace(served_j=19.0), 10.0, ids, 0) == 0
    assert admit(seen, storing, dear._replace(served_j=21.0), 10.0, ids, 0) == 5


@pytest.mark.slow
def test_a_block_is_ahead_by_its_hits_and_by_the_writes_it_saves() -> None:
    """As the fixed point of the definition, found by plain iteration."""
    rng = np.random.default_rng(3)
    model, storing = new_reuse(40), new_storing(1)
    for now_s in np.sort(rng.uniform(0, 50_000, 2_000)):
        first = int(rng.integers(0, 36))
        ids = np.arange(first, first + int(rng.integers(1, 4)), dtype=np.int32)
        observe_blocks(model, ids, 0, float(now_s))
    learn_now(model, 50_000.0)
    above_s, own_s = 256.0, 3_000.0  # where a bucket begins
    for _ in range(1_000):
        look_ahead(model, storing, above_s, own_s)
    middle = np.zeros((CLASSES, 1))
    again = np.zeros((CLASSES, 1))
    for kind in range(CLASSES):
        dropped = survival(model, kind, own_s)
        middle[kind] = survival(model, kind, above_s) - dropped
        again[kind] = 1 - dropped
    assert 0.05 < middle.max() < again.max() < 1
    np.testing.assert_allclose(storing.odds[:, [MIDDLE]], middle)
    np.testing.assert_allclose(storing.odds[:, [ANY]], again)
    moves = model.moves / np.maximum(model.moves.sum(axis=1, keepdims=True), 1e-9)
    ahead = np.zeros((CLASSES, RATIOS))
    for _ in range(8_000):
        ahead = middle * RATIO + again * (moves @ np.minimum(ahead, 1.0))
    np.testing.assert_allclose(storing.ahead, ahead, rtol=1e-4)


def test_a_tier_no_longer_lived_than_those_above_admits_nothing() -> None:
    model, storing = new_reuse(3), new_storing(1)
    for now_s in range(0, 6000, 50):
        observe_blocks(model, np.arange(3, dtype=np.int32), 0, float(now_s))
    learn_now(model, 6000.0)
    look_ahead(model, storing, 400.0, 100.0)
    assert (storing.odds[:, MIDDLE] == 0).all()
    prices = Prices(1e6, 0.0, 0.0, 1.0, 1.0)
    ids = np.arange(3, dtype=np.int32)
    assert admit(model.seen, storing, prices, 1.0, ids, 0) == 0


def test_what_tiers_above_held_is_taken_from_what_this_one_adds() -> None:
    """Half of each prompt is held there whatever its age, as no age of their own would say."""
    model, storing = new_reuse(4), new_storing(1)
    ids = np.arange(4, dtype=np.int32)
    for visit in range(2_000):
        ask(model, storing, ids, 2, visit * 300.0)
        model.seen["stored"] = 1
    learn_now(model, 600_000.0)
    look_ahead(model, storing, 0.0, 3_000.0)
    often = int(model.seen["kind"][0])
    assert storing.odds[often, ANY] > 0.95
    assert storing.odds[often, MIDDLE] == pytest.approx(0.5, abs=0.07)


def test_a_tier_that_grows_is_thought_of_at_once() -> None:
    """One that keeps nothing is worth no write; it must not stay so for half an hour after."""
    learner = Learner(Prices(1e6, 0.0, 0.0, 1.0, 0.0))
    ssd, nothing = TierIndex(0), TierIndex(0).state
    ids = np.arange(3, dtype=np.int32)

    def ask_and_admit(now_s: float) -> int:
        learner.learn(ids, 0, now_s, hbm=nothing, dram=nothing, ssd=ssd.state)
        return learner.admit(ids, 0, ssd.capacity_blocks, now_s)

    for now_s in np.arange(0.0, 10 * 3600.0, 300.0):
        declined = ask_and_admit(now_s)
    assert declined == 0
    ssd.resize(1000, 10 * 3600.0)
    assert ask_and_admit(10 * 3600.0) == 3


def test_what_a_larger_dram_held_is_no_reason_to_decline() -> None:
    """DRAM that served all has gone: SSD would serve it now, and knows at once."""
    learner = Learner(Prices(1e6, 0.0, 0.0, 1.0, 0.0))
    dram, ssd, nothing = TierIndex(1000), TierIndex(1000), TierIndex(0).state
    ids = np.arange(100, dtype=np.int32)

    def ask_and_see(held: int, now_s: float) -> float:
        learner.learn(ids, held, now_s, hbm=nothing, dram=dram.state, ssd=ssd.state)
        learner.admit(ids, 0, ssd.capacity_blocks, now_s)
        return float(learner.storing.odds[int(learner.model.seen["kind"][0]), MIDDLE])

    for now_s in np.arange(0.0, 10 * 3600.0, 300.0):
        under_dram = ask_and_see(len(ids), now_s)
    assert under_dram < 0.05
    dram.resize(0, 10 * 3600.0)
    assert ask_and_see(0, 10 * 3600.0) > 0.9


def test_what_is_still_computed_is_no_reason_to_write() -> None:
    """Asked for again before it could be stored: SSD would not have had it either."""
    model, storing = new_reuse(4), new_storing(1)
    ids = np.arange(4, dtype=np.int32)
    for visit in range(2_000):
        ask(model, storing, ids, 0, visit * 300.0)
    learn_now(model, 600_000.0)
    look_ahead(model, storing, 0.0, 3_000.0)
    assert storing.odds[int(model.seen["kind"][0]), MIDDLE] < 0.15, "what is thought possible"


PRICES = Prices(0.0, 0.0, 0.0, write_j=1.0, wear_j=100.0)


def written(blocks_per_s: float, asked_per_s: float, worth_j: float, hours: float) -> list[float]:
    """Times at which a block was written, of blocks that are worth up to so much, evenly."""
    rng = np.random.default_rng(1)
    pace = new_storing(1).pace
    times = []
    for now_s in np.arange(0.0, hours * 3600, 1 / asked_per_s):
        cost_j = pace_of(pace, PRICES, blocks_per_s, now_s, 0.0)
        assert PRICES.write_j <= cost_j <= PRICES.write_j + PRICES.wear_j
        if rng.uniform(0, worth_j) > cost_j:
            pace_of(pace, PRICES, blocks_per_s, now_s, 1.0)
            times.append(now_s)
    return times


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_writes_settle_at_the_endurance(share: float) -> None:
    """Where none is worth its full wear, so many are written as age would waste."""
    times = np.array(written(share, 1.0, worth_j=95.0, hours=96))
    late = (times > 48 * 3600).sum() / (48 * 3600)
    assert late == pytest.approx(share, rel=0.05)


def test_what_is_worth_its_full_wear_is_written_beyond_the_endurance() -> None:
    times = np.array(written(0.01, 1.0, worth_j=1010.0, hours=48))
    late = (times > 24 * 3600).sum() / (24 * 3600)
    assert late == pytest.approx(0.9, rel=0.02)


def test_wear_is_free_while_less_is_asked_than_age_would_waste() -> None:
    pace = new_storing(1).pace
    costs = [pace_of(pace, PRICES, 2.0, float(now_s), 1.0) for now_s in range(48 * 3600)]
    assert costs[0] == pytest.approx(101.0)
    assert costs[-1] == pytest.approx(1.0, abs=0.1)
    assert pace[CREDIT] == pytest.approx(2.0 * CREDIT_S, rel=0.001)


@pytest.mark.parametrize("larger", [0.25, 10.0])
def test_a_tier_that_is_resized_keeps_the_price_of_its_writes(larger: float) -> None:
    pace = new_storing(1).pace
    for now_s in range(3 * 3600):
        before = pace_of(pace, PRICES, 1.0, float(now_s), 0.0)
    assert before == pytest.approx(1.0 + 50.0, rel=0.01), "half of the most credit"
    assert pace_of(pace, PRICES, larger, 3 * 3600.0, 0.0) == pytest.approx(before, rel=0.001)


def test_without_wear_a_write_costs_its_energy() -> None:
    pace = new_storing(1).pace
    free = PRICES._replace(wear_j=0.0)
    for prices, blocks_per_s in ((free, 1.0), (free, np.inf), (PRICES, np.inf)):
        for now_s in (0.0, 0.0, 10.0):
            assert pace_of(pace, prices, blocks_per_s, now_s, 3.0) == 1.0
    assert pace_of(new_storing(1).pace, PRICES, 0.0, 9.0, 1.0) == 101.0, "no capacity, no credit"


def test_a_block_stays_until_it_would_be_the_next_to_go() -> None:
    """Asked for or not, empty or full: as told before the first block has gone, and after."""
    rng = np.random.default_rng(5)
    capacity, blocks = 200, 20_000
    model = new_reuse(blocks)
    tier = follow(allocate(capacity, blocks, Policy.LRU.code), model)
    flow, told, looked_s = new_storing(1).flow[0], [], 0.0
    ages = []
    for i in range(blocks):
        now_s = float(i)
        again = max(0, i - int(rng.exponential(60))) if i % 2 else i
        for block in {i, again}:
            request = np.array([block], np.int32)
            observe_blocks(model, request, 0, now_s)
            access_blocks(tier, request, 1, now_s)
        if i % 100 == 99:
            told.append(stay(tier, flow, now_s - looked_s))
            looked_s = now_s
            ages.append(now_s - model.seen["last_s"][tier.slots["id"][tier.heap[0]]])
    assert told[0] == pytest.approx(capacity, rel=0.05), "one block a second is stored"
    assert np.mean(told[50:]) == pytest.approx(np.mean(ages[50:]), rel=0.05)
    assert np.mean(ages[50:]) < 0.9 * capacity
    assert stay(allocate(0, 0, Policy.LRU.code), flow, 1.0) == 0.0


def test_an_unknown_admission_names_the_known_ones() -> None:
    assert Admission.parse("ALL") is Admission.ALL
    with pytest.raises(UnknownNameError, match="'value'"):
        Admission.parse("valu")
