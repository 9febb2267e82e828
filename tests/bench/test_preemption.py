"""What happens when HBM is full: answers grow, someone must give way, and nobody is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.bench.simulation import simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware, step_cost
from greencache.tiers import Policy
from greencache.traces import RequestTrace
from tests.bench.traces import chats, fresh_prompts, make_trace

NOTHING = StorageSetup(reuse_hbm=False)


def with_hbm_of(hardware: ServingHardware, blocks: int) -> ServingHardware:
    """The same engine with room for so many blocks."""
    return replace(hardware, kv_bytes=float(blocks * hardware.layout.block_bytes))


def test_two_answers_that_do_not_fit_take_turns(hardware: ServingHardware) -> None:
    """Room for 5 blocks; two prompts of 2, whose answers make 4 of each.

    The first to need a third block takes the fifth; then the other needs one, and as the younger
    it gives way, until the first is done.
    """
    engine = with_hbm_of(hardware, 5)
    run = simulate(fresh_prompts(2, 0.0, blocks=2, output=1_000), engine, NOTHING)
    older, younger = run.requests
    assert (older["preemptions"], younger["preemptions"]) == (0, 1)
    assert older["finish_s"] < younger["finish_s"]
    assert run.leases_left == 0
    plenty = simulate(fresh_prompts(2, 0.0, blocks=2, output=1_000), hardware, NOTHING)
    assert plenty.requests["preemptions"].sum() == 0
    assert younger["first_token_s"] == pytest.approx(plenty.requests["first_token_s"][1])


def test_what_was_preempted_is_computed_again(hardware: ServingHardware) -> None:
    """The younger has prompt and half an answer to compute when it comes back, and no more."""
    prompt, answer = 2 * 512, 1_000
    run = simulate(
        fresh_prompts(2, 0.0, blocks=2, output=answer), with_hbm_of(hardware, 5), NOTHING
    )
    computed = run.bins["prefill_tokens"].sum()
    # Both need a third block to write token 1,025; the younger had just one token out by then.
    assert computed == 2 * prompt + (prompt + 1)
    cached = simulate(
        fresh_prompts(2, 0.0, blocks=2, output=answer), with_hbm_of(hardware, 5), StorageSetup()
    )
    assert cached.requests["preemptions"].sum() > 0
    assert cached.requests["hbm_blocks"].sum() == 0, "own blocks found again are no hits"


def test_a_prompt_waits_until_hbm_can_hold_it(hardware: ServingHardware) -> None:
    engine = with_hbm_of(hardware, 5)
    run = simulate(fresh_prompts(2, 0.0, blocks=4, output=2), engine, NOTHING)
    alone = simulate(fresh_prompts(1, 0.0, blocks=4, output=2), engine, NOTHING)
    assert run.end_s == pytest.approx(2 * alone.end_s, rel=1e-9)


def test_preempted_prompts_find_their_own_blocks(hardware: ServingHardware) -> None:
    """With a tier below HBM, the prompt is loaded back instead of computed."""
    tight = with_hbm_of(hardware, 9)
    trace = fresh_prompts(4, 0.0, blocks=2, output=1_500)
    without = simulate(trace, tight, StorageSetup())
    below = simulate(trace, tight, StorageSetup(dram_bytes=64 * hardware.layout.block_bytes))
    assert without.requests["preemptions"].sum() > 0
    assert below.bins["prefill_tokens"].sum() < without.bins["prefill_tokens"].sum()


@given(trace=chats(), spare=st.integers(0, 12), policy=st.sampled_from(list(Policy)))
@settings(max_examples=60)
def test_however_tight_everyone_is_served(
    hardware: ServingHardware, trace: RequestTrace, spare: int, policy: Policy
) -> None:
    """HBM for the largest request and little more: all end, and all room is given back."""
    largest = int((-(-(trace.input_tokens + trace.output_tokens) // 512)).max())
    engine = with_hbm_of(hardware, largest + spare)
    storage = StorageSetup(dram_bytes=20 * hardware.layout.block_bytes, policy=policy)
    run = simulate(trace, engine, storage)
    assert run.overloaded is None
    assert np.isfinite(run.requests["finish_s"]).all()
    assert (run.requests["finish_s"] >= run.requests["first_token_s"]).all()
    assert run.leases_left == 0
    if run.requests["preemptions"].sum() == 0:
        found = sum(run.requests[f"{tier}_blocks"].sum() for tier in ("hbm", "dram", "ssd"))
        assert run.bins["prefill_tokens"].sum() == trace.input_tokens.sum() - 512 * found


def test_a_prompt_alone_costs_all_its_energy_above_idle(hardware: ServingHardware) -> None:
    run = simulate(make_trace([(0.0, 2_048, 1, range(4))]), hardware, NOTHING)
    step = step_cost(hardware.rates, 2048.0, 1.0, 2048 * 2049 / 2, 0.0)
    added_j = (step.power_w - hardware.rates.idle_w) * step.duration_s
    assert run.bins["prefill_j"].sum() == pytest.approx(added_j, rel=1e-9)
    assert run.bins["prefill_tokens"].sum() == 2_048


def test_a_prompt_among_answers_costs_less_than_alone(hardware: ServingHardware) -> None:
    """The weights are read for the answers anyway: what a prompt adds is its arithmetic."""
    alone = simulate(make_trace([(10.0, 600, 1, [1])]), hardware, NOTHING)
    crowd = [(0.0, 512, 4_000, [100 + i]) for i in range(64)]
    among = simulate(make_trace([*crowd, (10.0, 600, 1, [1])]), hardware, NOTHING)
    minute = simulate(make_trace(crowd), hardware, NOTHING)
    added_j = among.bins["prefill_j"].sum() - minute.bins["prefill_j"].sum()
    assert 0 < added_j < alone.bins["prefill_j"].sum()
