"""The simulated engine against closed forms, built from `step_cost` alone.

Only what every engine of this kind must do is relied on: a prompt is computed in chunks of at most
the step's tokens, a running answer takes a token a step, requests start first come, first served.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.bench.simulation import Batching, SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware, step_cost
from greencache.traces import RequestTrace
from tests.bench.traces import make_trace

NO_REUSE = StorageSetup(reuse_hbm=False)
CHUNK = 2048


def equal_requests(arrival_s: NDArray[np.float64], prompt: int, answer: int) -> RequestTrace:
    """Requests of equal lengths that share nothing."""
    blocks = -(-prompt // 512)
    return make_trace(
        [
            (float(at), prompt, answer, range(i * blocks, (i + 1) * blocks))
            for i, at in enumerate(arrival_s)
        ]
    )


def prefill_s(hardware: ServingHardware, prompt: int, chunk: int = CHUNK) -> float:
    """A prompt alone: its chunks, one a step, each read against what is before it."""
    total_s = 0.0
    for before in range(0, prompt, chunk):
        tokens = min(chunk, prompt - before)
        last = before + tokens == prompt
        attended = tokens * before + tokens * (tokens + 1) / 2
        total_s += step_cost(hardware.rates, tokens, float(last), attended, before).duration_s
    return total_s


def decode_s(hardware: ServingHardware, prompt: int, answer: int, running: int = 1) -> float:
    """The later tokens of ``running`` equal answers: one of each a step, over a growing context."""
    return sum(
        step_cost(hardware.rates, running, running, running * context, running * context).duration_s
        for context in range(prompt + 1, prompt + answer)
    )


@pytest.fixture(scope="module", params=["1xH100", "4xL40", "1xT4"])
def engine(request: pytest.FixtureRequest, catalog: Catalog) -> ServingHardware:
    """Fast and slow memory, with and without links between GPUs; on the T4 in 8 bits, to fit."""
    weights = "int8" if request.param == "1xT4" else "bf16"
    return serving_hardware(
        catalog,
        find_model("llama-3.1-8b"),
        request.param,
        weight_dtype=weights,
        kv_dtype="fp8",
        block_tokens=512,
    )


@pytest.mark.parametrize(("prompt", "answer"), [(1, 2), (700, 1), (2048, 300), (10_000, 2_000)])
def test_a_request_alone_takes_the_sum_of_its_steps(
    engine: ServingHardware, prompt: int, answer: int
) -> None:
    """Decode steps are linear in the context while memory bounds them: a run of them is exact."""
    request = simulate(
        equal_requests(np.zeros(1), prompt, answer),
        engine,
        NO_REUSE,
        batching=Batching(max_batched_tokens=CHUNK),
    ).requests[0]
    first_s = prefill_s(engine, prompt)
    assert request["first_token_s"] == pytest.approx(first_s, rel=1e-9)
    finish_s = first_s + decode_s(engine, prompt, answer)
    assert request["finish_s"] == pytest.approx(finish_s, rel=1e-9)


@pytest.mark.parametrize(("prompt", "answer", "running"), [(512, 512, 16), (128, 512, 32)])
def test_saturated_throughput_is_that_of_waves(
    engine: ServingHardware, prompt: int, answer: int, running: int
) -> None:
    """A full batch of equal requests starts, runs and ends nearly together, and so does the next.

    A wave takes its prompts' arithmetic and its answers' steps. They do not start quite together,
    so that a few steps carry prompts and answers both: 2 % either way covers it.
    """
    waves = 2
    run = simulate(
        equal_requests(np.zeros(waves * running), prompt, answer),
        engine,
        NO_REUSE,
        batching=Batching(max_batched_tokens=CHUNK, max_running=running),
    )
    assert run.overloaded is None
    together = CHUNK // prompt
    chunk_s = step_cost(
        engine.rates, CHUNK, together, together * prompt * (prompt + 1) / 2, 0.0
    ).duration_s
    wave_s = running / together * chunk_s + decode_s(engine, prompt, answer, running)
    throughput = waves * running * answer / float(run.requests["finish_s"].max())
    assert throughput == pytest.approx(running * answer / wave_s, rel=0.02)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_at_a_time_with_random_arrivals_is_the_md1_queue(
    hardware: ServingHardware, utilisation: float
) -> None:
    """Mean wait is that of Pollaczek and Khinchine for equal services: rho D / (2 (1 - rho)).

    Waits are correlated over about 1 / (1 - rho)**2 services, so their mean is judged by batch
    means: 50 of 2,000 requests each are nearly independent, and 4 standard errors of their mean
    are passed by chance once in 5,000 (Student's t, 49 degrees of freedom).
    """
    batches, size, warmup, prompt = 50, 2_000, 2_000, 512
    service_s = prefill_s(hardware, prompt)
    random = np.random.default_rng(7)
    arrival_s = np.cumsum(random.exponential(service_s / utilisation, batches * size + warmup))
    run = simulate(
        equal_requests(arrival_s, prompt, 1), hardware, NO_REUSE, batching=Batching(max_running=1)
    )
    ttft_s = run.requests["first_token_s"] - run.requests["arrival_s"]
    means_s = (ttft_s - service_s)[warmup:].reshape(batches, size).mean(axis=1)
    error_s = means_s.std(ddof=1) / np.sqrt(batches)
    expected_s = utilisation * service_s / (2 * (1 - utilisation))
    assert error_s < 0.05 * expected_s, "enough requests to tell"
    assert abs(means_s.mean() - expected_s) < 4 * error_s


def test_a_larger_batch_gives_more_throughput_and_longer_tokens(
    hardware: ServingHardware,
) -> None:
    """While memory bounds a decode step, each further answer costs only its own KV."""

    def served(running: int) -> SimulatedRun:
        return simulate(
            equal_requests(np.zeros(256), 128, 256),
            hardware,
            NO_REUSE,
            batching=Batching(max_running=running),
        )

    runs = [served(running) for running in (1, 4, 16, 64, 256)]
    ends_s = [float(run.requests["finish_s"].max()) for run in runs]
    itl_s = [
        float((run.requests["finish_s"] - run.requests["first_token_s"]).mean() / 255)
        for run in runs
    ]
    assert ends_s == sorted(ends_s, reverse=True)
    assert itl_s == sorted(itl_s)
