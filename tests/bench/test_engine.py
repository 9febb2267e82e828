"""The simulated engine against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from greencache.bench.simulation import Batching, SimulatedRun, admit, simulate
from greencache.bench.storage import StorageSetup
from greencache.controller.performance import ServingHardware, step_cost
from greencache.errors import InputError
from greencache.tiers import Policy
from greencache.traces import RequestTrace
from tests.bench.traces import chats, fresh_prompts, make_trace

NOTHING = StorageSetup(reuse_hbm=False)
HBM = StorageSetup()


def ttft(run: SimulatedRun) -> NDArray[np.float64]:
    times: NDArray[np.float64] = run.requests["first_token_s"] - run.requests["arrival_s"]
    return times


def test_one_request_alone_takes_its_steps(hardware: ServingHardware) -> None:
    """5,000 tokens in chunks of 2,048, 2,048 and 904; then 99 steps of decoding, one token each."""
    run = simulate(make_trace([(0.0, 5_000, 100, range(10))]), hardware, NOTHING)
    expected_s = 0.0
    for before, chunk in ((0, 2048), (2048, 2048), (4096, 904)):
        attended = chunk * (before + (chunk + 1) / 2)
        samples = 1 if before + chunk == 5_000 else 0
        expected_s += step_cost(hardware.rates, chunk, samples, attended, before).duration_s
    assert ttft(run)[0] == pytest.approx(expected_s, rel=1e-9)
    decode_s = sum(
        step_cost(hardware.rates, 1.0, 1.0, float(c), float(c)).duration_s
        for c in range(5_001, 5_100)
    )
    assert run.requests["finish_s"][0] == pytest.approx(expected_s + decode_s, rel=1e-9)


def test_smaller_steps_take_longer(hardware: ServingHardware) -> None:
    """5,000 tokens in ten chunks of 500 tokens instead of three."""
    trace = make_trace([(0.0, 5_000, 1, range(10))])
    large = simulate(trace, hardware, NOTHING)
    small = simulate(trace, hardware, NOTHING, batching=Batching(max_batched_tokens=500))
    overhead_s = 7 * hardware.rates.overhead_s
    assert ttft(small)[0] >= ttft(large)[0] + 0.9 * overhead_s


def test_no_more_run_at_once_than_allowed(hardware: ServingHardware) -> None:
    """One at a time: the second begins when the first has its whole answer."""
    alone = simulate(fresh_prompts(1, 0.0), hardware, NOTHING)
    run = simulate(fresh_prompts(2, 0.0), hardware, NOTHING, batching=Batching(max_running=1))
    assert run.end_s == pytest.approx(2 * alone.end_s, rel=1e-9)


def test_energy_of_an_idle_hour_is_idle_power(hardware: ServingHardware) -> None:
    run = simulate(fresh_prompts(2, 3600.0, output=1), hardware, NOTHING)
    idle_s = run.end_s - float(run.bins["busy_s"].sum())
    busy_j = float(run.bins["gpu_j"].sum()) - idle_s * hardware.rates.idle_w
    one = simulate(fresh_prompts(1, 0.0, output=1), hardware, NOTHING)
    assert busy_j == pytest.approx(2 * float(one.bins["gpu_j"].sum()), rel=1e-6)
    assert float(run.bins["busy_s"].sum()) == pytest.approx(2 * one.end_s, rel=1e-9)


def test_a_repeated_prompt_computes_only_what_is_new(hardware: ServingHardware) -> None:
    """4 blocks and 100 tokens, twice: the second time 2,048 tokens are found in HBM."""
    trace = make_trace([(0.0, 2_148, 2, range(5)), (100.0, 2_148, 2, range(5))])
    run = simulate(trace, hardware, HBM)
    assert run.requests["hbm_blocks"].tolist() == [0, 4]
    attended = 100 * (2_048 + 101 / 2)
    expected_s = step_cost(hardware.rates, 100.0, 1.0, attended, 2_048.0).duration_s
    assert ttft(run)[1] == pytest.approx(expected_s, rel=1e-9)


def test_a_whole_prompt_in_cache_still_computes_its_last_block(hardware: ServingHardware) -> None:
    trace = make_trace([(0.0, 1024, 2, range(2)), (10.0, 1024, 2, range(2))])
    assert simulate(trace, hardware, HBM).requests["hbm_blocks"].tolist() == [0, 1]


def test_loads_wait_for_their_bytes(hardware: ServingHardware) -> None:
    """With no HBM to reuse, 4 blocks come from DRAM over the host link, or from SSD at its rate."""
    trace = make_trace([(0.0, 2_148, 2, range(5)), (100.0, 2_148, 2, range(5))])
    loaded_bytes = 4 * hardware.layout.block_bytes
    room = 10 * hardware.layout.block_bytes
    attended = 100 * (2_048 + 101 / 2)
    compute_s = step_cost(hardware.rates, 100.0, 1.0, attended, 2_048.0).duration_s
    dram = simulate(trace, hardware, StorageSetup(reuse_hbm=False, dram_bytes=room))
    assert dram.requests["dram_blocks"].tolist() == [0, 4]
    link_s = loaded_bytes / hardware.host_link_bytes_per_s
    assert ttft(dram)[1] == pytest.approx(link_s + compute_s, rel=1e-9)
    slow_ssd = StorageSetup(
        reuse_hbm=False, ssd_bytes=room, ssd_read_bytes_per_s=1e9, ssd_write_bytes_per_s=1e9
    )
    ssd = simulate(trace, hardware, slow_ssd)
    assert ssd.requests["ssd_blocks"].tolist() == [0, 4]
    assert ttft(ssd)[1] == pytest.approx(loaded_bytes / 1e9 + compute_s, rel=1e-9)
    assert ssd.bins["read_bytes"].sum() == loaded_bytes
    assert ssd.bins["written_bytes"].sum() == loaded_bytes, "nothing is written twice"


def test_saves_are_dropped_when_writing_lags(hardware: ServingHardware) -> None:
    """Each prompt takes 4 s to write and one comes each second: the third would end after 10 s.

    Writes end at about 4 and 8 s; the third, at 2 s, would end at 12 s, as late as 10 s allow.
    """
    prompt_bytes = 4 * hardware.layout.block_bytes
    rate = prompt_bytes / 4.0
    slow = StorageSetup(ssd_bytes=10**12, ssd_write_bytes_per_s=rate, ssd_read_bytes_per_s=1e9)
    run = simulate(fresh_prompts(4, 1.0), hardware, slow)
    assert run.bins["written_bytes"].sum() == 3 * prompt_bytes
    assert run.bins["dropped_bytes"].sum() == prompt_bytes
    never = StorageSetup(ssd_bytes=10**12, ssd_write_bytes_per_s=1e6, ssd_read_bytes_per_s=1e9)
    assert simulate(fresh_prompts(4, 1.0), hardware, never).bins["written_bytes"].sum() == 0


def test_an_arrival_interrupts_a_decoding_batch(hardware: ServingHardware) -> None:
    """Its prompt waits for the step under way, however much steps have grown since the last one."""
    early = [(0.0, 1_000, 2_000, [2 * i, 2 * i + 1]) for i in range(100)]
    run = simulate(make_trace([*early, (20.0, 600, 1, [900, 901])]), hardware, NOTHING)
    context = 100 * 3_000.0
    step_s = step_cost(hardware.rates, 100.0, 100.0, context, context).duration_s
    own_s = step_cost(hardware.rates, 700.0, 101.0, context + 600 * 300, context).duration_s
    assert run.requests["finish_s"][0] > 20.0
    assert ttft(run)[-1] <= step_s + own_s


def test_an_overloaded_engine_says_so(hardware: ServingHardware) -> None:
    alone_s = float(ttft(simulate(fresh_prompts(1, 0.0), hardware, NOTHING))[0])
    run = simulate(fresh_prompts(20_000, alone_s / 2, output=1), hardware, NOTHING)
    assert run.overloaded is not None
    assert run.overloaded.startswith("overloaded: ")
    half_load = simulate(fresh_prompts(2_000, alone_s * 2, output=1), hardware, NOTHING)
    assert half_load.overloaded is None


def test_saturated_throughput_is_what_the_roofline_gives(hardware: ServingHardware) -> None:
    """Full chunks one after the other: the queue drains at 2,048 tokens a step."""
    count = 500
    run = simulate(fresh_prompts(count, 0.0, output=1), hardware, NOTHING)
    step_s = step_cost(hardware.rates, 2048.0, 1.0, 2048 * 2049 / 2, 0.0).duration_s
    assert run.end_s == pytest.approx(count * step_s, rel=1e-9)
    assert run.bins["busy_s"].sum() == pytest.approx(run.end_s)


def test_what_the_engine_cannot_hold_is_rejected_and_counted(hardware: ServingHardware) -> None:
    context = hardware.model.context_tokens
    hbm_tokens = int(hardware.kv_bytes // hardware.layout.block_bytes) * 512
    assert hbm_tokens > context
    trace = make_trace(
        [(0.0, context, 1, range(context // 512)), (1.0, 512, 1, [1]), (2.0, context - 1, 1, [])]
    )
    kept, rejections = admit(trace, hardware)
    assert kept.input_tokens.tolist() == [512, context - 1]
    assert (rejections.too_long_for_model, rejections.too_large_for_hbm) == (1, 0)
    with pytest.raises(InputError, match="can serve no request"):
        admit(make_trace([(0.0, context, 1, range(context // 512))]), hardware)


def test_blocks_of_another_size_are_refused(hardware: ServingHardware) -> None:
    with pytest.raises(InputError, match="blocks of 16 tokens"):
        simulate(make_trace([(0.0, 16, 1, [1])], block_tokens=16), hardware, HBM)


@given(
    trace=chats(),
    policy=st.sampled_from(list(Policy)),
    dram_blocks=st.integers(0, 40),
    ssd_blocks=st.integers(0, 80),
)
@settings(max_examples=60)
def test_every_request_is_served_and_all_room_is_given_back(
    hardware: ServingHardware,
    trace: RequestTrace,
    policy: Policy,
    dram_blocks: int,
    ssd_blocks: int,
) -> None:
    block = hardware.layout.block_bytes
    storage = StorageSetup(
        dram_bytes=dram_blocks * block,
        ssd_bytes=ssd_blocks * block,
        policy=policy,
        ssd_read_bytes_per_s=6e9,
        ssd_write_bytes_per_s=4e9,
    )
    run = simulate(trace, hardware, storage)
    requests = run.requests
    assert run.overloaded is None
    assert (requests["first_token_s"] > requests["arrival_s"]).all()
    assert (requests["finish_s"] >= requests["first_token_s"]).all()
    hits = requests["hbm_blocks"] + requests["dram_blocks"] + requests["ssd_blocks"]
    assert (hits <= trace.reusable_blocks).all()
    assert (run.bins["dram_blocks"] <= dram_blocks).all()
    assert (run.bins["ssd_blocks"] <= ssd_blocks).all()
    assert run.bins["busy_s"].sum() <= run.end_s * (1 + 1e-9)
    idle_j = hardware.rates.idle_w * run.end_s
    assert idle_j <= run.bins["gpu_j"].sum() <= hardware.rates.limit_w * run.end_s
    assert run.leases_left == 0
    again = simulate(trace, hardware, storage)
    assert again.requests.tobytes() == requests.tobytes(), "the same run gives the same result"
