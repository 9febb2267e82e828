"""What GPUs draw where nothing measures it: the power model over counts of tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from greencache.controller.performance import Rates
from greencache.controller.work import attended_positions, decode_step, prefill

__all__ = ["Modelled", "modelled_energy"]


class Modelled(NamedTuple):
    """Of all engines together.

    Attributes
    ----------
    busy_s:
        Time in which they stepped.
    prefill_s:
        Of that, for prompts.
    gpu_j:
        Energy of all GPUs, idle power included.
    """

    busy_s: float
    prefill_s: float
    gpu_j: float


def modelled_energy(
    rates: Rates,
    duration_s: float,
    *,
    requests: float,
    prompt_tokens: float,
    computed_tokens: float,
    output_tokens: float,
    running: float,
    max_batched_tokens: int,
    replicas: int = 1,
    unevenness: float = 1.0,
) -> Modelled:
    """Time and energy of an interval, from means over its requests.

    Prompts are computed as by `greencache.controller.work.prefill`; answers in steps of as many as
    ran at a time, each with half an answer behind it, as by `decode_step`. The time that both take
    is no more than the interval has, and power is at least idle and at most design power.

    Parameters
    ----------
    rates:
        Of one engine.
    duration_s:
        Length of the interval.
    requests:
        Prompts in it.
    prompt_tokens, computed_tokens, output_tokens:
        Of all prompts; of those computed, not found; of all answers.
    running:
        Answers that all engines computed at a time, on average over the time in which they did.
    max_batched_tokens:
        Tokens that a step takes.
    replicas:
        Engines.
    unevenness:
        Mean square of the prompts' lengths over the square of their mean: attention grows with the
        square, so a few long prompts take more than many middling ones.
    """
    prompts = max(requests, 1.0)
    computed = np.array(computed_tokens / prompts)
    found = np.array(max(prompt_tokens - computed_tokens, 0.0) / prompts)
    attended = attended_positions(computed, found) * max(unevenness, 1.0)
    prompt = prefill(rates, computed, attended, max_batched_tokens)
    work = computed_tokens > 0
    prefill_s, busy_j = (
        work * prompts * float(prompt.seconds),
        work * prompts * float(prompt.joules),
    )
    decode_s = 0.0
    if output_tokens > 0:
        batch = max(running / replicas, 1.0)
        context = (prompt_tokens + output_tokens / 2) / prompts
        step_s, step_j = decode_step(rates, np.array(batch), context)
        steps = output_tokens / batch
        decode_s = steps * float(step_s)
        busy_j += steps * float(step_j)
    engines_s = replicas * duration_s
    busy_s = prefill_s + decode_s
    # Counts of requests that go on into the next interval may ask for more time than there is.
    fits = min(1.0, engines_s / busy_s) if busy_s else 1.0
    most_j = (rates.limit_w - rates.idle_w) * busy_s * fits
    gpu_j = rates.idle_w * engines_s + min(busy_j * fits, most_j)
    return Modelled(busy_s * fits, min(prefill_s, engines_s), gpu_j)
