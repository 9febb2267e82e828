"""What prompts cost an engine: seconds and joules to compute what no tier has.

The linear layers, the attention and the communication of `greencache.controller.performance`,
summed over the steps that a prompt is computed in. A prompt of ``c`` tokens after a prefix of ``b``
attends to ``c * (b + (c + 1) / 2)`` positions and takes part in ``c / chunk`` steps: others share
its last one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.performance import Rates

__all__ = ["Prefill", "attended_positions", "decode_step", "prefill"]

Floats = NDArray[np.float64]


class Prefill(NamedTuple):
    """What prompts cost on an engine that does nothing else."""

    seconds: Floats
    joules: Floats
    """Above idle power."""
    chunks: Floats


class _Bounds(NamedTuple):
    """Seconds that arithmetic and memory alone would take, of linear layers and of attention."""

    linear_s: Floats
    weights_s: Floats | float
    attention_s: Floats
    kv_s: Floats


def _spent(
    rates: Rates, bounds: _Bounds, tokens: Floats, steps: Floats | float
) -> tuple[Floats, Floats]:
    """Seconds of so many steps with so many new tokens, and their joules above idle power."""
    linear_s, weights_s, attention_s, kv_s = bounds
    seconds = (
        np.maximum(linear_s, weights_s)
        + np.maximum(attention_s, kv_s)
        + rates.link_s_per_token * tokens
        + rates.overhead_s * steps
    )
    joules = rates.compute_w * (linear_s + attention_s) + rates.memory_w * (weights_s + kv_s)
    return seconds, np.minimum(joules, (rates.limit_w - rates.idle_w) * seconds)


def attended_positions(computed: Floats, prefix: Floats) -> Floats:
    """Positions that new tokens attend to, themselves included, summed over them."""
    return computed * (prefix + (computed + 1) / 2)


def prefill(rates: Rates, computed: Floats, attended: Floats, max_batched_tokens: int) -> Prefill:
    """Cost of prompts.

    Parameters
    ----------
    rates:
        The engine.
    computed:
        Tokens to compute of each prompt, or their mean.
    attended:
        Positions that these attend to, or their mean.
    max_batched_tokens:
        Tokens that one step takes.
    """
    chunks = computed / max_batched_tokens
    linear_s = (rates.flops_per_token * computed + rates.flops_per_sample) / rates.flops_per_s
    weights_s = chunks * rates.weight_bytes / rates.bytes_per_s
    attention_s = rates.flops_per_attended * attended / rates.flops_per_s
    # Each chunk reads the KV before it: of the positions attended to, one for each of its tokens.
    kv_s = rates.kv_bytes_per_token * attended / max_batched_tokens / rates.bytes_per_s
    bounds = _Bounds(linear_s, weights_s, attention_s, kv_s)
    return Prefill(*_spent(rates, bounds, computed, chunks), chunks)


def decode_step(rates: Rates, running: Floats, context_tokens: float) -> tuple[Floats, Floats]:
    """Seconds of a step without prompts, and its joules above idle power.

    Parameters
    ----------
    rates:
        The engine.
    running:
        Answers that get a token each.
    context_tokens:
        Mean length of their prompts and answers so far.
    """
    context = running * context_tokens
    linear_s = (rates.flops_per_token + rates.flops_per_sample) * running / rates.flops_per_s
    weights_s = rates.weight_bytes / rates.bytes_per_s
    attention_s = rates.flops_per_attended * context / rates.flops_per_s
    kv_s = rates.kv_bytes_per_token * context / rates.bytes_per_s
    return _spent(rates, _Bounds(linear_s, weights_s, attention_s, kv_s), running, 1.0)
